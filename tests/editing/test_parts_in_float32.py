"""Parts of a clip in float32, as models compute: the built-in model, whose weights are trained, on drawn clips."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from fatezero_ext import BlendSettings, InflationSettings, Storage, edit, load_toy
from fatezero_ext.toy.world.clips import sample_clip

from ..small_runs import inverted, named
from .test_frames_at_once import KEYS, NEAR

FRAMES = 24
STEPS = 3
BLEND = BlendSettings(("red circle",), ("blue circle",), latents=True)
COLOUR = ("a blue circle on the grass", named(guidance=3.0, blend=BLEND))
SHAPES = ("a blue circle on the grass", named(guidance=7.5, blend=replace(BLEND, follow_shapes=True)))
STYLE = ("a watercolor painting of a red circle on the grass", named("refine", guidance=3.0))
ASKED = {"colour": COLOUR, "shapes": SHAPES, "style": STYLE}
IN_RAM = Storage("features", "ram")


@pytest.fixture(scope="module")
def toys():
    return cache(lambda keys, norm: load_toy(InflationSettings(key_frames=KEYS[keys], norm=norm)))


@pytest.fixture(scope="module")
def drawn():
    """Latents of a clip of 24 frames, cut to 8x10 cells: neither square nor halved evenly twice."""
    frames = sample_clip(3, frames=FRAMES, shape="circle", colour="red", background="grass").frames
    latents = load_toy().vae.encode(torch.as_tensor(frames))
    return latents[:, :, 4:12, 3:13].contiguous()


@pytest.fixture(scope="module")
def results(toys, drawn):
    """The levels of an inversion and an edit of it, by key frames, norm, number, storage, passes, frames and edit."""

    @cache
    def inversion(keys, norm, at_once, storage=IN_RAM, passes=0, frames=FRAMES):
        options = {"prompt": "a red circle on the grass", "steps": STEPS, "inversion_passes": passes}
        return inverted(toys(keys, norm), storage, latents=drawn[:frames], frames_at_once=at_once, **options)

    @cache
    def result(keys, norm, at_once, *more, asked="colour", inverts=None):
        controller = inversion(keys, norm, at_once if inverts is None else inverts, *more)
        edited = edit(controller, toys(keys, norm).text_encoder, *ASKED[asked], frames_at_once=at_once)
        return controller.trace.latents, edited

    return result


def check_alike(parts, whole):
    (levels, edited), (whole_levels, whole_edited) = parts, whole
    assert (levels - whole_levels).abs().max() < NEAR
    assert (edited.latents - whole_edited.latents).abs().max() * 0.18215 < NEAR
    assert edited.mask.equal(whole_edited.mask) and edited.last_mask.equal(whole_edited.last_mask)


@pytest.mark.parametrize(("keys", "at_once"), [*zip(KEYS, [8, 5, 8, 5, 8, 8, 5, 8], strict=True), ("published", 5), ("published", 2)])  # fmt: skip  # noqa: E501
def test_a_colour_edit_of_24_frames_in_parts_is_that_of_the_whole_clip(results, keys, at_once):
    whole = results(keys, "frame", 0)
    assert 0.05 < whole[1].mask.mean() < 0.9
    check_alike(results(keys, "frame", at_once), whole)


@pytest.mark.parametrize(("keys", "at_once"), [("published", 8), ("published", 5), ("own", 8), ("published", 2)])
def test_also_where_norms_run_over_all_frames(results, keys, at_once):
    check_alike(results(keys, "clip", at_once), results(keys, "clip", 0))


STORAGES = {
    "maps": Storage("maps", "ram"),
    "recompute": Storage("recompute"),
    "same level": Storage("recompute same level"),
    "int8": Storage("features", "ram", "int8"),
}


@pytest.mark.parametrize("norm", ["frame", "clip"])
@pytest.mark.parametrize("way", STORAGES)
def test_attention_of_an_odd_number_of_frames_may_be_stored_in_every_way(results, norm, way):
    storage = STORAGES[way]
    # An 8-bit value that lies between two steps may be rounded to either, by the last bit of what is stored: the edit
    # alone is in parts.
    inverts = 0 if way == "int8" else None
    whole = results("published", norm, 0, storage, 0, 11)
    check_alike(results("published", norm, 4, storage, 0, 11, inverts=inverts), whole)


@pytest.mark.parametrize("norm", ["frame", "clip"])
@pytest.mark.parametrize("asked", ["style", "shapes"])
def test_styles_and_masks_that_follow_shapes_after_a_fixed_point_pass(results, norm, asked):
    given = (IN_RAM, 1, 11)
    check_alike(*(results("published", norm, at_once, *given, asked=asked) for at_once in (4, 0)))
