"""A video as it is passed between nodes: frames, rate and sound, decoded no earlier than needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from .audio import Sound, SoundFile, has_sound
from .framing import Framing, crop_and_scale, size_after
from .pixels import as_floats, stacked
from .streamed import FLOAT_BYTES, StreamedFrames, read_ahead, regrouped
from .video import (
    frames_said,
    memory_counter,
    pictures_of,
    read_video,
    selected_pictures,
    video_rate,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FileFrames:
    """The frames of a video file, decoded anew at each call."""

    path: Path

    def all(self) -> Tensor:
        """Decode all frames, [frames, height, width, 3], float32, 0..1.

        Raises VideoError where the file is damaged, or takes more than the free memory.
        """
        return read_video(self.path).frames

    def part(self, first: int, length: int) -> Tensor:
        """Decode at most `length` frames from `first` on; past the end of the file, its last frame.

        Raises VideoError where the file is damaged, or these take more than the free memory.
        """
        pictures: list[NDArray[np.uint8]] = []
        counted = memory_counter(self.path)
        for number, (picture, _) in enumerate(pictures_of(self.path, 0, first + length, 1)):
            if number <= first:
                pictures.clear()
            pictures.append(picture if number < first else counted(picture, picture.nbytes * FLOAT_BYTES))
        return stacked(pictures)

    def count(self, enough: int) -> tuple[int, bool]:
        """Return the number of frames, and whether there are no more.

        As files may say a wrong number, or none, the first `enough` frames are decoded and counted; what the file says
        is taken where it is at least that many.
        """
        counted = sum(1 for _ in pictures_of(self.path, 0, enough, 1))
        said = frames_said(self.path)
        return (said, True) if counted == enough <= said else (counted, counted < enough)

    def taken(self, framing: Framing) -> Tensor:
        """Decode the frames that `framing` selects, each cropped and scaled at once; none behind the last is decoded.

        Raises VideoError where there are too few.
        """
        return read_video(
            self.path,
            start=framing.start,
            count=framing.count,
            stride=framing.sampling_rate,
            transform=lambda frame: crop_and_scale(frame, framing),
        ).frames

    def taken_within(self, framing: Framing, most: int) -> Tensor | StreamedFrames:
        """Take frames as `taken` does; those of more bytes are decoded again where they are used.

        Raises VideoError where there are too few, or the file is damaged.
        """
        import torch

        start, count, stride = framing.start, framing.count, framing.sampling_rate
        version = _version(self.path)
        kept: list[Tensor] = []
        nbytes = 0

        def looked_at(picture: NDArray[np.uint8]) -> tuple[int, int]:
            nonlocal nbytes
            if nbytes <= most:
                kept.append(crop_and_scale(as_floats(picture[None]), framing))
                nbytes += kept[-1].nbytes
            else:
                kept.clear()
            return picture.shape[0], picture.shape[1]

        sizes, _ = selected_pictures(self.path, start, count, stride, looked_at)
        if nbytes <= most:
            return torch.cat(kept)
        stop = start + (len(sizes) - 1) * stride + 1

        def pieces() -> Iterator[Tensor]:
            if _version(self.path) not in (version, None):
                raise VideoError(
                    f"{self.path} has changed while it was used; the same file is needed each time its frames are "
                    f"read. Run again."
                )
            for picture, _rate in pictures_of(self.path, start, stop, stride):
                yield crop_and_scale(as_floats(picture[None]), framing)

        size = size_after(*sizes[0], framing)
        return StreamedFrames((len(sizes), *size, 3), lambda: read_ahead(regrouped(pieces())))


def _version(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does; None where it is gone, which reading it says."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class VideoClip:
    """A video.

    frames:     [frames, height, width, 3], 0..1, or those of a file, or others that are made where they are used
    frame_rate: frames per second
    sound:      None for a silent clip
    """

    frames: Tensor | FileFrames | StreamedFrames
    frame_rate: Fraction
    sound: Sound | None


def opened_clip(path: Path) -> VideoClip:
    """Open a video file as a clip. Raises VideoError if it shows no frame or has no rate."""
    return VideoClip(FileFrames(path), video_rate(path), SoundFile(path) if has_sound(path) else None)
