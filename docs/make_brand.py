"""Draws the pack's icon and banner for the registry: `python docs/make_brand.py`.

The icon is half the sample clip's cat and half the panda that it becomes; the banner shows the clip above two edits of
it, time from left to right. They are drawn with the built-in objects model, in a minute on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

from cat_edits import PANDA, SAND, cat, cat_edit  # noqa: E402

from fatezero_ext.media.video import to_bytes  # noqa: E402

ICON_SIDE = 400
BANNER = (1344, 576)  # 21:9, seven columns and three rows of 192 pixels
CELL = 192
MIDDLE = 4
REACH = 18  # pixels of the clip about the object


def icon(source: np.ndarray, other: np.ndarray) -> Image.Image:
    """Left of the object's middle the source, right of it the edit, cut close about the object."""
    green = source[..., 1].astype(int) > source[..., 0] + 20
    row, column = (int(round(at.mean())) for at in np.nonzero(~green))
    joined = np.concatenate([source[:, :column], other[:, column:]], axis=1)
    box = (column - REACH, row - REACH, column + REACH, row + REACH)
    return Image.fromarray(joined).resize((ICON_SIDE, ICON_SIDE), Image.Resampling.LANCZOS, box=box)


def banner(clips: list[np.ndarray]) -> Image.Image:
    """One row a clip, time from left to right."""
    page = Image.new("RGB", BANNER)
    for row, clip in enumerate(clips):
        for column in range(BANNER[0] // CELL):
            frame = Image.fromarray(clip[column]).resize((CELL, CELL), Image.Resampling.LANCZOS)
            page.paste(frame, (column * CELL, row * CELL))
    return page


def main() -> None:
    """Write docs/icon.png and docs/banner.jpg."""
    clips = [to_bytes(frames) for frames in (cat(), cat_edit(PANDA)[0], cat_edit(SAND)[0])]
    icon(clips[0][MIDDLE], clips[1][MIDDLE]).save(ROOT / "docs" / "icon.png", optimize=True)
    banner(clips).save(ROOT / "docs" / "banner.jpg", quality=90)


if __name__ == "__main__":
    main()
