"""Draw the moving picture of the README and the templates' cards: `python docs/make_edits.py [FOLDER]`.

They show the sample clip beside its edits, which `python -m fatezero_ext demo all` leaves in FOLDER (`output`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout need not be installed

from fatezero_ext.media.video import read_video, to_bytes  # noqa: E402
from fatezero_ext.pictures.attention_sheets import enlarged  # noqa: E402
from fatezero_ext.pictures.comparison_grid import compare  # noqa: E402

TEMPLATES = ROOT / "example_workflows"

SOURCE = "a red circle on the grass"
EDITS = {
    "1_colour_edit_with_mask": "a blue circle on the grass",
    "1_colour_edit_with_mask_no_control": "the same without attention control",
    "2_shape_edit": "a red square on the grass",
    "3_background_edit": "a red circle on the sand",
    "4_style_edit": "a watercolor painting of a red circle on the grass",
}
SIDE = 256  # pixels of one clip
MILLISECONDS = 125  # of one frame, as the clip's 8 frames a second
GAP = 4  # pixels between the two pictures of a card
CARD_FRAME = 4


def source() -> Tensor:
    """Return the sample clip, enlarged: [frames, SIDE, SIDE, 3], 0..1."""
    return enlarged(read_video(TEMPLATES / "red_circle_on_grass.mp4").frames, (SIDE, SIDE))


def edited(folder: Path, name: str) -> Tensor:
    """Return the newest edit of that name, as `source`."""
    return enlarged(read_video(max((folder / "video").glob(f"{name}_0*.mp4"))).frames, (SIDE, SIDE))


def card(folder: Path, name: str) -> Tensor:
    """Return a template's card, a frame of the source and of the edit: [SIDE, 2 * SIDE + GAP, 3], 0..1."""
    gap = torch.ones(SIDE, GAP, 3)
    return torch.cat([source()[CARD_FRAME], gap, edited(folder, name)[CARD_FRAME]], dim=1)


def moving_picture(folder: Path) -> Tensor:
    """The clips side by side, each under its prompt: [frames, height, width, 3], 0..1; forth, and back again."""
    sheet = compare([source(), *(edited(folder, name) for name in EDITS)], [SOURCE, *EDITS.values()])
    return torch.cat([sheet, sheet[1:-1].flip(0)])


def main(folder: Path) -> None:
    """Write docs/edits.webp, and the cards beside the templates."""
    first, *others = [Image.fromarray(frame) for frame in to_bytes(moving_picture(folder))]
    path = ROOT / "docs" / "edits.webp"
    first.save(path, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, quality=80, method=6)
    sys.stderr.write(f"{path.name}: {path.stat().st_size // 1024} KiB\n")
    for template in TEMPLATES.glob("*.json"):
        (picture,) = to_bytes(card(folder, template.stem)[None])
        Image.fromarray(picture).save(template.with_suffix(".jpg"), quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "output")
