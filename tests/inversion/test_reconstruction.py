"""Source maps taken from denoising the inverted clip again, in place of the inversion itself."""

import pytest
import torch

from fatezero_ext import Controller, edit, invert, register_attention_control
from fatezero_ext.attention.controller_bases import AttentionStore
from fatezero_ext.errors import SettingsError
from fatezero_ext.inversion.invert import Reconstruction

from ..conftest import recorded, relative
from ..small_runs import named

SOURCE = "a silver jeep driving down a curvy road"
EDIT = "a silver car driving down a curvy road"
STEPS = 4


@pytest.fixture(scope="module")
def clip():
    return torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def inverted(model, clip):
    return invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=STEPS)


def test_source_maps_can_come_from_a_reconstruction(model, clip, inverted):
    """The pass is an edit by the source prompt without control; its maps are at the edit's own noise level."""
    done = []
    again = invert(
        Controller(model.unet),
        model.text_encoder,
        clip,
        SOURCE,
        steps=STEPS,
        reconstruct=Reconstruction(guidance=3.0),
        on_step=lambda step: done.append((step.done, step.total)),
    )
    assert done == [(step + 1, 2 * STEPS) for step in range(2 * STEPS)]
    levels = []
    no_control = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)
    with register_attention_control(model.unet, store := AttentionStore()):
        edit(inverted, model.text_encoder, SOURCE, no_control, on_step=lambda step: levels.append(step.latents))
    assert relative(again.trace.latents[-1], inverted.trace.latents[-1]) < 1e-4
    for step, level in enumerate(levels):
        assert relative(again.trace.latents[STEPS - 1 - step], level) < 1e-3
        for key in ("down_cross", "up_self"):
            place, kind = key.split("_")
            page = recorded(again, step)
            kept = [probs for at, (probs, _site) in page.items() if (at.stage, at.kind) == (place, kind)]
            for got, wanted in zip(kept, store.step_maps(step)[key], strict=True):
                assert relative(got, wanted) < 1e-3


def test_a_fully_controlled_edit_of_a_reconstruction_is_the_reconstruction(model, clip):
    source = Reconstruction(guidance=3.0)
    again = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=STEPS, reconstruct=source)
    same = named(cross_replace=1.0, self_replace=1.0, guidance=3.0)
    result = edit(again, model.text_encoder, SOURCE, same).latents * model.unet.latent_format.scale
    assert relative(result, again.trace.latents[0]) < 1e-4
    with pytest.raises(SettingsError, match="guidance is -1"):
        Reconstruction(guidance=-1)
