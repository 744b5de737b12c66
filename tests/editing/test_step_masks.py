"""The masks of single steps of an edit, as `on_step` is given them."""

import pytest
import torch

from fatezero_ext import BlendSettings, Storage, edit
from fatezero_ext.inversion.trace import Trace

from ..small_runs import EDIT, STEPS, inverted, named

FUSED, BLENDED = range(4), (1, 2)  # of 5 steps: int(0.8 * 5) fused; int(0.2 * 5) < step + 1 < int(0.8 * 5) blended


def steps_of(model, controller, blend, **options):
    steps = []
    settings = named(guidance=1.0, blend=blend)
    result = edit(controller, model.text_encoder, EDIT, settings, on_step=steps.append, **options)
    return steps, result


@pytest.fixture(scope="module")
def controller(model):
    return inverted(model, Storage("features"))


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("latents", [True, False])
def test_each_step_gives_the_masks_it_used(model, controller, self_attention, latents):
    blend = BlendSettings(("jeep",), ("car",), threshold=0.5, self_attention=self_attention, latents=latents)
    steps, result = steps_of(model, controller, blend)
    fused = [step for step in range(STEPS) if steps[step].attention_mask is not None]
    blended = [step for step in range(STEPS) if steps[step].latent_mask is not None]
    assert fused == (list(FUSED) if self_attention else []) and blended == (list(BLENDED) if latents else [])
    masks = [mask for step in steps for mask in (step.attention_mask, step.latent_mask) if mask is not None]
    assert all(mask.dtype == torch.bool and mask.shape == (3, 16, 16) for mask in masks)
    mean = torch.stack(masks).float().mean(0) if masks else torch.ones(3, 16, 16)
    torch.testing.assert_close(result.mask, mean)
    last = torch.ones(3, 16, 16, dtype=torch.bool)  # of blended latents, even where self-attention was fused later
    if latents:
        last = steps[BLENDED[-1]].latent_mask
    elif self_attention:
        last = steps[FUSED[-1]].attention_mask
    assert result.last_mask.dtype == torch.bool and result.last_mask.equal(last)
    assert bool(last.all()) != (latents or self_attention) and last.any()


def test_latents_outside_a_steps_mask_are_the_sources(model, controller):
    steps, _ = steps_of(model, controller, BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True))
    trace: Trace = controller.trace
    for step in BLENDED:
        kept = ~steps[step].latent_mask[:, None].expand_as(steps[step].latents)
        assert kept.any() and steps[step].latents[kept].equal(trace.latents[STEPS - 1 - step][kept])


def test_an_edit_without_masks_and_an_inversion_have_none(model, controller):
    steps, result = steps_of(model, controller, None)
    assert all(step.attention_mask is None and step.latent_mask is None for step in steps)
    assert result.last_mask.dtype == torch.bool and result.last_mask.all()
    assert repr(result) == "EditResult(3 frames of 16x16 cells, 100% free to differ)"
    told = []
    inverted(model, Storage("recompute"), steps=1, on_step=told.append)
    assert told[0].attention_mask is None and told[0].latent_mask is None


def test_a_users_mask_is_the_mask_of_every_fused_step(model, controller):
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    steps, result = steps_of(model, controller, None, mask=mask)
    top = torch.zeros(3, 16, 16, dtype=torch.bool)
    top[:, :8] = True
    assert all(steps[step].attention_mask.equal(top) for step in FUSED)
    assert result.last_mask.equal(top)
