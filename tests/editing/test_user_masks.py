"""A mask of the user's own: what it means, and what does not fit."""

from dataclasses import replace

import pytest
import torch

from fatezero_ext import BlendSettings, Capture, Controller, edit, invert
from fatezero_ext.editing.user_mask import checked_mask
from fatezero_ext.errors import SettingsError

from ..conftest import relative
from ..small_runs import ROUNDING, named

SOURCE = "a silver jeep driving down a curvy road"
EDIT = "a silver car driving down a curvy road"
STEPS = 4
BLEND = BlendSettings(("jeep",), ("car",), threshold=0.5)


@pytest.fixture(scope="module")
def clip():
    return torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def inverted(model, clip):
    return invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=STEPS)


def test_a_mask_of_ones_is_an_edit_with_its_own_self_attention(model, inverted):
    ones = torch.ones(3, 64, 64)
    masked = edit(inverted, model.text_encoder, EDIT, named(), mask=ones)
    free = edit(inverted, model.text_encoder, EDIT, named(self_replace=0.0))
    assert relative(masked.latents, free.latents) < ROUNDING
    assert masked.mask.eq(1).all()


def test_a_mask_of_zeros_is_fully_fused_self_attention(model, inverted):
    masked = edit(inverted, model.text_encoder, EDIT, named(), mask=torch.zeros(1, 16, 16))
    fused = edit(inverted, model.text_encoder, EDIT, named())
    assert relative(masked.latents, fused.latents) < ROUNDING
    assert masked.mask.eq(0).all()


def test_a_users_mask_and_blend_words_must_both_allow_a_cell(model, inverted):
    half = torch.zeros(3, 16, 16)
    half[:, :, :8] = 1
    words = edit(inverted, model.text_encoder, EDIT, named(blend=BLEND)).mask
    both = edit(inverted, model.text_encoder, EDIT, named(blend=BLEND), mask=half).mask
    assert words[:, :, 8:].any() and not both[:, :, 8:].any()
    assert both[:, :, :8].equal(words[:, :, :8])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 16, 16), r"mask is shaped \[2, 16, 16\].*3 frames"),
        ((16, 16), r"mask is shaped \[16, 16\].*3 frames"),
        ((3, 64, 96), r"mask is 64x96 \(height x width\), .*frames are 128x128. Crop or scale"),
        ((3, 0, 0), "mask is 0x0"),
    ],
)
def test_masks_that_do_not_fit_the_clip_are_refused(model, inverted, shape, message):
    with pytest.raises(SettingsError, match=message):
        edit(inverted, model.text_encoder, EDIT, mask=torch.ones(shape))


@pytest.mark.parametrize("side", [16, 64, 128, 135, 1024])
def test_masks_of_the_clips_proportions_fit_at_any_scale(side):
    mask = torch.zeros(1, side, side)
    mask[:, :, side // 2 :] = 1
    fitted = checked_mask(mask, 3, (16, 16), 8)
    assert fitted.dtype == torch.bool and len(fitted) == 3
    assert fitted.float().mean((1, 2)).sub(0.5).abs().max() < 0.05


def test_a_mask_is_cut_about_the_centre_as_the_vae_cuts_frames():
    mask = torch.zeros(1, 135, 131)
    mask[:, 3, 1] = 1  # the first pixel that is left
    fitted = checked_mask(mask, 1, (16, 16), 8)
    assert fitted.shape == (1, 128, 128) and fitted[0, 0, 0] and fitted.sum() == 1


def test_a_users_mask_can_override_that_of_the_words(model, inverted):
    half = torch.zeros(3, 16, 16)
    half[:, :, :8] = 1
    override = replace(BLEND, mask_use="override", threshold=2.0)
    result = edit(inverted, model.text_encoder, EDIT, named(blend=override), mask=half)
    assert result.mask.equal(half)
    assert result.latents.equal(edit(inverted, model.text_encoder, EDIT, named(), mask=half).latents)
    by_words = [
        edit(inverted, model.text_encoder, EDIT, named(blend=b)) for b in (override, replace(BLEND, threshold=2.0))
    ]
    assert by_words[0].latents.equal(by_words[1].latents)


def test_a_mask_with_self_attention_left_out_blends_latents_only(model, clip):
    controller = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=5)
    half = torch.zeros(1, 16, 16)
    half[:, :, :8] = 1

    def with_blend(**switches):
        return edit(controller, model.text_encoder, EDIT, named(blend=BlendSettings((), **switches)), mask=half)

    by_latents = with_blend(self_attention=False, latents=True).latents
    for other in (edit(controller, model.text_encoder, EDIT), with_blend(self_attention=True, latents=True)):
        assert relative(by_latents, other.latents) > 10 * ROUNDING


@pytest.mark.parametrize(
    "settings",
    [
        named(self_replace=0.0),
        named(blend=BlendSettings((), self_attention=False)),
        named(self_replace=0.0, blend=BlendSettings((), latents=True)),
    ],
)
def test_a_mask_that_nothing_would_read_is_refused(model, clip, settings):
    controller = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=2)
    with pytest.raises(SettingsError, match="nothing reads it in 2 steps.*turn on blend_latents with at least 3 steps"):
        edit(controller, model.text_encoder, EDIT, settings, mask=torch.ones(1, 16, 16))


def test_an_overridden_mask_of_words_needs_no_layer(model, clip):
    controller = invert(Controller(model.unet, Capture(most_cells=4)), model.text_encoder, clip, SOURCE, steps=2)
    blend = BlendSettings(("jeep",), ("car",), downscale=16, mask_use="override")
    mask = torch.ones(1, 8, 8)
    assert edit(controller, model.text_encoder, EDIT, named(blend=blend), mask=mask).mask.eq(1).all()


def test_a_mask_alone_needs_no_layer_to_read_words_from(model, clip):
    controller = invert(Controller(model.unet, Capture(most_cells=4)), model.text_encoder, clip, SOURCE, steps=2)
    settings = named(blend=BlendSettings(()))
    assert edit(controller, model.text_encoder, EDIT, settings, mask=torch.ones(1, 8, 8)).latents.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "message"), [(torch.full((1, 8, 8), torch.nan), "not numbers"), ([[1.0]], "is a list")]
)
def test_masks_that_are_no_numbers_are_refused(mask, message):
    with pytest.raises(SettingsError, match=message):
        checked_mask(mask, 1, (1, 1), 8)
