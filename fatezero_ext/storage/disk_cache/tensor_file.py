"""Files of tensors whose every byte is checked: safetensors, written and hashed in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from ...errors import StoreError
from ..paged_tensor import PagedTensor, pieces
from .manifest import FileLine, plain_size

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
Held = Tensor | PagedTensor
HEADER_ALIGNMENT = 8  # bytes, of the safetensors format
READ_BYTES = 2**20


class DamagedFile(StoreError):
    """A saved file is missing or not what was written; what it held must be computed again.

    reason: what is wrong with the file, a clause
    """

    def __init__(self, place: Path, reason: str) -> None:
        super().__init__(
            f"{place} is damaged ({reason}); what it held must be computed again. "
            f"`python -m fatezero_ext cache verify` finds every damaged file."
        )
        self.reason = reason


def header_and_order(tensors: Mapping[str, Held]) -> tuple[bytes, list[Held]]:
    """Header of a safetensors file, and the tensors in the order in which their bytes follow.

    Not left to safetensors.torch.save_file: it refuses tensors that share memory, and the file would have to be read
    again for its checksum. Before 0.8 it also holds two more copies of everything; ComfyUI asks for 0.4.2 or later.
    Tests read the files with the library.
    Raises StoreError for a dtype or a name that cannot be written.
    Source: https://github.com/huggingface/safetensors#format
    """
    entries, order, end = {}, [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):  # keeps all aligned
        if tensor.dtype not in DTYPES or name == "__metadata__":
            raise StoreError(
                f"the tensor {name!r} is of {tensor.dtype}; saving takes any name but __metadata__ and the dtypes "
                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}. Convert or rename it."
            )
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        order.append(tensor)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, order


def file_bytes(tensors: Mapping[str, Held]) -> int:
    """Size of the file that `write_tensors` would write."""
    header, order = header_and_order(tensors)
    return len(header) + sum(tensor.nbytes for tensor in order)


def write_tensors(path: Path, tensors: Mapping[str, Held]) -> FileLine:
    """Write a safetensors file; at most one tensor is copied at a time, where it is not contiguous.

    The file is not flushed to the disk: if a power loss tears it, it no longer matches its checksum and is computed
    again.
    """
    header, order = header_and_order(tensors)
    digest, nbytes = blake3(), 0
    with path.open("wb") as file:
        for part in _parts(header, order):
            digest.update(part)
            nbytes += file.write(part)
    return FileLine(nbytes=nbytes, blake3=digest.hexdigest())


def _parts(header: bytes, order: list[Held]) -> Iterator[bytes | memoryview]:
    yield header
    for tensor in order:
        yield from pieces(tensor if isinstance(tensor, PagedTensor) else tensor.contiguous())


def read_tensors(path: Path, line: FileLine) -> dict[str, Tensor]:
    """Read a file once, and make tensors of the very bytes that were checked. Raises DamagedFile."""
    with _noticing_damage(path):
        _check_size(path, line)
        contents = path.read_bytes()
        _check_digest(blake3(contents).hexdigest(), line)
        return load(contents)


def read_into(path: Path, line: FileLine, room: Callable[[str, Sequence[int], torch.dtype], Held]) -> dict[str, Tensor]:
    """Read a file into tensors that `room` makes by name, shape and dtype, a piece at a time. Raises DamagedFile."""
    check_tensors(path, line)  # before its header is believed
    found: dict[str, Tensor] = {}
    with _noticing_damage(path), path.open("rb") as file:
        size = file.read(HEADER_ALIGNMENT)
        header = file.read(int.from_bytes(size, "little"))
        digest = blake3(size + header)
        entries = json.loads(header)
        for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
            held = room(name, entries[name]["shape"], _DTYPES_BY_NAME[entries[name]["dtype"]])
            for piece in pieces(held):
                file.readinto(piece)
                digest.update(piece)
            found[name] = held.tensor if isinstance(held, PagedTensor) else held
        _check_digest(digest.hexdigest(), line)
    return found


def check_tensors(path: Path, line: FileLine) -> None:
    """Raise DamagedFile if a file is not what was written; needs little memory."""
    with _noticing_damage(path):
        _check_size(path, line)
        digest = blake3()
        with path.open("rb") as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
        _check_digest(digest.hexdigest(), line)


def tensor_names(path: Path) -> tuple[str, ...]:
    """Names of the tensors in a file. Raises DamagedFile."""
    with _noticing_damage(path), safe_open(path, framework="pt") as file:
        return tuple(file.keys())


@contextmanager
def _noticing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
    except _Difference as difference:
        reason = str(difference)
    except (SafetensorError, ValueError, KeyError, RuntimeError):  # checksum and size match: written so by a stranger
        reason = "it holds no tensors"
    else:
        return
    raise DamagedFile(path, reason)


class _Difference(Exception):
    pass


def _check_size(path: Path, line: FileLine) -> None:
    if (size := plain_size(path)) != line.nbytes:
        raise _Difference(f"it has {size} bytes instead of {line.nbytes}")


def _check_digest(digest: str, line: FileLine) -> None:
    if digest != line.blake3:
        raise _Difference("its bytes do not match their checksum")
