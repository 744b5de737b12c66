"""Draw the moving picture of the README and the templates' cards: `python docs/make_edits.py [FOLDER]`.

They show the sample clips beside their edits: of the circle those that `python -m fatezero_ext demo all` leaves in
FOLDER (`output`), of the cat edits of their own, drawn in two minutes on one core. For a pack's template NAME the page
asks for the card NAME.jpg and for no other name; browsers tell a picture's format from its content, so that these files
can hold animated WebP and move. The page has no room for a description: what must be downloaded stands on the card.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

from built_in_templates import CIRCLE as CIRCLE_SHOWN  # noqa: E402
from built_in_templates import FIRST, TUNED  # noqa: E402
from cat_edits import DOG, FROG, PANDA, SAND, WATERCOLOR, cat, cat_edit, cat_heat  # noqa: E402
from cat_edits import SOURCE as CAT_SHOWN  # noqa: E402
from template_parts import download, gigabytes  # noqa: E402

from fatezero_ext.media.video import read_video, to_bytes  # noqa: E402
from fatezero_ext.pictures.attention_sheets import enlarged  # noqa: E402
from fatezero_ext.pictures.comparison_grid import compare  # noqa: E402
from fatezero_ext.pictures.labelled_sheet import label_font  # noqa: E402

TEMPLATES = ROOT / "example_workflows"

COLOUR, SHAPE, BACKGROUND, STYLE = "1_colour_edit_with_mask", "2_shape_edit", "3_background_edit", "4_style_edit"
CIRCLE = "red_circle_on_grass"
EDITS = {
    COLOUR: "a blue circle on the grass",
    f"{COLOUR}_no_control": "the same without attention control",
}
"""Edits of the circle that the README shows."""
CARDS = {
    FIRST.title: PANDA,
    "5_animal_edit": PANDA,
    "Change an object, keep the motion": FROG,
    "Change the background only": SAND,
    "Change the style, keep the motion": WATERCOLOR,
}
"""Templates whose cards show the cat and this edit of it."""
OF_CIRCLE = {name: name for name in (COLOUR, SHAPE, BACKGROUND, STYLE)}
OF_CIRCLE |= {"Change a colour, keep the rest": COLOUR, TUNED: SHAPE}
"""Templates whose cards show the circle and this edit of it."""
SIDE = 256  # pixels of one clip
CARD = 192  # pixels of a card's clip
MILLISECONDS = 125  # of one frame, as the clip's 8 frames a second
GAP = 4  # pixels between the two pictures of a card
BAND, LETTERS = 44, 26
"""Height of a card's line of words, and of its letters, in pixels; the page shows cards at two thirds of their size."""
FREE, LOADED = (24, 112, 48), (64, 64, 72)
"""Colours behind these words where nothing and where something must be downloaded."""


def source(side: int = SIDE) -> Tensor:
    """Return the circle's clip, enlarged: [frames, side, side, 3], 0..1."""
    return enlarged(read_video(TEMPLATES / f"{CIRCLE}.mp4").frames, (side, side))


def edited(folder: Path, name: str, side: int = SIDE) -> Tensor:
    """Return the newest edit of that name, as `source`."""
    return enlarged(read_video(max((folder / "video").glob(f"{name}_0*.mp4"))).frames, (side, side))


def of_cat(prompt: str | None = None, side: int = SIDE) -> Tensor:
    """Return the cat's clip, or an edit of it, as `source`."""
    return enlarged(cat() if prompt is None else cat_edit(prompt)[0], (side, side))


def heat() -> Tensor:
    """Return the cat's clip as `source`, dark where its word does not look."""
    share = enlarged(cat_heat().unsqueeze(-1), (CARD, CARD)).clamp(0, 1)
    return of_cat(side=CARD) * (0.2 + 0.8 * share)


def beside(*clips: Tensor) -> Tensor:
    """Clips of equal size beside each other: [frames, height, width, 3]."""
    gap = torch.ones(*clips[0].shape[:2], GAP, 3)
    return torch.cat([part for clip in clips for part in (gap, clip)][1:], dim=2)


def below(*clips: Tensor) -> Tensor:
    """Clips of equal size below each other."""
    gap = torch.ones(len(clips[0]), GAP, *clips[0].shape[2:])
    return torch.cat([part for clip in clips for part in (gap, clip)][1:], dim=1)


def cards(folder: Path) -> Mapping[str, Tensor]:
    """Return the cards by their templates' names: clips as those of `beside`."""
    clip, animal = source(CARD), of_cat(side=CARD)
    found = {title: beside(clip, edited(folder, name, CARD)) for title, name in OF_CIRCLE.items()}
    found |= {title: beside(animal, of_cat(prompt, CARD)) for title, prompt in CARDS.items()}
    panda, sand, painting = (of_cat(prompt, CARD) for prompt in (PANDA, SAND, WATERCOLOR))
    found["Every step as a node of its own"] = below(beside(animal, panda), beside(sand, painting))
    mask = cat_edit(PANDA)[1]
    found["Edit inside your own mask (SAM3)"] = beside(enlarged(mask[..., None], (CARD, CARD)).expand_as(panda), panda)
    found["Find by words, repaint with VACE"] = beside(animal, heat())
    return found


def marked(card: Tensor, template: Path) -> Tensor:
    """Return a card with a line below it that says how much the template downloads."""
    size = download(json.loads(template.read_text(encoding="utf-8")))
    words, colour = (f"{gigabytes(size)} to download", LOADED) if size else ("nothing to download", FREE)
    band = Image.new("RGB", (card.shape[2], BAND), colour)
    middle = (band.width / 2, band.height / 2)
    ImageDraw.Draw(band).text(middle, words, fill="white", font=label_font(LETTERS), anchor="mm")
    drawn = torch.from_numpy(np.array(band)).float().div(255)
    return torch.cat([card, drawn.expand(len(card), -1, -1, -1)], dim=1)


def moving_picture(folder: Path) -> Tensor:
    """The clips side by side, each under its prompt: [frames, height, width, 3], 0..1."""
    prompts = (PANDA, FROG, DOG, SAND, WATERCOLOR)
    clips = [of_cat(), *map(of_cat, prompts), source(), *(edited(folder, name) for name in EDITS)]
    return compare(clips, [CAT_SHOWN, *prompts, CIRCLE_SHOWN.source, *EDITS.values()])


def save(path: Path, clip: Tensor, quality: int) -> None:
    """Write a clip, forth and back again, as animated WebP whatever the file is called."""
    first, *others = [Image.fromarray(frame) for frame in to_bytes(torch.cat([clip, clip[1:-1].flip(0)]))]
    options = {"duration": MILLISECONDS, "loop": 0, "quality": quality, "method": 6}
    first.save(path, format="WEBP", save_all=True, append_images=others, **options)
    sys.stderr.write(f"{path.name}: {path.stat().st_size // 1024} KiB\n")


def main(folder: Path) -> None:
    """Write docs/edits.webp, and the cards beside the templates."""
    save(ROOT / "docs" / "edits.webp", moving_picture(folder), 80)
    for name, card in cards(folder).items():
        save(TEMPLATES / f"{name}.jpg", marked(card, TEMPLATES / f"{name}.json"), 70)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "output")
