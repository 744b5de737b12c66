"""Contact sheets: frames over time, one labelled row per video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import VideoError
from ..media.video import to_bytes
from .labelled_sheet import PAPER, label_font

if TYPE_CHECKING:
    from torch import Tensor


def contact_sheet(rows: Sequence[Tensor], labels: Sequence[str], *, cell: int = 128, gap: int = 4) -> Image.Image:
    """Draw frames over time, one labelled row per video.

    rows:   each [frames, height, width, 3], 0..1; sizes and frame counts may differ
    labels: one per row
    cell:   height of a picture in pixels; small pictures are enlarged without smoothing
    gap:    pixels between pictures
    Raises VideoError where there are no rows or not one label each.
    """
    if not rows or len(rows) != len(labels):
        raise VideoError(f"{len(rows)} rows and {len(labels)} labels; one label per row is needed. Give as many.")
    strips = [_strip(to_bytes(row), cell, gap) for row in rows]
    font = label_font(cell // 8)
    margin = gap + max(round(font.getlength(label)) for label in labels) + gap
    width = margin + max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, gap + len(rows) * (cell + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        top = gap + number * (cell + gap)
        draw.text((gap, top + cell // 2), label, fill="black", font=font, anchor="lm")
        sheet.paste(strip, (margin, top))
    return sheet


def _strip(pictures: NDArray[np.uint8], cell: int, gap: int) -> Image.Image:
    """Paste pictures side by side, each `cell` pixels high and followed by a gap."""
    height, width = pictures.shape[1:3]
    across = max(1, round(width * cell / height))
    method = Image.Resampling.NEAREST if cell >= height else Image.Resampling.LANCZOS
    strip = Image.new("RGB", (len(pictures) * (across + gap), cell), PAPER)
    for number, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture).resize((across, cell), method), (number * (across + gap), 0))
    return strip
