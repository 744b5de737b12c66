"""Draws the pack's icon and banner for the registry: `python docs/make_brand.py`.

Both show the sample clip beside its edits, which `python -m fatezero_ext demo all` leaves in `output`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fatezero_ext.media.video import read_video, to_bytes  # noqa: E402 - the checkout need not be installed

EDITS = ("1_colour_edit_with_mask", "3_background_edit")
ICON_SIDE = 400
BANNER = (1344, 576)  # 21:9, seven columns and three rows of 192 pixels
CELL = 192
MIDDLE = 4
REACH = 18  # pixels of the clip about the object


def frames(path: Path) -> np.ndarray:
    """[frames, height, width, 3] bytes."""
    return to_bytes(read_video(path).frames)


def icon(source: np.ndarray, edit: np.ndarray) -> Image.Image:
    """Left of the object's middle the source, right of it the edit, cut close about the object."""
    red = source[..., 0].astype(int) - source[..., 1] > 100
    row, column = (int(round(at.mean())) for at in np.nonzero(red))
    joined = np.concatenate([source[:, :column], edit[:, column:]], axis=1)
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
    source = frames(ROOT / "example_workflows" / "red_circle_on_grass.mp4")
    edits = [frames(sorted((ROOT / "output" / "video").glob(f"{name}_0*.mp4"))[-1]) for name in EDITS]
    icon(source[MIDDLE], edits[0][MIDDLE]).save(ROOT / "docs" / "icon.png", optimize=True)
    banner([source, *edits]).save(ROOT / "docs" / "banner.jpg", quality=90)


if __name__ == "__main__":
    main()
