"""Words that stand in no prompt, looked for in a native MODEL."""

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.models.load import load_toy
from tests.comfyui.small_native import native_model, toy_unet

SOURCE = "a red circle on the grass"


@pytest.fixture(scope="module")
def toy():
    return load_toy()


@pytest.fixture(scope="module")
def latents():
    return torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def under_control(model):
    return load_pack("nodes.native.model").NativeModel(model)


@pytest.fixture
def inflated(toy):
    return ext.Pseudo3DUNet(toy_unet(), ext.InflationSettings(norm="frame"), scheduler=toy.unet.scheduler)


@pytest.mark.parametrize("policy", ["features", "maps"])
def test_words_that_no_prompt_has_are_found_as_in_the_inflated_unet(inflated, toy, latents, policy):
    heats = []
    for unet in (under_control(native_model()), inflated):
        controller = ext.Controller(unet, storage=ext.Storage(policy))
        source = ext.invert(controller, toy.text_encoder, latents, SOURCE, steps=2)
        heats.append(ext.word_heats(source, ("+square",), text_encoder=toy.text_encoder, follow_shapes=True))
    torch.testing.assert_close(*heats, rtol=1e-3, atol=1e-5)


def test_words_that_no_prompt_has_are_refused_where_a_patch_changes_what_they_are_compared_with(toy, latents):
    patched = native_model()
    patched.set_model_attn2_patch(lambda n, context, value, _options: (n, context, value))
    controller = ext.Controller(under_control(patched), storage=ext.Storage("maps"))
    source = ext.invert(controller, toy.text_encoder, latents, SOURCE, steps=1)
    with pytest.raises(ext.FateZeroError, match=r"\+square: words outside the source prompt cannot be looked for"):
        ext.word_heats(source, ("+square",), text_encoder=toy.text_encoder)
