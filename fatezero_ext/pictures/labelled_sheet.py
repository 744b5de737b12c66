"""Sheets of labelled tiles: the same frame of several clips side by side, each under its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER = (214, 214, 214)
"""Background of sheets; grey, so that white and black frames stand out."""
LEAST_FONT = 10
"""Smallest readable letters in pixels."""
NOTE_COLOUR = (90, 90, 90)
ELLIPSIS = "…"


@dataclass(frozen=True)
class Tile:
    """One labelled picture per frame.

    label:  the same for all frames
    frames: [frames, height, width, 3], 0..1
    notes:  a short remark per frame, written where the label leaves room for it; or none at all
    """

    label: str
    frames: Tensor
    notes: tuple[str, ...] = ()


def labelled_sheet(tiles: Sequence[Tile], across: int, *, letters: int, lines: int, gap: int) -> Tensor:
    """Draw all tiles of each frame in rows, labels above.

    tiles:   of one size and frame count, at least one
    across:  tiles in a row
    letters: their height in pixels, at least LEAST_FONT
    lines:   most lines of a label; what is longer ends in an ellipsis
    gap:     pixels between the tiles and around them
    Returns [frames, height, width, 3] float32, 0..1; both sides even, as H.264's 4:2:0 needs.
    """
    frames, height, width = tiles[0].frames.shape[:3]
    strips = _strips(tiles, label_font(letters), width, lines, gap)
    strip_height = strips[0].shape[1]
    cell = strip_height + height + gap
    down = -(-len(tiles) // across)
    paper = torch.tensor(PAPER).div(255)
    sheet = paper.expand(frames, _even(gap + down * cell), _even(gap + across * (width + gap)), 3).clone()
    for number, (tile, strip) in enumerate(zip(tiles, strips, strict=True)):
        top, left = gap + number // across * cell, gap + number % across * (width + gap)
        middle = top + strip_height
        sheet[:, top:middle, left : left + width] = strip
        picture = tile.frames.detach().float().nan_to_num().clamp(0, 1).cpu()
        sheet[:, middle : middle + height, left : left + width] = picture
    return sheet


def label_font(letters: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font with letters of that many pixels, or of LEAST_FONT."""
    # With a size it is always a TrueType font; the bitmap font is for Pillow without FreeType.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=max(LEAST_FONT, letters)))


def wrapped(label: str, font: ImageFont.FreeTypeFont, width: int, most_lines: int) -> list[str]:
    """Break a label into at most `most_lines` lines of `width` pixels; what does not fit ends in an ellipsis."""
    lines, words = [""], label.split()
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1] and len(lines) < most_lines:
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


def _strips(tiles: Sequence[Tile], font: ImageFont.FreeTypeFont, width: int, most_lines: int, gap: int) -> list[Tensor]:
    """Labels as pictures [1 or frames, height, width, 3], 0..1, as high as the one with most lines needs."""
    labels = [wrapped(tile.label, font, width, most_lines) for tile in tiles]
    height = gap + _line_height(font) * max(map(len, labels))
    return [
        torch.stack([_strip(lines, note, font, (width, height), gap) for note in tile.notes or ("",)])
        for lines, tile in zip(labels, tiles, strict=True)
    ]


def _strip(lines: list[str], note: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], gap: int) -> Tensor:
    (width, height), line = size, _line_height(font)
    strip = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(strip)
    top = height - gap // 2 - line * len(lines)
    for number, words in enumerate(lines):
        draw.text((0, top + number * line), words, fill="black", font=font)
    if font.getlength(f"{lines[-1]}  {note}") <= width:
        draw.text((width, top + (len(lines) - 1) * line), note, fill=NOTE_COLOUR, font=font, anchor="ra")
    return torch.from_numpy(np.array(strip)).float().div(255)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics()) + 1


def _even(length: int) -> int:
    return length + length % 2
