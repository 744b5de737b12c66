"""Pairs of a source and its edit: whether they fit each other, and which of their pixels are compared."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import VideoError, described
from ..media.frame_checks import check_frames
from ..media.frame_files import NO_MASK
from ..media.framing import same_proportions

BROKEN_IMPORT = (ImportError, OSError, AttributeError, RuntimeError)
"""Errors of packages that are installed but lack a library, or were built for another version of one."""
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
"""Pixels: the Gaussian that the authors of SSIM weigh neighbours with, and where they cut it off."""


class NotMeasured(Exception):
    """The reason why a figure was not measured, as a clause of a sentence."""


def optional_module(name: str, package: str) -> Any:  # noqa: ANN401 - modules without types
    """Import a module of an extra; raise NotMeasured where its package is missing, or installed and broken."""
    try:
        return import_module(name)
    except BROKEN_IMPORT as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise NotMeasured(f"it needs {package}") from error
        raise NotMeasured(f"{package} is installed but cannot be imported: {error}") from error


def check_clips(source: Tensor, edited: Tensor) -> None:
    """Raise VideoError unless both are clips [frames, height, width, 3] of one size, large enough to compare."""
    for name, clip in (("source", source), ("edited", edited)):
        check_frames(clip, f"the {name} clip")
        if not clip.isfinite().all():
            raise VideoError(f"the {name} clip holds values that are not numbers; needed is 0..1. Check its model.")
    if source.shape != edited.shape:
        raise VideoError(
            f"source and edited differ: {_named(source)} and {_named(edited)}; both need the same frames and size. "
            f"Take as many frames of both, scaled and cropped alike."
        )
    if min(source.shape[1:3]) < SSIM_WINDOW:
        raise VideoError(
            f"the clips are {_named(source)}; structural similarity needs sides of at least {SSIM_WINDOW} pixels. "
            f"Use larger frames."
        )


def _named(clip: Tensor) -> str:
    return f"{len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}"


def compared_pixels(mask: Tensor | None, source: Tensor) -> Tensor:
    """Mark the pixels that are compared: booleans [frames, height, width]."""
    frames, height, width = source.shape[:3]
    if mask is None:
        return torch.ones(frames, height, width, dtype=torch.bool)
    if not isinstance(mask, Tensor):
        raise VideoError(
            f"the mask is {described(mask)}; a tensor [frames, height, width] with values 0..1, or None, is needed. "
            f"Convert it."
        )
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.numel() == 0 or len(mask) not in (1, frames):
        raise VideoError(
            f"the mask has shape {list(mask.shape)}; needed is [frames, height, width] with 1 frame or {frames}, as "
            f"the clips have. Make the mask of the same frames."
        )
    if not mask.isfinite().all():
        raise VideoError("the mask holds values that are not numbers; needed is 0..1. Check where it comes from.")
    rows, columns = mask.shape[1:]
    no_mask = (rows, columns) == NO_MASK and not mask.any()
    if not no_mask and not same_proportions(rows, columns, height, width):
        raise VideoError(
            f"the mask is {mask.shape[2]}x{mask.shape[1]}, the clips are {width}x{height}; a mask of the same "
            f"proportions is needed. Crop or scale the mask as the clips were."
        )
    scaled = interpolate(mask[:, None].to("cpu", torch.float32), size=(height, width), mode="nearest-exact")[:, 0]
    return (scaled < 0.5).expand(frames, height, width)
