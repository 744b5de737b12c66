"""Clips read from folders of pictures, videos and animated pictures, cropped and scaled while they are read."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VideoError
from .frame_files import ANIMATION_ENDINGS, PICTURE_ENDINGS, animation, picture_count, read_picture
from .framing import Framing, crop_and_scale, frame_indices
from .video import memory_counter, read_video

if TYPE_CHECKING:
    from torch import Tensor


def read_frames(path: Path | str, framing: Framing) -> tuple[Tensor, Fraction | None]:
    """Read frames from a folder of pictures, a video, an animated picture or a still one, with their rate.

    Returns frames [count, height, width, 3], float32, 0..1, and the rate divided by the sampling rate; None: files of
    still pictures have none.
    Raises VideoError where the source cannot be read, has too few frames, or takes more than the free memory.
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
        transform=lambda frame: crop_and_scale(frame, framing),
    )


def read_animation(path: Path, framing: Framing) -> tuple[Tensor, Fraction | None]:
    """Read frames of an animated picture, with their rate; a still picture is one frame without a rate.

    Pictures may be shown for different times; the rate keeps the time from the first to the last frame that is taken.
    Returns as `read_frames` does, and raises as it does.
    """
    import torch

    count = picture_count(path)
    taken = frame_indices(framing, count, name=str(path))

    frames: list[Tensor] = []
    counted = memory_counter(path)
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
        frame = crop_and_scale(picture[None], framing)
        frames.append(counted(frame, frame.nbytes * 2))
    if count == 1 or not together:
        return torch.cat(frames), None
    return torch.cat(frames), 1000 * (taken[-1] + 1 - taken.start) / together / framing.sampling_rate


def read_folder(folder: Path | str, framing: Framing) -> Tensor:
    """Read pictures of a folder as frames, in the order of their names; only those taken are opened.

    Returns [count, height, width, 3], float32, 0..1.
    Raises VideoError for a folder that is not there, has too few pictures, one that cannot be read, or other sizes, and
    where they take more than the free memory.
    """
    import torch

    folder = Path(folder)
    pictures = pictures_in(folder)
    taken = [pictures[index] for index in frame_indices(framing, len(pictures), name=str(folder))]
    first = read_picture(taken[0])
    counted = memory_counter(folder)
    frames = []
    for path in taken:
        picture = first if path == taken[0] else read_picture(path)
        if picture.shape != first.shape:
            raise VideoError(
                f"{path} is {_size(picture)} pixels, {taken[0].name} before it {_size(first)}; all frames need one "
                f"size. Scale the pictures alike, or take out those that do not belong."
            )
        frame = crop_and_scale(picture[None], framing)
        frames.append(counted(frame, frame.nbytes * 2))
    return torch.cat(frames)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def pictures_in(folder: Path) -> list[Path]:
    """List the pictures in a folder by name, numbers in names by value: 2.png comes before 10.png.

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
    """Sort key: text at even places, numbers at odd ones, then the name itself, for names such as 1.png and 01.png."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name
