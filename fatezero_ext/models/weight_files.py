"""Tensors by name from untrusted files: safetensors, and pickles that hold nothing else."""

from __future__ import annotations

import math
import threading
from _codecs import encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from ..untrusted.plain_files import plain_size, shown
from .weight_pickles import DAMAGED as DAMAGED_PICKLE
from .weight_pickles import check_pickle, is_archive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PICKLES_SAFE_FROM = "2.6"
SAFETENSORS = (".safetensors", ".sft")
WEIGHT_SUFFIXES = (*SAFETENSORS, ".ckpt", ".pt", ".pth", ".bin")
HEADER_LENGTH = 8  # bytes that say how long the header is
HEADER_BYTES = 16 * 2**20
"""Most bytes of a safetensors file's names and shapes; those of Stable Diffusion's largest files take 300,000."""
DAMAGED = "it is damaged or cut off, or of a format that the installed safetensors and torch do not know"
IDLE = (int, float, str, bytes, type(None), np.generic, Mapping, list, tuple)
"""Types that training programs leave beside their tensors; they are skipped."""
_LOADING = threading.Lock()
WINDOW = 256 * 2**20  # bytes of a file that are mapped at once: what was read is let go before more is


class WeightFile:
    """A file of weights whose tensors are read on demand.

    path:     the file
    shapes:   of its tensors by name, known without reading them (a pickle is mapped, if it can be)
    metadata: of a safetensors file; empty for a pickle
    """

    def __init__(self, path: str | Path) -> None:
        """Raises ModelError for a file that cannot be read, is cut off, or holds more than tensors."""
        self.path = Path(path)
        self._pickled: Mapping[str, Tensor] | None = None
        self.metadata: Mapping[str, str] = {}
        size = plain_size(self.path)
        if self.path.suffix.lower() in SAFETENSORS:
            with _readable(self.path):
                _check_header(self.path, size)
                with safe_open(self.path, "np") as file:  # a header is read without torch
                    self.metadata = file.metadata() or {}
                    self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        else:
            with _readable(self.path):
                held = _unpickled(self.path)
            self._pickled = _tensors(held, self.path)
            self.shapes = {name: tuple(x.shape) for name, x in self._pickled.items()}

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read tensors into memory of their own, so that the file may change or be deleted.

        dtype: for floating-point tensors; None: as in the file
        """
        names = list(names)
        if self._pickled is not None:
            return {name: _own(self._pickled[name], dtype) for name in names}
        found: dict[str, Tensor] = {}
        for window in self._windows(names):
            with _readable(self.path), safe_open(self.path, "pt") as file:
                for name in window:
                    found[name] = _own(file.get_tensor(name), dtype)
        return found

    def _windows(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Split names into groups, so that little of the file is mapped at once; assumes four bytes a number."""
        window: list[str] = []
        size = 0
        for name in names:
            window.append(name)
            size += 4 * math.prod(self.shapes[name])
            if size >= WINDOW:
                yield window
                window, size = [], 0
        if window:
            yield window


def _own(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.to(dtype if dtype is not None and x.is_floating_point() else x.dtype, copy=True)


def _tensors(weights: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict; training programs nest it in another dict, or add numbers beside it."""
    from torch import Tensor

    inner = weights.get("state_dict")
    if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
        weights = inner
    found = {key: x for key, x in weights.items() if isinstance(key, str) and isinstance(x, Tensor)}
    beside = {key: value for key, value in weights.items() if not isinstance(key, str) or key not in found}
    foreign = [shown(key) for key, value in beside.items() if not found or not isinstance(value, IDLE)]
    if foreign or not found:
        raise ModelError(
            f"{path} holds {f'more than tensors by name: {brief(foreign)}' if foreign else 'no tensors by name'}; a "
            f"state dict is needed. Save it with save_pretrained, or as safetensors."
        )
    if repeated := [name for name, x in found.items() if not _is_stored(x)]:
        raise ModelError(
            f"{path} has tensors that are larger than what is stored of them: {brief(repeated)}; plain ones are "
            f"needed. Convert or restore the file."
        )
    return found


def _is_stored(x: Tensor) -> bool:
    """Return whether each number is stored: a pickle may claim terabytes that repeat one number."""
    import torch

    plain = x.layout is torch.strided and x.device.type == "cpu"
    return plain and x.nbytes <= x.untyped_storage().nbytes()


def _check_header(path: Path, size: int) -> None:
    """Check the header length that a safetensors file claims before the library reads it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
    if size < HEADER_LENGTH or length > size - HEADER_LENGTH:
        raise UnpicklingError(DAMAGED)
    if length > HEADER_BYTES:
        raise UnpicklingError(f"its header alone takes {length:,} bytes, where {HEADER_BYTES:,} hold any model's")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the libraries' errors about an unreadable file into ModelError, which keeps them as its cause."""
    try:
        yield
    except ModelError:
        raise
    except UnpicklingError as error:
        raise _unreadable(path, str(error)) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or DAMAGED) from error
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, DAMAGED) from error


def _unreadable(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} cannot be read ({why}); safetensors weights are needed. Convert or restore the file.")


def _unpickled(path: Path) -> dict[object, object]:
    """Load a pickle of tensors and plain containers; code in it is refused, not run."""
    import torch

    check_pickles_are_safe(path)
    check_pickle(path)
    try:
        with _idle_globals_allowed():
            # What torch wrote before 1.6 cannot be mapped.
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything; torch's message tells how to open a bad one anyway
        raise UnpicklingError(DAMAGED_PICKLE) from error
    if not isinstance(weights, dict):
        raise UnpicklingError(f"it holds {type(weights).__name__}, not tensors by name")
    return weights


@contextmanager
def _idle_globals_allowed() -> Iterator[None]:
    """Allow `_idle_globals` in torch's list, which all threads and programs share.

    One thread at a time adds ours and removes them; names that another program has added stay.
    """
    import torch

    with _LOADING:
        allowed = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([each for each in _idle_globals() if each not in allowed]):
            yield


def _idle_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return globals that training scripts leave in checkpoints and that are safe to unpickle: NumPy scalars, and
    Lightning's ModelCheckpoint (mapped to an empty class).
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    named.append((_Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"))
    return [*named, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, encode]


class _Callback:
    """Empty stand-in for Lightning's ModelCheckpoint."""


def check_pickles_are_safe(path: Path) -> None:
    """Raise ModelError where torch's `weights_only` can be tricked into running code (CVE-2025-32434)."""
    import torch

    if torch.__version__ < PICKLES_SAFE_FROM:
        raise ModelError(
            f"{path} has pickled weights, which torch {torch.__version__} cannot open safely; torch "
            f"{PICKLES_SAFE_FROM} or safetensors are needed. Update torch or convert the file."
        )


def brief(keys: Sequence[str]) -> str:
    """Return the number of keys and the first of them, for an error's text."""
    first = ", ".join(shown(key) for key in keys[:3])
    return "nothing" if not keys else f"{len(keys)} keys ({first}{', ...' if len(keys) > 3 else ''})"
