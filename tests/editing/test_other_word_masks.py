"""Masks of edits from words that stand in no prompt, and masks that follow shapes."""

from dataclasses import replace

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Capture,
    EditSettings,
    Reading,
    Storage,
    edit,
    register_attention_control,
    word_heats,
)
from fatezero_ext.editing.masks import threshold_heat
from fatezero_ext.errors import PromptError, SettingsError
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..small_runs import EDIT, ROUNDING, STEPS, calls_of, inverted, named

SIZE = (16, 16)


@pytest.fixture(scope="module")
def kept(model):
    return inverted(model, Storage("features"))


def edited(model, controller, blend, **options):
    return edit(controller, model.text_encoder, EDIT, named(guidance=3.0, blend=blend), **options)


def masks_of(model, controller, blend):
    """The mask of self-attention at every step that fuses it."""
    masks = []
    edited(model, controller, blend, on_step=lambda step: masks.append(step.attention_mask))
    return [mask for mask in masks if mask is not None]


def heat_at(model, controller, words, step, **options):
    window = ((step + 0.5) / STEPS, (step + 0.5) / STEPS)
    return word_heats(controller, words, Reading(window), text_encoder=model.text_encoder, **options)[0]


# Heat that has followed the shapes of a model that learnt nothing is almost even.
@pytest.mark.parametrize(("follows", "threshold"), [(False, 0.6), (True, 0.99)])
def test_the_mask_is_where_the_word_s_heat_is(model, kept, follows, threshold):
    masks = masks_of(model, kept, BlendSettings(("+boat",), threshold=threshold, follow_shapes=follows))
    for step, mask in enumerate(masks):
        heat = heat_at(model, kept, ("+boat",), step, follow_shapes=follows)
        assert mask.equal(threshold_heat(heat, threshold, SIZE))
    assert len(masks) == 4 and 0 < torch.stack(masks).float().mean() < 1


def test_a_word_that_no_prompt_has_is_cut_out_of_the_mask(model, kept):
    blend = BlendSettings(("jeep",), threshold=0.3, subtract_words=("+boat",), subtract_threshold=0.8)
    masks = masks_of(model, kept, blend)
    for step, mask in enumerate(masks):
        # "jeep" is read under the longer text as well
        own, cut = word_heats(
            kept,
            ("jeep", "+boat"),
            Reading(((step + 0.5) / STEPS,) * 2),
            text_encoder=model.text_encoder,
        )
        outside = threshold_heat(cut, 0.8, SIZE, grow=False)
        assert outside.any() and mask.equal(threshold_heat(own, 0.3, SIZE) & ~outside)


@pytest.mark.parametrize("policy", ["maps", "recompute", "disk", "found on disk"])
def test_every_policy_edits_alike(model, kept, tmp_path, policy):
    storage = Storage(policy) if "disk" not in policy else Storage("maps", "disk", cache=InversionCache(tmp_path))
    controller = inverted(model, storage)
    if policy == "found on disk":
        controller = inverted(model, storage)
    blend = BlendSettings(("+boat", "jeep"), threshold=0.5, latents=True)
    found, wanted = (edited(model, each, blend) for each in (controller, kept))
    # A cell whose heat is at the threshold within rounding may fall on either side; with this clip none does.
    assert found.mask.equal(wanted.mask) and 0 < wanted.mask.mean() < 1
    assert (found.latents - wanted.latents).norm() / wanted.latents.norm() < ROUNDING


@pytest.mark.parametrize(("latents", "steps_with_masks"), [(False, 1), (True, 3)])
def test_where_maps_are_stored_the_source_runs_again_at_steps_that_read_a_mask_alone(model, latents, steps_with_masks):
    """Of 5 steps all but the last read the source's cross-attention; fused under a mask is one, blended are two."""
    controller = inverted(model, Storage("maps"))
    settings = named(guidance=1.0, self_replace=0.2, blend=BlendSettings(("+boat",), threshold=0.6, latents=latents))
    with calls_of(model.unet.net) as calls:
        edit(controller, model.text_encoder, EDIT, settings)
    assert len(calls) == STEPS + steps_with_masks


def test_a_plus_changes_nothing_where_a_mask_overrides_the_words(model, kept):
    mask = torch.zeros(1, *SIZE)
    mask[:, :8] = 1
    results = [
        edited(model, kept, BlendSettings((word,), mask_use="override", latents=True), mask=mask).latents
        for word in ("jeep", "+boat")
    ]
    assert results[0].equal(results[1])


def never(step):
    raise AssertionError("a step was computed")


def test_a_misspelt_word_is_refused_and_the_plus_is_offered(model, kept):
    with pytest.raises(PromptError, match=r"blend_words: 'jepe' is not in the prompt.*write \+jepe"):
        edited(model, kept, BlendSettings(("jepe",)), on_step=never)


def test_following_shapes_without_self_attention_is_refused(model):
    controller = inverted(model, Storage("features"), capture=Capture(self_attention=False), steps=1)
    settings = EditSettings(self_replace=0.0, blend=BlendSettings(("jeep",), latents=True, follow_shapes=True))
    with pytest.raises(SettingsError, match="follow_shapes is on but the inversion recorded no self-attention"):
        edit(controller, model.text_encoder, EDIT, settings, on_step=never)
    edit(controller, model.text_encoder, EDIT, replace(settings, blend=replace(settings.blend, follow_shapes=False)))


def registered(model):
    return register_attention_control(model.unet, lambda q, k, v, site: model.unet.kernel(q, k, v, site))


@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("policy", ["maps", "features", "auto"])
def test_a_word_beside_the_prompt_is_refused_before_the_first_step_under_a_registered_controller(
    model, monkeypatch, policy, latents
):
    """Maps show no other words, and the source must not run again under what may change it.

    Where the queries of a layer are larger than its map, as in wide models, its map is stored under each policy.
    """
    if policy != "maps":
        monkeypatch.setattr("fatezero_ext.attention.controlled_layer.WORTH_FUSING", 0.0)
    controller = inverted(model, Storage(policy))
    settings = named(guidance=1.0, self_replace=(0.6, 0.8), blend=BlendSettings(("+boat",), latents=latents))
    with (
        registered(model),
        calls_of(model.unet.net) as calls,
        pytest.raises(SettingsError, match="stored as maps, in which words outside the source prompt cannot.*unregist"),
    ):
        edit(controller, model.text_encoder, EDIT, settings, on_step=never)
    assert calls == []


def test_a_word_beside_the_prompt_is_looked_for_under_a_registered_controller_where_queries_are_stored(model, kept):
    blend = BlendSettings(("+boat",), threshold=0.6)
    wanted = edited(model, kept, blend)
    with registered(model), calls_of(model.unet.net) as calls:
        found = edited(model, kept, blend)
    assert found.mask.equal(wanted.mask) and len(calls) == STEPS
