"""What an edit draws anew where its source stands still can begin from fresh noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    EditSettings,
    InflationSettings,
    SettingsError,
    Storage,
    edit,
    load_model,
    resolved_settings,
)
from fatezero_ext.diffusion.schedule import STABLE_DIFFUSION_SCHEDULER, Schedule
from fatezero_ext.editing.still_places import still_drawing

from ..conftest import GOLDEN
from ..small_runs import EDIT, inverted, named
from .test_still_places import FRAMES, SIDE, film, grown


@pytest.fixture(scope="module")
def model():
    """In float64, as in test_frames_at_once.py, with group norms per frame."""
    return load_model(GOLDEN / "model", InflationSettings(key_frames=("mid",), norm="frame"), dtype=torch.float64)


@pytest.fixture(scope="module")
def source(model):
    return inverted(model, Storage("features", "ram"), latents=film()[0], steps=3)


def levels_of(source, model, settings, **options):
    """Latents after every step of an edit."""
    levels = []
    edit(source, model.text_encoder, EDIT, settings, on_step=lambda step: levels.append(step.latents), **options)
    return levels


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_renewed_noise_is_of_its_level_and_leaves_the_clean_estimate(noise, prediction):
    schedule = Schedule.from_config({**STABLE_DIFFUSION_SCHEDULER, "prediction_type": prediction}, 10)
    x, fresh, predicted = noise(2, 4, 8, 8), noise(1, 4, 8, 8), noise(2, 4, 8, 8)
    clean, after = schedule.clean(x, predicted, 0), schedule.denoise(x, predicted, 0)
    here, alpha = (schedule.alphas[schedule.timesteps[step]] for step in (0, 1))
    own = (x - here**0.5 * clean) / (1 - here) ** 0.5  # x is the clean latents with this noise
    torch.testing.assert_close(schedule.renew(after, clean, fresh, 0, 0.0), after)
    for share in (0.4, 1.0):
        mixed = (1 - share**2) ** 0.5 * own + share * fresh
        wanted = alpha**0.5 * clean + (1 - alpha) ** 0.5 * mixed
        torch.testing.assert_close(schedule.renew(after, clean, fresh, 0, share), wanted, rtol=1e-4, atol=1e-4)


def test_the_first_step_alone_is_renewed_where_the_clip_is_still_and_free(source, noise):
    x, free = noise(FRAMES, 4, SIDE, SIDE), noise(FRAMES, SIDE, SIDE) > -0.5
    drawing = still_drawing(source.trace, named(fresh_noise_seed=4), 0, torch.device("cpu"))
    here = (drawing.places.still & free)[:, None].expand_as(x)
    first = drawing.drawn(x, 0, lambda: torch.zeros_like(x), free)
    assert torch.equal(first[~here], x[~here])
    assert (first != x)[here].float().mean() > 0.99
    alone = drawing.drawn(x, 0, lambda: torch.zeros_like(x), None)
    still = drawing.places.still[1:] & drawing.places.still[:-1]
    assert torch.equal(*(part.movedim(1, -1)[still] for part in (alone[1:], alone[:-1])))  # one noise for all frames
    assert torch.equal(drawing.drawn(x, 1, lambda: torch.zeros_like(x), free), x)


def test_a_single_step_ends_in_what_it_drew_and_not_in_noise(model):
    source = inverted(model, Storage("features", "ram"), latents=film()[0], steps=1)
    settings = named(guidance=3.0)
    plain, fresh = (
        edit(source, model.text_encoder, EDIT, replace(settings, fresh_noise_seed=seed)).latents for seed in (None, 4)
    )
    assert torch.equal(plain, fresh)


def test_a_seed_gives_the_same_again_and_another_one_something_else(source, model):
    settings = named(guidance=3.0, hold_still=True)
    plain, first, again, other = (
        edit(source, model.text_encoder, EDIT, replace(settings, fresh_noise_seed=seed)).latents
        for seed in (None, 4, np.int64(4), 2**32 - 1)
    )
    assert torch.equal(first, again)
    here = ~grown(film()[1], 2)[:, None].expand_as(first)
    for one in (plain, other):
        assert (first - one)[here].abs().mean() > 0.1


@pytest.mark.parametrize("hold_still", [True, False])
def test_an_edit_in_parts_draws_the_same(source, model, hold_still):
    blend = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
    settings = named(guidance=3.0, blend=blend, hold_still=hold_still, fresh_noise_seed=4)
    whole = edit(source, model.text_encoder, EDIT, settings)
    parts = edit(source, model.text_encoder, EDIT, settings, frames_at_once=2)
    assert (whole.latents - parts.latents).abs().max() < 1e-4


WORDS = BlendSettings(("jeep",), threshold=0.5)
LATE = {
    "from the first step on": ({"blend": WORDS}, 0),
    "self-attention later": ({"blend": WORDS, "self_replace": (0.4, 0.8)}, 2),
    "latents alone": ({"blend": replace(WORDS, self_attention=False, latents=True)}, 1),
}


@pytest.mark.parametrize("name", LATE)
def test_noise_is_fresh_once_words_have_said_what_is_to_be_kept(model, name):
    """The step after which it is, and what their mask keeps there, are those of the edit without it."""
    given, step = LATE[name]
    source = inverted(model, Storage("features", "ram"), latents=film()[0], steps=5)
    steps = {}
    for seed in (None, 4):
        settings = named(guidance=3.0, fresh_noise_seed=seed, **given)
        steps[seed] = []
        edit(source, model.text_encoder, EDIT, settings, on_step=steps[seed].append)
    assert all(torch.equal(steps[None][before].latents, steps[4][before].latents) for before in range(step))
    plain, fresh = (steps[seed][step] for seed in (None, 4))
    free = plain.attention_mask if plain.latent_mask is None else plain.latent_mask
    kept = ~free
    assert kept.float().mean() > 0.1
    change = (plain.latents - fresh.latents).abs().mean(1)
    assert not change[kept].any()
    assert change[~kept].mean() > 0.1


def test_what_a_mask_keeps_begins_from_its_own_noise(source, model):
    """In the first step too, before latents are blended."""
    mask = torch.ones(FRAMES, SIDE, SIDE)
    mask[:, : SIDE // 2] = 0
    settings = named(guidance=3.0, blend=BlendSettings((), latents=True))
    plain, fresh = (
        levels_of(source, model, replace(settings, fresh_noise_seed=seed), mask=mask)[0] for seed in (None, 4)
    )
    assert torch.equal(plain[:, :, : SIDE // 2], fresh[:, :, : SIDE // 2])
    assert (plain - fresh)[:, :, -1].abs().mean() > 0.5


def test_less_strength_keeps_more_of_the_clip_s_own_noise(source, model):
    settings = named(guidance=3.0)
    changes = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        plain, fresh = (
            levels_of(source, model, replace(settings, strength=strength, fresh_noise_seed=seed))[0]
            for seed in (None, 4)
        )
        changes.append(float((plain - fresh).abs().mean()))
    assert changes[0] == 0
    assert changes == sorted(changes) and 0.05 < changes[1] < 0.4 * changes[3]


def test_only_new_backgrounds_of_the_built_in_model_are_fresh_by_themselves():
    source = "a red circle on the grass"
    edits = {"a red circle on the sand": 0, "a blue circle on the grass": None, f"a sketch of {source}": None}
    for prompt, seed in edits.items():
        assert resolved_settings(EditSettings(), source, prompt, built_in=True).fresh_noise_seed == seed
        assert resolved_settings(EditSettings(), source, prompt).fresh_noise_seed is None
        for asked in (None, 7):
            given = EditSettings(fresh_noise_seed=asked)
            assert resolved_settings(given, source, prompt, built_in=True).fresh_noise_seed == asked
    unmasked = EditSettings(kind="background", blend=None)
    assert resolved_settings(unmasked, source, "a red circle on the sand", built_in=True).fresh_noise_seed is None
    original = EditSettings(quirks="original")
    assert resolved_settings(original, source, "a red circle on the sand", built_in=True).fresh_noise_seed is None


@pytest.mark.parametrize("seed", [-1, 1.5, True, "yes", 2**32, np.array([1, 2])])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(SettingsError, match="fresh_noise_seed is .*; a whole number from 0 to 4294967295"):
        EditSettings(fresh_noise_seed=seed)
