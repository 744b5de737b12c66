"""A clip that a native MODEL computes in parts has the result of the whole."""

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.models.load import load_toy
from tests.comfyui.small_native import native_model
from tests.comfyui.test_native import EDIT, FRAMES, SOURCE, STEPS, distance, edited, rounding, under_control

from ..small_runs import NAMED


@pytest.fixture(scope="module")
def toy():
    return load_toy()


@pytest.fixture(scope="module")
def latents():
    return torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("apart", [False, True])
def test_a_clip_in_parts_is_that_of_the_whole_also_with_texts_in_calls_of_their_own(toy, latents, monkeypatch, apart):
    import comfy.model_base

    native = under_control(native_model(), (-1, "first"))
    blend = ext.BlendSettings(source_words=("circle",))
    trace, whole = edited(native, toy, latents, blend=blend)
    if apart:
        monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *_given, **_more: 2**60)
    controller = ext.invert(
        ext.Controller(native, storage=ext.Storage("features")), toy.text_encoder, latents, SOURCE, steps=STEPS,
        inversion_passes=0, frames_at_once=2,
    )  # fmt: skip
    settings = ext.EditSettings(**{**NAMED, "blend": blend})
    parts = ext.edit(controller, toy.text_encoder, EDIT, settings)
    assert distance(controller.trace.noise, trace.noise) < rounding(native)
    assert distance(parts.latents, whole.latents) < 1e-3 and parts.mask.equal(whole.mask)


def test_functions_that_may_look_at_all_frames_keep_a_clip_whole(toy, latents):
    model = native_model()
    model.set_model_attn2_patch(lambda n, context, value, _options: (n, context, value))
    with pytest.raises(ext.SettingsError, match="attention patches, which may look at all frames at once"):
        ext.invert(
            ext.Controller(under_control(model)), toy.text_encoder, latents, SOURCE, steps=STEPS, frames_at_once=2
        )
