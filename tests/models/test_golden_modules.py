"""Single modules against the authors' program, within 1e-5."""

import pytest
import torch
from einops import rearrange

from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.models.unet.forward_context import Call, running

from ..conftest import STYLE_RUN, frames_first

FRAMES = 3


@pytest.fixture(scope="module")
def units(golden):
    return golden.tensors("units/modules")


def assert_near(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "tuned"),
    [("model", None, False), ("model_style", STYLE_RUN, False), ("model_tuned", None, True)],
)
def test_noise_prediction_of_a_clip(golden, units, name, settings, tuned):
    unet = golden.unet(settings, tuned=tuned)
    eps = unet(frames_first(units["unet.x"]), units["unet.t"], units["unet.emb"], frames=FRAMES)
    assert_near(eps, frames_first(units[f"unet.{name}.eps"]))


@pytest.mark.parametrize("name", ["model", "model_tuned"])
def test_blocks_in_the_order_the_clip_passes_them(golden, units, name):
    """One forward pass of each block with the others' inputs given."""
    unet = golden.unet(tuned=name == "model_tuned")
    net = unet.net
    block, text = net.down_blocks[0], units["unet.emb"]
    h, temb = frames_first(units["block.h"]), units["block.temb"].repeat_interleave(FRAMES, 0)
    with torch.no_grad(), running(Call(FRAMES, sites=unet.sites(FRAMES, 16, 16))):
        outputs = {
            "conv_in": net.conv_in(frames_first(units["unet.x"])),
            "down_blocks.0.resnets.0": block.resnets[0](h, temb),
            "down_blocks.0.attentions.0": block.attentions[0](h, encoder_hidden_states=text).sample,
            "down_blocks.0.downsamplers.0": block.downsamplers[0](h),
        }
        time = net.time_embedding(net.time_proj(torch.tensor([501, 501])))
    for module, output in outputs.items():
        wanted = units[f"{name}.{module}"]
        got = rearrange(output, "(b f) c h w -> b c f h w", f=FRAMES)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5, msg=lambda text, at=module: f"{at}: {text}")
    assert_near(time, units[f"{name}.time_embedding(501)"])


@pytest.mark.parametrize("steps", [6, 10, 50])
def test_timesteps_descend_as_in_the_reference(units, steps):
    assert list(Schedule.from_config(None, steps).timesteps) == units[f"ddim.timesteps{steps}"].tolist()


@pytest.mark.parametrize("timestep", [1, 167, 333, 499, 665, 831])
def test_ddim_steps_both_ways(units, timestep):
    schedule = Schedule.from_config(None, 6)
    step = schedule.timesteps.index(timestep)
    x, eps = units["ddim.sample"], units["ddim.noise"]
    assert_near(schedule.denoise(x, eps, step), units[f"ddim.step.{timestep}"])
    assert_near(schedule.invert(x, eps, step), units[f"ddim.invert.{timestep}"])


def test_text_embeddings(model, units):
    prompts = [key.removeprefix("text.") for key in units if key.startswith("text.")]
    assert len(prompts) == 4
    for prompt in prompts:
        assert_near(model.text_encoder.encode(prompt), units[f"text.{prompt}"])
