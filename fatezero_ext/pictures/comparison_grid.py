"""Several clips side by side, frame by frame, each under its label."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import VideoError
from .contact_sheet import PAPER

LARGEST_CELL = 8
"""Pixels along a side of the latent cells of Stable Diffusion."""
GAP = 4
"""Pixels between the pictures and around them."""
LEAST_FONT, FONT_SHARE = 10, 24
"""Smallest readable letters in pixels; larger pictures have letters of their width divided by this."""
MOST_LINES = 3
"""Lines of a label; what is longer ends in an ellipsis."""
ELLIPSIS = "…"


def compare(clips: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """One picture per frame that shows this frame of every clip.

    clips:  each [frames, height, width, 3], 0..1, all of one shape
    labels: one per clip, wrapped and shortened to the pictures' width
    Returns [frames, rows, columns, 3]: ceil(sqrt(clips)) pictures across, both sides even as H.264's 4:2:0 needs.
    Raises VideoError where a clip has other frames or another size than the first, naming it by its label.
    Source: the layout of the authors' result grids.
    """
    if not clips or len(clips) != len(labels):
        raise VideoError(f"{len(clips)} clips and {len(labels)} labels; needed is a label for each. Give as many.")
    _check_alike(clips, labels)
    frames, height, width = clips[0].shape[:3]
    strips = _strips(labels, width)
    across = math.ceil(math.sqrt(len(clips)))
    down = math.ceil(len(clips) / across)
    cell = strips.shape[1] + height + GAP
    sheet = _paper(frames, _even(GAP + down * cell), _even(GAP + across * (width + GAP)))
    for number, (clip, strip) in enumerate(zip(clips, strips, strict=True)):
        top, left = GAP + number // across * cell, GAP + number % across * (width + GAP)
        middle = top + strips.shape[1]
        sheet[:, top:middle, left : left + width] = strip
        sheet[:, middle : middle + height, left : left + width] = clip.detach().float().nan_to_num().clamp(0, 1).cpu()
    return sheet


def centre_crop_like(clip: Tensor, other: Tensor) -> Tensor:
    """The clip cut about the centre to the size of `other`, where it is larger by less than a latent cell: a VAE cuts
    frames to whole cells before they are edited. Any other clip as it is.

    clip, other: [frames, height, width, channels]
    """
    if clip.ndim != 4 or other.ndim != 4:
        return clip
    over = [mine - its for mine, its in zip(clip.shape[1:3], other.shape[1:3], strict=True)]
    if not all(0 <= rest < LARGEST_CELL for rest in over):
        return clip
    (top, left), (height, width) = (rest // 2 for rest in over), other.shape[1:3]
    return clip[:, top : top + height, left : left + width]


def _check_alike(clips: Sequence[Tensor], labels: Sequence[str]) -> None:
    for clip, label in zip(clips, labels, strict=True):
        if clip.ndim != 4 or clip.shape[-1] != 3 or clip.numel() == 0:
            raise VideoError(
                f"{label!r} has shape {list(clip.shape)}; needed is [frames, height, width, 3] with at least one "
                f"frame. Check what is connected."
            )
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


def _paper(frames: int, height: int, width: int) -> Tensor:
    return torch.tensor(PAPER).div(255).expand(frames, height, width, 3).clone()


def _even(length: int) -> int:
    return length + length % 2


def _strips(labels: Sequence[str], width: int) -> Tensor:
    """[labels, height, width, 3], 0..1: black letters on paper, as high as the label with most lines needs."""
    font = ImageFont.load_default(size=max(LEAST_FONT, width // FONT_SHARE))
    written = ["\n".join(wrapped(label, font, width)) for label in labels]
    line = sum(font.getmetrics()) + 1
    height = GAP + line * max(text.count("\n") + 1 for text in written)
    return torch.stack([_strip(text, font, height, width) for text in written])


def _strip(text: str, font: ImageFont.FreeTypeFont, height: int, width: int) -> Tensor:
    strip = Image.new("RGB", (width, height), PAPER)
    line = sum(font.getmetrics()) + 1
    draw = ImageDraw.Draw(strip)
    lines = text.split("\n")
    top = height - GAP // 2 - line * len(lines)
    for number, words in enumerate(lines):
        draw.text((0, top + number * line), words, fill="black", font=font)
    return torch.from_numpy(np.array(strip)).float().div(255)


def wrapped(label: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The label in at most `MOST_LINES` lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    lines, words = [""], label.split()
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1] and len(lines) < MOST_LINES:
            lines.append(word)
        else:
            lines[-1] = " ".join([lines[-1], *words[number:]]).strip()
            break
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + ELLIPSIS) > width:
        line = line[:-1]
    return line.rstrip() + ELLIPSIS
