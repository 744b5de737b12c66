"""Check of pickled weights before torch opens them: nothing is run, unpacked or allocated.

torch's `weights_only` runs no code, but it inflates archives, makes whatever a pickle asks for (`bytearray(10**10)`),
and hashes tuples that hold each other a billion times. A state dict needs nothing of that.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from pickletools import OpcodeInfo, genops, opcodes
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

PICKLE_BYTES = 16 * 2**20
"""Most bytes of names and shapes; those of Stable Diffusion's training checkpoints take three million."""
OPERATIONS = 600_000
"""Most steps of a pickle; the same checkpoints take 200,000."""
DIRECTORY_BYTES = 16 * 2**20
KEY_PARTS = 100  # of a dictionary's key, with all that it holds
TUPLE_PARTS = 1000
"""Most things in a tuple, with all that it holds; a tensor's hold twenty, the state of Python's random 630."""
DIMENSIONS = 16
"""Most dimensions of a tensor; weights have at most five. One tuple may be the shape of a hundred thousand tensors."""
DEVICE_NAME = 16
COPIED = 2 * OPERATIONS
"""Most steps of a pickle whose results are copied, each counted as often as that happens: a counter copies a dict."""
ENCODED = 256  # letters of a text that is made bytes; numbers of numpy's take eight
LEGACY_PICKLES = 5  # magic number, version, system, weights, names of the storages
END_OF_ARCHIVE = struct.Struct("<4s4H2LH")
END_MARK, LARGE_END_MARK, LARGE_END_BYTES = b"PK\x05\x06", b"PK\x06\x07", 76
NUMPY_NUMBER = re.compile(r"[<>=|]?[biuf][1248]")
REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
ORDERED, ENCODE, NUMPY_DTYPE, SIZE = "collections.OrderedDict", "_codecs.encode", "numpy.dtype", "torch.Size"
REBUILT = frozenset(f"torch._utils.{name}" for name in REBUILDERS)
COUNTER, DEVICE = "collections.Counter", "torch.device"
CALLED = {*REBUILT, *SCALARS, ORDERED, ENCODE, NUMPY_DTYPE, SIZE, COUNTER, DEVICE}
"""Functions of a state dict, and of the numbers that training programs leave beside it."""
OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD APPEND APPENDS SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE "
    "NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1".split()
)
TAKEN = {each.name: [slot.name for slot in each.stack_before] for each in opcodes if each.name in OPCODES}
"""Names of what each operation takes off the stack, in order."""


class Named(NamedTuple):
    """A class or function that a pickle names."""

    name: str


class Item(NamedTuple):
    """Item on a pickle's stack.

    parts: how many things it is made of, each counted as often as it is met
    value: the thing itself if it is text, a number, a name, a shape or a short tuple; TENSOR, STORAGE, DICT; else None
    """

    parts: int
    value: Any = None


MARK, ONE, TENSOR, STORAGE, DICT = Item(0), Item(1), object(), object(), object()
PLAIN = frozenset("NONE NEWFALSE NEWTRUE EMPTY_LIST BINFLOAT".split())
"""Operations that give something new, whose value does not matter here."""
DAMAGED = "it is a damaged pickle, or one that holds more than tensors"


def is_archive(path: Path) -> bool:
    """Return whether a pickle of weights is an archive with the numbers beside it, as torch writes since 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_pickle(path: Path) -> None:
    """Raise UnpicklingError unless this is a state dict that torch opens without needing more memory than its size."""
    size = path.stat().st_size
    try:
        if is_archive(path):
            _check_archive(path, size)
            return
        with path.open("rb") as file:
            if file.read(1) != b"\x80":
                raise UnpicklingError(DAMAGED)
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                _check_operations(file, size)
    except (OSError, MemoryError, UnpicklingError):
        raise
    except Exception as error:  # what reads damaged archives and pickles raises anything
        raise UnpicklingError(DAMAGED) from error


def _check_archive(path: Path, size: int) -> None:
    with path.open("rb") as file:
        _check_directory(file, size)
        with ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size)
            pickled = members[0].filename.partition("/")[0] + "/data.pkl"
            if archive.getinfo(pickled).file_size > PICKLE_BYTES:
                raise UnpicklingError(f"its names and shapes alone take more than {PICKLE_BYTES:,} bytes")
            _check_operations(BytesIO(archive.read(pickled)), size)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Require one directory, of bounded size, at the very end: other programs could find another one elsewhere."""
    file.seek(-min(size, END_OF_ARCHIVE.size), 2)
    mark, *_, length, offset, comment = END_OF_ARCHIVE.unpack(file.read())
    end = size - END_OF_ARCHIVE.size
    file.seek(max(0, end - LARGE_END_BYTES))
    large = file.read(LARGE_END_BYTES)
    if large[56:60] == LARGE_END_MARK:
        end -= LARGE_END_BYTES
        length, offset = struct.unpack("<2Q", large[40:56])
        if struct.unpack("<Q", large[64:72])[0] != end:
            raise UnpicklingError(DAMAGED)
    if mark != END_MARK or comment or length + offset != end:
        raise UnpicklingError(DAMAGED)
    if length > DIRECTORY_BYTES:
        raise UnpicklingError(f"its table of contents alone takes {length:,} bytes")


def _check_members(members: Sequence[ZipInfo], size: int) -> None:
    names = [member.filename.lower() for member in members]  # torch does not tell cases apart
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnpicklingError("it is a TorchScript program, not weights")
    root = names[0].partition("/")[0] + "/"
    if len(set(names)) != len(names) or not all(name.startswith(root) for name in names):
        raise UnpicklingError(DAMAGED)
    packed = [member for member in members if member.compress_type != ZIP_STORED or member.flag_bits & 1]
    if packed:
        unpacked = sum(member.file_size for member in members)
        raise UnpicklingError(f"it is compressed, to be unpacked to {unpacked:,} bytes, which torch never does")
    if sum(member.file_size for member in members) > size:
        raise UnpicklingError(DAMAGED)


def _check_operations(stream: BinaryIO, size: int) -> None:
    """Follow one pickle on a stack of our own; size: bytes of the file, which the storages cannot exceed."""
    stack: list[Item] = []
    memo: dict[object, Item] = {}
    storages: dict[object, int] = {}
    start, copied = stream.tell(), 0
    for number, (operation, argument, at) in enumerate(genops(stream)):
        if operation.name not in OPCODES or number > OPERATIONS or (at or 0) - start > PICKLE_BYTES:
            raise UnpicklingError(DAMAGED)
        if operation.name == "REDUCE" and stack[-2].value == Named(COUNTER):
            copied += number
            if copied > COPIED:
                raise UnpicklingError(DAMAGED)
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            if stack[-1] is MARK:
                raise UnpicklingError(DAMAGED)
            memo[argument] = stack[-1]
        elif operation.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif operation.name == "MARK":
            stack.append(MARK)
        elif operation.name == "EMPTY_DICT":
            stack.append(Item(1, DICT))
        elif operation.name in PLAIN:
            stack.append(ONE)
        else:
            _step(operation, argument, stack, storages)
    if sum(storages.values()) > size:
        raise UnpicklingError(f"it claims {sum(storages.values()):,} numbers, more than a file of {size:,} bytes has")


def _step(operation: OpcodeInfo, argument: object, stack: list[Item], storages: dict[object, int]) -> None:
    name = operation.name
    taken = _taken(TAKEN[name], stack)
    if name == "GLOBAL":
        stack.append(Item(1, _allowed(str(argument).replace(" ", "."))))
    elif name == "REDUCE":
        stack.append(Item(1, _called(*(item.value for item in taken))))
    elif name == "BINPERSID":
        _add_storage(taken[0].value, storages)
        stack.append(Item(1, STORAGE))
    elif name.startswith("TUPLE"):
        parts = 1 + sum(item.parts for item in taken)
        if parts > TUPLE_PARTS:
            raise UnpicklingError(f"it has tuples of more than {TUPLE_PARTS:,} things, with all that they hold")
        stack.append(Item(parts, tuple(item.value for item in taken)))
    elif name in ("SETITEM", "SETITEMS"):
        keys = taken[1::2]
        if any(key.parts > KEY_PARTS for key in keys):
            raise UnpicklingError("it has tuples that hold each other over and over")
        stack.append(taken[0])
    elif name in ("APPEND", "APPENDS", "BUILD"):
        if name == "BUILD" and taken[0].value is TENSOR:  # a shape of any length, past what is checked here
            raise UnpicklingError(DAMAGED)
        stack.append(taken[0])
    elif operation.stack_after:
        stack.append(Item(1, argument if name != "EMPTY_TUPLE" else ()))


def _add_storage(named: tuple[Any, ...], storages: dict[object, int]) -> None:
    _, _, key, _, count, *_ = named
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise UnpicklingError(DAMAGED)
    storages[key] = max(count, storages.get(key, 0))


def _taken(before: Sequence[str], stack: list[Item]) -> list[Item]:
    """Take an operation's arguments off the stack, in order, without the mark."""
    if not before:
        return []
    if "mark" not in before:
        count = len(before)
        taken = stack[len(stack) - count :]
        if len(taken) != count or any(item is MARK for item in taken):
            raise UnpicklingError(DAMAGED)
        del stack[len(stack) - count :]
        return taken
    mark = len(stack) - 1
    while stack[mark] is not MARK:
        mark -= 1  # ends with IndexError where there is no mark
        if mark < 0:
            raise UnpicklingError(DAMAGED)
    under = before.index("mark")
    taken = [*stack[mark - under : mark], *stack[mark + 1 :]]
    del stack[mark - under :]
    return taken


def _allowed(name: str) -> Named:
    import torch

    module, _, last = name.rpartition(".")
    of_torch = module == "torch" and (last.endswith("Storage") or isinstance(getattr(torch, last, None), torch.dtype))
    if of_torch or name in CALLED or name in (CALLBACK, "torch.storage.UntypedStorage"):
        return Named(name)
    raise UnpicklingError(f"it holds {name[:80]!r}, which is no part of tensors; code in it is not run")


def _called(function: object, arguments: object) -> object:
    """Return the value of a call; raises UnpicklingError for calls that no state dict needs."""
    name = function.name if isinstance(function, Named) else ""
    fits = name in CALLED and isinstance(arguments, tuple)
    parts: tuple[Any, ...] = arguments if isinstance(arguments, tuple) else ()
    if name == ORDERED:
        fits = arguments == ()
    elif name == ENCODE:  # bytes, as the second protocol writes them
        text = parts[0] if fits and parts else None
        fits = isinstance(text, str) and len(text) <= ENCODED and parts[1:] in (("latin1",), ("latin-1",))
    elif name == NUMPY_DTYPE:
        fits = fits and isinstance(parts[0], str) and bool(NUMPY_NUMBER.fullmatch(parts[0]))
    elif name == COUNTER:
        fits = arguments == (DICT,)  # of bounded keys; things of a list would be hashed anew
    elif name == DEVICE:
        fits = fits and isinstance(parts[0], str) and len(parts[0]) <= DEVICE_NAME and len(parts) <= 2
    elif name == SIZE:
        fits = fits and len(parts) == 1 and _is_shape(parts[0])
    elif name in REBUILT and not name.endswith("_parameter"):
        fits = fits and all(_is_shape(part) for part in parts[2:4])
    if not fits:
        raise UnpicklingError(DAMAGED)
    return TENSOR if name in REBUILT else parts[0] if name == SIZE else None


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= DIMENSIONS
