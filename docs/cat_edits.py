"""The sample clip of the cat and edits of it, as a user gets them: for the scripts that draw the pack's pictures."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the checkout need not be installed

from built_in_templates import FIRST  # noqa: E402

from fatezero_ext import Controller, edit, invert, keep_source_pixels, load_toy, read_video  # noqa: E402
from fatezero_ext.inspection.heat_maps import word_heats  # noqa: E402
from fatezero_ext.models.load import VideoModel  # noqa: E402

SOURCE, PANDA = FIRST.shown.source, FIRST.edit
FROG, DOG, SAND, WATERCOLOR = FIRST.others
STEPS = 20
FEATHER = 4  # pixels of a latent cell


@cache
def cat() -> Tensor:
    """The clip: [frames, 64, 64, 3], 0..1."""
    return read_video(ROOT / "example_workflows" / "cat_on_grass.mp4").frames


@cache
def _model() -> VideoModel:
    return load_toy(world="objects")


@cache
def _inverted() -> Controller:
    loaded = _model()
    return invert(Controller(loaded.unet), loaded.text_encoder, loaded.vae.encode(cat()), SOURCE, steps=STEPS)


@cache
def cat_edit(prompt: str) -> tuple[Tensor, Tensor]:
    """An edit with settings by its kind, and its mask [frames, h, w], outside of which the clip's own pixels are."""
    result = edit(_inverted(), _model().text_encoder, prompt)
    frames = _model().vae.decode(result.latents)
    return keep_source_pixels(frames, cat(), result.last_mask, feather=FEATHER), result.last_mask


def cat_heat() -> Tensor:
    """Heat of the word cat, [frames, h, w], at most 1."""
    found = word_heats(_inverted(), ["cat"])[0]
    return found / found.amax()
