"""Which frames of a clip are taken, and how they are cropped and scaled.

Source: the data set reader of FateZero's program (video_diffusion/data); its steps, their order and roundings are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError, VideoError
from .frame_files import ANIMATION_ENDINGS, PICTURE_ENDINGS, animation, picture_count, read_picture
from .video import LONGEST_SIDE, read_video

if TYPE_CHECKING:
    from torch import Tensor

LEAST = {
    "start": 0,
    "count": 1,
    "sampling_rate": 1,
    "left": 0,
    "right": 0,
    "top": 0,
    "bottom": 0,
    "short_side": 1,
}
"""Smallest values of a framing."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Which frames to take, and what to make of each: crop the margins, scale, crop to the centre.

    start:         first frame, counted from 0
    count:         how many frames; None: all there are
    sampling_rate: take every n-th
    left, right, top, bottom: pixels cut off there; at least one pixel always remains
    short_side:    pixels of the shorter side after scaling; None keeps the size
    centre_square: cut the longer side off evenly at both ends, to a square
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

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}; at least {least} is needed. Raise it.")
        if (self.short_side or 0) > LONGEST_SIDE:
            raise SettingsError(f"short_side is {self.short_side}; at most {LONGEST_SIDE} is allowed. Lower it.")


AS_IS = Framing(short_side=None, centre_square=False)
"""All frames, unchanged."""


def frame_indices(framing: Framing, available: int, *, name: str = "the clip") -> range:
    """The frames that are taken of `available` ones; `name` says in errors whose they are.

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
    """Take, crop and scale frames.

    frames: [frames, height, width, channels], 0..1
    Returns [count, height, width, channels] of the same dtype; the input is not changed.
    Raises VideoError where there are too few frames, SettingsError where the scaled ones would be too long.
    """
    _check_frames(frames)
    taken = frame_indices(framing, len(frames))
    return fit(frames[taken.start : taken.stop : taken.step], framing)


def fit(frames: Tensor, framing: Framing) -> Tensor:
    """Crop and scale all the frames; whose and how many they are is settled already.

    frames: [frames, height, width, channels], 0..1
    """
    _check_frames(frames)
    height, width = frames.shape[1:3]
    left, right = _margins(framing.left, framing.right, width)
    top, bottom = _margins(framing.top, framing.bottom, height)
    frames = frames[:, top : height - bottom, left : width - right]
    if framing.short_side is not None:
        frames = _scaled(frames, framing.short_side)
    return (_centre_square(frames) if framing.centre_square else frames).contiguous()


def _check_frames(frames: Tensor) -> None:
    if frames.ndim != 4 or frames.numel() == 0:
        raise VideoError(
            f"frames have shape {list(frames.shape)}; needed is [frames, height, width, channels] with at least one "
            f"frame. Check what is connected."
        )


def _margins(before: int, after: int, side: int) -> tuple[int, int]:
    """Pixels to cut off both ends of a side, so that at least one remains."""
    before = min(before, side - 1)
    return before, min(after, side - before - 1)


def _scaled(frames: Tensor, short_side: int) -> Tensor:
    """frames [frames, height, width, channels] with their shorter side scaled to `short_side`."""
    from torch.nn.functional import interpolate

    height, width = frames.shape[1:3]
    short, long = sorted((height, width))
    # Rounding may leave a square picture one pixel short of square, which the published program cannot crop.
    length = max(short_side, int(short_side / short * long))
    if length > LONGEST_SIDE:  # a sliver scaled to a usual short side would fill the memory
        raise SettingsError(
            f"{height}x{width} pixels, scaled to a short side of {short_side}, would be {length} long; at most "
            f"{LONGEST_SIDE} is allowed. Crop less, or lower the short side."
        )
    size = (short_side, length) if height < width else (length, short_side)
    if size == (height, width):
        return frames
    images = frames.movedim(-1, 1)
    return interpolate(images, size=size, mode="bilinear", antialias=True).movedim(1, -1)


def _centre_square(frames: Tensor) -> Tensor:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def read_frames(path: Path | str, framing: Framing) -> tuple[Tensor, Fraction | None]:
    """Frames of a folder of pictures, a video, an animated picture or a still one, and their rate.

    Returns frames [count, height, width, 3], float32, 0..1, and the rate divided by the sampling rate; None: files of
    still pictures have none.
    Raises VideoError where the source cannot be read or has too few frames.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path, framing), None
    if path.suffix.lower() in ANIMATION_ENDINGS:
        return read_animation(path, framing)
    return read_video(
        path,
        start=framing.start,
        count=framing.count,
        stride=framing.sampling_rate,
        fit=lambda frame: fit(frame, framing),
    )


def read_animation(path: Path, framing: Framing) -> tuple[Tensor, Fraction | None]:
    """Frames of an animated picture, and their rate; a still picture is one frame without a rate.

    Pictures may last differently long; the rate lets those from the first to the last that is taken last as long
    together as in the file.
    Returns as `read_frames` does, and raises as it does.
    """
    import torch

    count = picture_count(path)
    taken = frame_indices(framing, count, name=str(path))

    frames: list[Tensor] = []
    size, together = None, Fraction(0)
    for picture, milliseconds in animation(path, taken):
        together += milliseconds
        if picture is None:
            continue
        size = size or _size(picture)
        if _size(picture) != size:
            raise VideoError(
                f"{path} holds pictures of {size} and {_size(picture)} pixels; all frames need one size. Scale them "
                f"alike."
            )
        frames.append(fit(picture[None], framing))
    if count == 1 or not together:
        return torch.cat(frames), None
    return torch.cat(frames), 1000 * (taken[-1] + 1 - taken.start) / together / framing.sampling_rate


def read_folder(folder: Path | str, framing: Framing) -> Tensor:
    """The pictures of a folder as frames, in the order of their names; only those taken are opened.

    Returns [count, height, width, 3], float32, 0..1.
    Raises VideoError for a folder that is not there, has too few pictures, one that cannot be read, or other sizes.
    """
    import torch

    folder = Path(folder)
    pictures = pictures_in(folder)
    taken = [pictures[index] for index in frame_indices(framing, len(pictures), name=str(folder))]
    first = read_picture(taken[0])
    frames = [fit(first[None], framing)]
    for path in taken[1:]:
        picture = read_picture(path)
        if picture.shape != first.shape:
            raise VideoError(
                f"{path} is {_size(picture)} pixels, {taken[0].name} before it {_size(first)}; all frames need one "
                f"size. Scale the pictures alike, or take out those that do not belong."
            )
        frames.append(fit(picture[None], framing))
    return torch.cat(frames)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def pictures_in(folder: Path) -> list[Path]:
    """The pictures right inside a folder by name, numbers in names by value: 2.png comes before 10.png.

    Raises VideoError where the folder cannot be read or holds none.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise VideoError(
            f"cannot read the folder {folder}: {error.strerror or error}; a folder of pictures is needed. "
            f"Check the path."
        ) from error
    pictures = [entry for entry in entries if entry.suffix.lower() in PICTURE_ENDINGS]
    if not pictures:
        raise VideoError(
            f"{folder} holds {len(entries)} files and no picture; at least one of the kinds "
            f"{' '.join(sorted(PICTURE_ENDINGS))} is needed. Choose another folder."
        )
    return sorted(pictures, key=_by_number)


def _by_number(path: Path) -> tuple[list[str | int], str]:
    """Text at even places and numbers at odd ones; the name itself settles what is left, such as 1.png and 01.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name
