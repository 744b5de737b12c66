"""What an edit draws anew can begin from fresh noise."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    EditSettings,
    SettingsError,
    Storage,
    edit,
    resolved_settings,
)
from fatezero_ext.diffusion.schedule import STABLE_DIFFUSION_SCHEDULER, Schedule
from fatezero_ext.editing.fresh_noise import FreshNoise

from ..small_runs import EDIT, FRAMES, SIDE, film, inverted, named


@pytest.fixture(scope="module")
def source(exact_model):
    return inverted(exact_model, Storage("features", "ram"), latents=film()[0], steps=3)


def levels_of(source, exact_model, settings, **options):
    """Latents after every step of an edit."""
    levels = []
    edit(source, exact_model.text_encoder, EDIT, settings, on_step=lambda step: levels.append(step.latents), **options)
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


def test_one_step_alone_is_renewed_where_the_edit_is_free_and_all_frames_agree(noise):
    x, free = noise(FRAMES, 4, SIDE, SIDE), noise(FRAMES, SIDE, SIDE) > -0.5
    fresh = FreshNoise(Schedule.from_config(None, 10), seed=4, share=1.0, begins=2)
    here = free[:, None].expand_as(x)
    renewed = fresh.put_into(x, 2, lambda: torch.zeros_like(x), lambda: free)
    assert torch.equal(renewed[~here], x[~here])
    assert (renewed != x)[here].float().mean() > 0.99
    everywhere = fresh.put_into(x, 2, lambda: torch.zeros_like(x), lambda: None)
    assert torch.equal(everywhere, everywhere[:1].expand_as(x))
    for other in (0, 1, 3):
        assert torch.equal(fresh.put_into(x, other, lambda: torch.zeros_like(x), lambda: free), x)


def test_a_single_step_ends_in_what_it_drew_and_not_in_noise(exact_model):
    source = inverted(exact_model, Storage("features", "ram"), latents=film()[0], steps=1)
    settings = named(guidance=3.0)
    plain, fresh = (
        edit(source, exact_model.text_encoder, EDIT, replace(settings, fresh_noise_seed=seed)).latents
        for seed in (None, 4)
    )
    assert torch.equal(plain, fresh)


def test_a_seed_gives_the_same_again_and_another_one_something_else(source, exact_model):
    settings = named(guidance=3.0, hold_still=True)
    plain, first, again, other = (
        edit(source, exact_model.text_encoder, EDIT, replace(settings, fresh_noise_seed=seed)).latents
        for seed in (None, 4, np.int64(4), 2**32 - 1)
    )
    assert torch.equal(first, again)
    moving = film()[1][:, None].expand_as(first)
    for one in (plain, other):
        for where in (moving, ~moving):
            assert (first - one)[where].abs().mean() > 0.1


@pytest.mark.parametrize("hold_still", [True, False])
def test_an_edit_in_parts_draws_the_same(source, exact_model, hold_still):
    blend = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
    settings = named(guidance=3.0, blend=blend, hold_still=hold_still, fresh_noise_seed=4)
    whole = edit(source, exact_model.text_encoder, EDIT, settings)
    parts = edit(source, exact_model.text_encoder, EDIT, settings, frames_at_once=2)
    assert (whole.latents - parts.latents).abs().max() < 1e-4


WORDS = BlendSettings(("jeep",), threshold=0.5)
LATE = {
    "from the first step on": ({"blend": WORDS}, 0),
    "self-attention later": ({"blend": WORDS, "self_replace": (0.4, 0.8)}, 2),
    "latents alone": ({"blend": replace(WORDS, self_attention=False, latents=True)}, 1),
}


@pytest.mark.parametrize("name", LATE)
def test_noise_is_fresh_once_words_have_said_what_is_to_be_kept(exact_model, name):
    """The step after which it is, and what their mask keeps there, are those of the edit without it."""
    given, step = LATE[name]
    source = inverted(exact_model, Storage("features", "ram"), latents=film()[0], steps=5)
    steps = {}
    for seed in (None, 4):
        settings = named(guidance=3.0, fresh_noise_seed=seed, **given)
        steps[seed] = []
        edit(source, exact_model.text_encoder, EDIT, settings, on_step=steps[seed].append)
    assert all(torch.equal(steps[None][before].latents, steps[4][before].latents) for before in range(step))
    plain, fresh = (steps[seed][step] for seed in (None, 4))
    free = plain.attention_mask if plain.latent_mask is None else plain.latent_mask
    kept = ~free
    assert kept.float().mean() > 0.1
    change = (plain.latents - fresh.latents).abs().mean(1)
    assert not change[kept].any()
    assert change[~kept].mean() > 0.1


TOO_FEW = {
    "latents": {"blend": replace(WORDS, self_attention=False, latents=True)},
    "self-attention": {"blend": WORDS, "self_replace": (0.1, 0.4)},
}


@pytest.mark.parametrize("name", TOO_FEW)
def test_two_steps_too_few_for_a_mask_leave_the_noise_of_the_inversion(exact_model, name):
    source = inverted(exact_model, Storage("features", "ram"), latents=film()[0], steps=2)
    plain, fresh, unmasked = (
        levels_of(source, exact_model, named(guidance=3.0, **{**TOO_FEW[name], **given}))
        for given in ({}, {"fresh_noise_seed": 4}, {"fresh_noise_seed": 4, "blend": None})
    )
    assert all(map(torch.equal, plain, fresh))
    assert not torch.equal(plain[0], unmasked[0])


def test_what_a_mask_keeps_begins_from_its_own_noise(source, exact_model):
    """In the first step too, before latents are blended."""
    mask = torch.ones(FRAMES, SIDE, SIDE)
    mask[:, : SIDE // 2] = 0
    settings = named(guidance=3.0, blend=BlendSettings((), latents=True))
    plain, fresh = (
        levels_of(source, exact_model, replace(settings, fresh_noise_seed=seed), mask=mask)[0] for seed in (None, 4)
    )
    assert torch.equal(plain[:, :, : SIDE // 2], fresh[:, :, : SIDE // 2])
    assert (plain - fresh)[:, :, -1].abs().mean() > 0.5


def test_less_strength_keeps_more_of_the_clip_s_own_noise(source, exact_model):
    settings = named(guidance=3.0)
    changes = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        plain, fresh = (
            levels_of(source, exact_model, replace(settings, strength=strength, fresh_noise_seed=seed))[0]
            for seed in (None, 4)
        )
        changes.append(float((plain - fresh).abs().mean()))
    assert changes[0] == 0
    assert changes == sorted(changes) and 0.05 < changes[1] < 0.4 * changes[3]


def test_new_objects_and_backgrounds_of_the_built_in_model_are_fresh_by_themselves():
    source = "a red circle on the grass"
    edits = {
        "a red circle on the sand": 0,
        "a red square on the grass": 0,
        "a blue circle on the grass": None,
        f"a sketch of {source}": None,
    }
    for prompt, seed in edits.items():
        assert resolved_settings(EditSettings(), source, prompt, built_in=True).fresh_noise_seed == seed
        assert resolved_settings(EditSettings(), source, prompt).fresh_noise_seed is None
        for asked in (None, 7):
            given = EditSettings(fresh_noise_seed=asked)
            assert resolved_settings(given, source, prompt, built_in=True).fresh_noise_seed == asked


@pytest.mark.parametrize("prompt", ["a red circle on the sand", "a red square on the grass"])
def test_nothing_is_fresh_by_itself_where_no_mask_keeps_the_rest(prompt):
    """Objects are then drawn with the values that are best from the noise of the inversion."""
    found = partial(resolved_settings, source_prompt="a red circle on the grass", edit_prompt=prompt, built_in=True)
    fused = EditSettings(blend=BlendSettings("auto"))
    unmasked = [
        EditSettings(kind="auto", blend=None),
        EditSettings(quirks="original"),
        replace(fused, self_replace=0.0),
    ]
    cross, guidance = found(EditSettings()).cross_replace, found(EditSettings()).guidance
    assert found(fused).fresh_noise_seed == 0
    assert found(fused, self_attention=False).fresh_noise_seed is None
    for settings in unmasked:
        assert found(settings).fresh_noise_seed is None
        asked = found(replace(settings, fresh_noise_seed=2))
        assert (asked.fresh_noise_seed, asked.cross_replace, asked.guidance) == (2, cross, guidance)
        if prompt.endswith("grass"):
            assert (found(settings).cross_replace, found(settings).guidance) == ((0.0, 0.5), 3.0) != (cross, guidance)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "yes", 2**32, np.array([1, 2])])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(SettingsError, match="fresh_noise_seed is .*; a whole number from 0 to 4294967295"):
        EditSettings(fresh_noise_seed=seed)
