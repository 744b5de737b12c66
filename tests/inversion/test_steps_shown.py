"""What a run shows of itself while it works."""

import json
import shutil

import pytest
import torch

from fatezero_ext import Controller, Storage, edit, invert, load_model, load_toy
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.diffusion.preview_colours import FILE, LatentColours
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.errors import ModelError
from fatezero_ext.models.folder.detect import TOY_FOLDER
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..conftest import relative
from ..small_runs import EDIT, SOURCE, clip, inverted, named


def noised(schedule, clean, noise, step):
    alpha = schedule.alphas[schedule.timesteps[step]]
    return clean * alpha**0.5 + noise * (1 - alpha) ** 0.5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_clean_clip_is_told_from_a_right_prediction(noise, prediction):
    schedule = Schedule.from_config({"prediction_type": prediction}, steps=10)
    clean, added = noise(2, 4, 8, 8), noise(2, 4, 8, 8)
    for step in range(10):
        alpha = schedule.alphas[schedule.timesteps[step]]
        velocity = added * alpha**0.5 - clean * (1 - alpha) ** 0.5
        predicted = added if prediction == "epsilon" else velocity
        assert relative(schedule.clean(noised(schedule, clean, added, step), predicted, step), clean) < 1e-4


def test_a_level_of_pure_noise_shows_numbers(noise):
    schedule = Schedule((999,), (0.9,) * 999 + (0.0,), 1.0, "v_prediction")
    assert schedule.clean(noise(1, 4, 2, 2), noise(1, 4, 2, 2), 0).isfinite().all()


def test_an_inversion_shows_its_latents_and_an_edit_what_comes_out_of_it(model):
    steps = []
    controller = invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=3, on_step=steps.append)
    assert all(step.preview() is step.latents for step in steps)
    assert steps[-1].latents.float().equal(controller.trace.noise)
    steps.clear()
    settings = named(guidance=1.0)
    result = edit(controller, model.text_encoder, EDIT, settings, on_step=steps.append)
    distances = [relative(step.preview(), steps[-1].latents) for step in steps]
    assert distances[0] > 0.1 > max(distances[1:])
    assert steps[-1].latents.div(model.unet.latent_format.scale).equal(result.latents)


def test_colours_are_found_again(noise):
    known = LatentColours(tuple(map(tuple, (noise(4, 3) / 8).round(decimals=3).tolist())), (0.1, -0.2, 0.3))
    latents = noise(3, 4, 6, 5)
    colours = torch.einsum("fchw,cd->fhwd", latents, torch.tensor(known.factors)) + torch.tensor(known.bias)
    frames = (colours / 2 + 0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
    found = LatentColours.fitted(latents, frames)
    torch.testing.assert_close(torch.tensor(found.factors), torch.tensor(known.factors), atol=2e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(found.bias), torch.tensor(known.bias), atol=2e-4, rtol=0)


def test_the_built_in_models_colours_show_the_sample_clip():
    model = load_toy()
    frames = torch.from_numpy(example_clip().frames)
    latents, colours = model.vae.encode(frames) * model.unet.latent_format.scale, model.unet.latent_format.colours
    shown = torch.einsum("fchw,cd->fhwd", latents, torch.tensor(colours.factors)) + torch.tensor(colours.bias)
    cells = torch.nn.functional.adaptive_avg_pool2d(frames.movedim(-1, 1), latents.shape[-2:]).movedim(1, -1)
    alike = torch.corrcoef(torch.stack([shown.flatten(), cells.flatten()]))[0, 1]
    redness, inside = shown[..., 0] - shown[..., 1], torch.from_numpy(example_clip().masks)
    inside = torch.nn.functional.adaptive_avg_pool2d(inside, redness.shape[-2:])
    assert alike > 0.5 and redness[inside > 0.9].mean() > redness[inside < 0.1].mean() + 0.3


def test_a_folder_without_colours_has_stable_diffusions(model, tmp_path):
    assert model.unet.latent_format.colours is None and LatentColours.read(tmp_path) is None


@pytest.mark.parametrize(
    "said", ["no", "[]", "{}", '{"factors": [[1, 2]], "bias": [1, 2, 3]}', '{"factors": 3, "bias": [1, 2, 3]}', "{"]
)
def test_odd_colours_are_refused_by_name(tmp_path, said):
    (tmp_path / FILE).write_text(said)
    with pytest.raises(ModelError, match=f"{FILE}.*(needed|are)"):
        LatentColours.read(tmp_path)


def test_saved_colours_are_read_again(tmp_path):
    colours = LatentColours(((1.0, 2.0, 3.0), (0.5, 0.25, 0.0)), (0.0, 1.0, -1.0))
    colours.save(tmp_path)
    assert LatentColours.read(tmp_path) == colours and json.loads((tmp_path / FILE).read_text())["bias"] == [0, 1, -1]


def test_colours_of_other_channels_than_the_unets_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TOY_FOLDER, folder)
    LatentColours(((1.0, 2.0, 3.0),) * 3, (0.0, 0.0, 0.0)).save(folder)
    with pytest.raises(ModelError, match=f"{FILE} has colours of 3 channels; the UNet has 4"):
        load_model(folder)


def test_an_inversion_found_on_disk_shows_its_noise(model, tmp_path):
    steps = []
    on_disk = Storage("features", "disk", cache=InversionCache(tmp_path))
    for _ in range(2):
        found = inverted(model, on_disk, on_step=steps.append)
    assert steps[-1].preview().equal(found.trace.noise) and steps[-1].preview().device == model.unet.device
