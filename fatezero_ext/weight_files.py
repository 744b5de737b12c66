"""Tensors by name out of files that strangers made: safetensors, and pickles that hold nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import ModelError

PICKLES_SAFE_FROM = "2.6"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle that holds nothing else; raises ModelError for others."""
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (OSError, SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); safetensors weights are needed. Convert or restore the file."
        ) from error
    foreign = [str(key) for key, value in weights.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if foreign:
        raise ModelError(
            f"{path} holds more than tensors by name: {some(foreign)}; a UNet's state dict is needed. Save it with "
            f"save_pretrained, or as safetensors."
        )
    return weights


def _unpickled(path: Path) -> dict[object, object]:
    """A pickle that may hold tensors and plain containers only: code in it is refused, not run."""
    check_pickles_are_safe(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything; torch's message tells how to open a bad one anyway
        raise UnpicklingError("it is a damaged pickle, or one that holds more than tensors") from error
    if not isinstance(weights, dict):
        raise UnpicklingError(f"it holds {type(weights).__name__}, not tensors by name")
    return weights


def check_pickles_are_safe(path: Path) -> None:
    """Raise ModelError where torch's `weights_only` can be tricked into running code (CVE-2025-32434)."""
    if torch.__version__ < PICKLES_SAFE_FROM:
        raise ModelError(
            f"{path} has pickled weights, which torch {torch.__version__} cannot open safely; torch "
            f"{PICKLES_SAFE_FROM} or safetensors are needed. Update torch or convert the file."
        )


def some(keys: Sequence[str]) -> str:
    """How many keys, and the first of them, for an error's text."""
    shown = ", ".join(keys[:3])
    return "nothing" if not keys else f"{len(keys)} keys ({shown}{', ...' if len(keys) > 3 else ''})"
