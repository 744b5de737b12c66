"""Several clips side by side, frame by frame, each under its label."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..errors import VideoError
from ..media.frame_checks import check_frames
from .labelled_sheet import Tile, labelled_sheet

LARGEST_CELL = 8
"""Pixels along a side of the latent cells of Stable Diffusion."""
GAP = 4
"""Pixels between the pictures and around them."""
FONT_SHARE = 24
"""Letters are as high as the pictures are wide, divided by this."""
MOST_LINES = 3
"""Most lines of a label."""


def compare(clips: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """Draw one picture per frame that shows this frame of every clip.

    clips:  each [frames, height, width, 3], 0..1, all of one shape
    labels: one per clip, wrapped and shortened to the pictures' width
    Returns [frames, rows, columns, 3]: ceil(sqrt(clips)) pictures across, both sides even as H.264's 4:2:0 needs.
    Raises VideoError where a clip is none, or has other frames or another size than the first, naming it by its label.
    Source: the layout of the authors' result grids.
    """
    if not clips or len(clips) != len(labels):
        raise VideoError(f"{len(clips)} clips and {len(labels)} labels; one label per clip is needed. Give as many.")
    check_alike(clips, labels)
    tiles = [Tile(label, clip) for clip, label in zip(clips, labels, strict=True)]
    across, letters = math.ceil(math.sqrt(len(clips))), clips[0].shape[2] // FONT_SHARE
    return labelled_sheet(tiles, across, letters=letters, lines=MOST_LINES, gap=GAP)


def centre_crop_like(clip: Tensor, other: Tensor) -> Tensor:
    """Crop a clip about the centre to the size of `other` if it is larger by less than a latent cell.

    A VAE crops frames to whole cells before they are edited. Any other clip is returned unchanged.
    clip, other: [frames, height, width, channels]
    """
    if clip.ndim != 4 or other.ndim != 4:
        return clip
    over = [mine - its for mine, its in zip(clip.shape[1:3], other.shape[1:3], strict=True)]
    if not all(0 <= rest < LARGEST_CELL for rest in over):
        return clip
    (top, left), (height, width) = (rest // 2 for rest in over), other.shape[1:3]
    return clip[:, top : top + height, left : left + width]


def check_alike(clips: Sequence[Tensor], labels: Sequence[str]) -> None:
    """Raise VideoError where a clip is none, or has other frames or another size than the first, by its label."""
    for clip, label in zip(clips, labels, strict=True):
        check_frames(clip, repr(label))
    (frames, height, width), first = clips[0].shape[:3], labels[0]
    for clip, label in zip(clips, labels, strict=True):
        if len(clip) != frames:
            raise VideoError(
                f"{label!r} has {len(clip)} frames, {first!r} has {frames}; clips of equal length are needed. "
                f"Cut the longer one."
            )
        if clip.shape[1:3] != (height, width):
            raise VideoError(
                f"{label!r} is {clip.shape[2]}x{clip.shape[1]} pixels, {first!r} is {width}x{height}; clips of equal "
                f"size are needed. Scale one of them."
            )
