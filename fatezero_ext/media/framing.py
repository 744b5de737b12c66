"""Selects frames of a clip, and crops and scales them.

Source: the data set reader of FateZero's program (video_diffusion/data); its steps, their order and roundings are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SettingsError, VideoError, described, is_whole
from .frame_checks import FRACTIONS

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SIDE = 16384
"""Pixels of the longest side of a picture, as ComfyUI's own limit; a small file may claim any size."""
LEAST = {
    "start": 0,
    "count": 1,
    "sampling_rate": 1,
    "left": 0,
    "right": 0,
    "top": 0,
    "bottom": 0,
    "short_side": 1,
    "multiple_of": 1,
}
"""Smallest values of a framing."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """A selection of frames, and the steps applied to each: crop the margins, scale, crop to the centre, even out.

    start:         first frame, counted from 0
    count:         how many frames; None: all there are
    sampling_rate: take every n-th
    left, right, top, bottom: pixels cut off there; at least one pixel always remains
    short_side:    pixels of the shorter side after scaling; None keeps the size
    centre_square: cut the longer side off evenly at both ends, to a square
    multiple_of:   cut both sides off evenly at both ends, to multiples of this many pixels
    Raises SettingsError for values that select nothing.
    """

    start: int = 0
    count: int | None = None
    sampling_rate: int = 1
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    short_side: int | None = 512
    centre_square: bool = True
    multiple_of: int = 1

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not is_whole(value, least):
                raise SettingsError(
                    f"{name} is {described(value)}; at least {least}, a whole number, is needed. Change it."
                )
        if (self.short_side or 0) > LONGEST_SIDE:
            raise SettingsError(f"short_side is {self.short_side}; at most {LONGEST_SIDE} is allowed. Lower it.")


AS_IS = Framing(short_side=None, centre_square=False)
"""Takes all frames, unchanged."""


def frame_indices(framing: Framing, available: int, *, name: str = "the clip") -> range:
    """Indices of the frames to take from `available` ones; `name` is the clip's name in errors.

    Raises VideoError where there are too few.
    """
    reachable = range(framing.start, available, framing.sampling_rate)
    wanted = framing.count or 1
    if len(reachable) < wanted:
        raise VideoError(
            f"{name} has {available} frames, of which {len(reachable)} from frame {framing.start} on at sampling rate "
            f"{framing.sampling_rate}; {wanted} needed. Lower start, count or sampling rate."
        )
    return reachable[: framing.count]


def reframe(frames: Tensor, framing: Framing) -> Tensor:
    """Select, crop and scale frames.

    frames: [frames, height, width, channels], 0..1
    Returns [count, height, width, channels] of the same dtype; the input is not changed.
    Raises VideoError where there are too few frames, SettingsError where the scaled ones would be too long.
    """
    _check_frames(frames)
    taken = frame_indices(framing, len(frames))
    return crop_and_scale(frames[taken.start : taken.stop : taken.step], framing)


def crop_and_scale(frames: Tensor, framing: Framing) -> Tensor:
    """Crop and scale frames that are already selected.

    frames: [frames, height, width, channels], 0..1
    """
    _check_frames(frames)
    height, width = frames.shape[1:3]
    left, right = _margins(framing.left, framing.right, width)
    top, bottom = _margins(framing.top, framing.bottom, height)
    frames = frames[:, top : height - bottom, left : width - right]
    if framing.short_side is not None:
        frames = _scaled(frames, framing.short_side)
    if framing.centre_square:
        frames = _centred(frames, min(frames.shape[1:3]), min(frames.shape[1:3]))
    return _evened(frames, framing.multiple_of).contiguous()


def size_after(height: int, width: int, framing: Framing) -> tuple[int, int]:
    """Return height and width of a picture once it is cropped and scaled; raises what `crop_and_scale` does."""
    import torch

    rows, columns = crop_and_scale(torch.empty(1, height, width, 3, device="meta"), framing).shape[1:3]
    return rows, columns


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.numel() == 0:
        raise VideoError(
            f"frames have shape {list(frames.shape)}; needed is [frames, height, width, channels] with at least one "
            f"frame. Check what is connected."
        )
    if not frames.is_floating_point():
        raise VideoError(f"frames are {frames.dtype}; {FRACTIONS}")


def _margins(before: int, after: int, side: int) -> tuple[int, int]:
    """Pixels to cut off both ends of a side, so that at least one remains."""
    before = min(before, side - 1)
    return before, min(after, side - before - 1)


def _scaled(frames: Tensor, short_side: int) -> Tensor:
    """Scale frames [frames, height, width, channels] so that their shorter side is `short_side`."""
    from torch.nn.functional import interpolate

    height, width = frames.shape[1:3]
    short, long = sorted((height, width))
    # Rounding may leave a square picture one pixel short of square, which the published program cannot crop.
    length = max(short_side, int(short_side / short * long))
    if length > LONGEST_SIDE:  # a sliver scaled to a usual short side would fill the memory
        raise SettingsError(
            f"{height}x{width} pixels, scaled to a short side of {short_side}, would be {length} long; at most "
            f"{LONGEST_SIDE} is allowed. Choose a smaller size, or cut the longer side."
        )
    size = (short_side, length) if height < width else (length, short_side)
    if size == (height, width):
        return frames
    images = frames.movedim(-1, 1)
    return interpolate(images, size=size, mode="bilinear", antialias=True).movedim(1, -1)


def _evened(frames: Tensor, multiple: int) -> Tensor:
    height, width = frames.shape[1:3]
    if min(height, width) < multiple:
        raise SettingsError(
            f"frames of {width}x{height} pixels hold no {multiple} pixels a side, to which they are to be cut; at "
            f"least as many are needed. Raise the short side, or lower multiple_of."
        )
    return _centred(frames, height - height % multiple, width - width % multiple)


def _centred(frames: Tensor, rows: int, columns: int) -> Tensor:
    height, width = frames.shape[1:3]
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


def same_proportions(height: int, width: int, rows: int, columns: int) -> bool:
    """True if height / width is rows / columns, up to a rounding of one row or column."""
    down, across = height / rows, width / columns
    return min(height, width) > 0 and abs(down - across) < max(down / rows, across / columns)
