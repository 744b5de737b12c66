"""A clip that a native MODEL computes in parts has the result of the whole."""

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.attention.clip_parts import PartCalls, joined
from fatezero_ext.models.load import load_toy
from tests.comfyui.small_native import native_model
from tests.comfyui.test_native import (
    EDIT,
    FRAMES,
    SOURCE,
    STEPS,
    controlnet,
    distance,
    edited,
    rounding,
    under_control,
)

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


def predicted_in_parts(unet, latents, text):
    """A clip's prediction under texts, computed two frames at a time."""
    parts = unet.parts(FRAMES, 2)
    calls = PartCalls(parts, unet.sites(FRAMES, 16, 16), texts=len(text))
    pieces = []
    for part in parts:
        attend = calls.attend(unet.kernel, part)
        own = unet(part.of(latents), 501, text, frames=len(part.frames), attend=attend)
        pieces.append(own.unflatten(0, (len(text), -1)).transpose(0, 1))
    return joined(parts, pieces).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("hints", [FRAMES, 2, 1])
def test_each_frame_of_a_part_is_steered_by_its_own_picture_of_a_controlnet(toy, latents, hints):
    chain = controlnet(hints).set_previous_controlnet(controlnet(FRAMES))
    conditioning = [[torch.zeros(1, 77, 64), {"control": chain, "control_apply_to_uncond": True}]]
    steered, text = (
        under_control(native_model(), (-1, "first"), conditioning),
        torch.cat([toy.text_encoder.encode(prompt) for prompt in (SOURCE, EDIT)]),
    )
    with torch.no_grad():
        whole, parts = steered.run(
            lambda: (steered(latents, 501, text, frames=FRAMES), predicted_in_parts(steered, latents, text)),
            2, FRAMES, 16, 16,
        )  # fmt: skip
        plain = under_control(native_model(), (-1, "first"))(latents, 501, text, frames=FRAMES)
    assert distance(whole, plain) > 1e-4 and distance(parts, whole) < 1e-5


def test_freeu_treats_each_frame_by_itself(toy, latents):
    from comfy_extras.nodes_freelunch import FreeU

    settings = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
    plain = native_model()
    model = (
        FreeU.execute(plain, **settings).result[0] if hasattr(FreeU, "execute") else FreeU().patch(plain, **settings)[0]
    )
    unet, text = (
        under_control(model, (-1, "first")),
        torch.cat([toy.text_encoder.encode(prompt) for prompt in (SOURCE, EDIT)]),
    )
    with torch.no_grad():
        whole = unet(latents, 501, text, frames=FRAMES)
        assert distance(predicted_in_parts(unet, latents, text), whole) < 1e-5
        assert distance(under_control(plain, (-1, "first"))(latents, 501, text, frames=FRAMES), whole) > 1e-4


def test_functions_that_may_look_at_all_frames_keep_a_clip_whole(toy, latents):
    model = native_model()
    model.set_model_attn2_patch(lambda n, context, value, _options: (n, context, value))
    with pytest.raises(ext.SettingsError, match="attention patches, which may look at all frames at once"):
        ext.invert(
            ext.Controller(under_control(model)), toy.text_encoder, latents, SOURCE, steps=STEPS, frames_at_once=2
        )


def test_a_controlnet_of_another_pack_may_look_at_all_frames(toy, latents):
    from comfy.controlnet import ControlNet

    class OfPictures(ControlNet):
        pass

    conditioning = [[torch.zeros(1, 77, 64), {"control": OfPictures(), "control_apply_to_uncond": True}]]
    with pytest.raises(ext.SettingsError, match="a ControlNet of another pack, which may look at all frames at once"):
        under_control(native_model(), (), conditioning).parts(FRAMES, 2)
