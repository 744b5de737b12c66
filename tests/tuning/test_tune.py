"""Tuning a small model on a clip: what it changes, what it leaves, how it goes on, and what it refuses."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fatezero_ext import ClassPictures, TemporalLayers, TuningSettings, load_model, load_unet, tune
from fatezero_ext.errors import FateZeroError, ModelError, PromptError, SettingsError, StoreError, VideoError
from fatezero_ext.tuning import tune as tuning
from fatezero_ext.tuning.folder import TunedFolder
from fatezero_ext.tuning.planned_memory import planned_memory
from fatezero_ext.tuning.saved_state import state_file
from fatezero_ext.tuning.settings import TRAINED
from fatezero_ext.tuning.trainable import trainable, trained_names

from ..conftest import GOLDEN
from ..small_runs import SOURCE, clip

RATE = 1e-3
LAYERS = TemporalLayers(rank=4)
SETTINGS = TuningSettings(steps=3, learning_rate=RATE, temporal=LAYERS, save_every=1)
CLIP = clip(frames=2, height=8, width=8)
PICTURES = ClassPictures(clip(seed=5, frames=4, height=8, width=8), "a photo of a jeep")


class StopError(Exception):
    """A user's cancel button."""


def stop_after(step):
    """Raise where a user would cancel."""

    def on_step(done):
        if done.done == step:
            raise StopError

    return on_step


def tuned(model, settings=SETTINGS, latents=CLIP, prompt=SOURCE, **options):
    return tune(model.unet, model.text_encoder, latents, prompt, settings, **options)


def weights(unet):
    return {name: x.clone() for name, x in unet.net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(x.equal(other[name]) for name, x in one.items())


def prediction(unet, x=CLIP):
    text = torch.randn(1, 77, unet.text_width, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return unet(x, 501, text, frames=len(x))


def trained_part(model, recipe, **changes):
    settings = TuningSettings(recipe=recipe, **changes)
    return set(trained_names(trainable(model.unet, settings, "twin"), settings))


def test_recipes_train_the_published_modules(model):
    ours, theirs = trained_part(model, "fatezero", temporal=LAYERS), trained_part(model, "tune-a-video")
    for names, recipe in ((ours, "fatezero"), (theirs, "tune-a-video")):
        for name in names:
            assert any(part.endswith(TRAINED[recipe]) for part in prefixes(name)), name
    assert any("conv_temporal" in name for name in ours) and not any("conv_temporal" in name for name in theirs)
    assert {name for name in ours if "conv_temporal" not in name} == theirs
    assert not any("norm" in name for name in ours)


def prefixes(name):
    """The names of the modules that hold a weight."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@pytest.mark.parametrize("recipe", ["fatezero", "tune-a-video"])
def test_a_copy_that_is_not_trained_yet_predicts_the_same(model, recipe):
    twin = trainable(model.unet, TuningSettings(recipe=recipe), "twin")
    with torch.no_grad():
        torch.testing.assert_close(prediction(twin), prediction(model.unet), rtol=1e-5, atol=1e-5)


def test_full_convolutions_begin_as_the_identity(model):
    twin = trainable(model.unet, TuningSettings(temporal=TemporalLayers(rank=None)), "twin")
    torch.testing.assert_close(prediction(twin), prediction(model.unet), rtol=1e-5, atol=1e-5)


def test_tuning_changes_what_is_trained_and_nothing_of_the_model_that_came_in(model):
    before, predicted = weights(model.unet), prediction(model.unet)
    with torch.inference_mode():  # as ComfyUI runs nodes
        result = tuned(model)
    after = weights(result.unet)
    trained = set(result.record["trained"])
    assert same(weights(model.unet), before) and prediction(model.unet).equal(predicted)
    assert all(after[name].equal(x) for name, x in before.items() if name not in trained)
    assert all(not after[name].equal(x) for name, x in before.items() if name in trained)
    assert len(result.losses) == 3


def test_a_model_that_was_loaded_in_inference_mode_can_be_tuned():
    with torch.inference_mode():
        model = load_model(GOLDEN / "model")
        assert model.unet.net.conv_in.weight.is_inference()
        result = tuned(model, replace(SETTINGS, steps=1))
        assert prediction(result.unet).isfinite().all()


@pytest.mark.parametrize("recipe", ["fatezero", "tune-a-video"])
def test_the_saved_folder_is_the_tuned_model(model, recipe, tmp_path):
    settings = replace(SETTINGS, steps=1, recipe=recipe, temporal=None)
    result = tuned(model, settings, output=TunedFolder(tmp_path / "jeep", base=GOLDEN / "model"))
    found = load_model(tmp_path / "jeep")
    assert same(weights(found.unet), weights(result.unet))
    assert found.unet.digest() == result.unet.digest()
    assert prediction(found.unet).equal(prediction(result.unet))
    assert found.text_encoder.encode(SOURCE).equal(model.text_encoder.encode(SOURCE))
    record = json.loads((tmp_path / "jeep" / "tuning.json").read_text())
    assert (record["prompt"], record["steps"], record["losses"]) == (SOURCE, 1, list(result.losses))


def test_a_pickle_holds_the_names_of_the_authors_program(model, tmp_path, golden):
    tuned(model, replace(SETTINGS, steps=1), output=TunedFolder(tmp_path / "jeep", weights="bin"))
    file = tmp_path / "jeep" / "unet" / "diffusion_pytorch_model.bin"
    theirs = set(load_file(golden.tuned_folder / "diffusion_pytorch_model.safetensors"))
    assert set(torch.load(file, weights_only=True)) == theirs
    assert load_unet(tmp_path / "jeep" / "unet").settings.temporal.rank == LAYERS.rank


@pytest.mark.parametrize("changes", [{}, {"accumulation": 2, "warmup_steps": 2}, {"gradient_checkpointing": False}])
def test_a_cancelled_run_goes_on_to_the_same_bits(model, tmp_path, changes):
    settings = replace(SETTINGS, **changes)
    whole = tuned(model, settings, class_pictures=PICTURES)
    with pytest.raises(StopError):
        tuned(model, settings, class_pictures=PICTURES, output=tmp_path / "jeep", on_step=stop_after(2))
    assert not (tmp_path / "jeep").exists()
    resumed = tuned(model, settings, class_pictures=PICTURES, output=tmp_path / "jeep", resume=True)
    assert resumed.losses == whole.losses
    assert same(weights(resumed.unet), weights(whole.unet))


def test_a_finished_run_goes_on_with_more_steps(model, tmp_path):
    whole = tuned(model)
    tuned(model, replace(SETTINGS, steps=2, save_every=50), output=tmp_path / "jeep")
    longer = tuned(model, output=tmp_path / "jeep", resume=True)
    assert same(weights(longer.unet), weights(whole.unet))
    assert same(weights(load_unet(tmp_path / "jeep" / "unet")), weights(whole.unet))


def test_half_precision_trains_float32_masters(tmp_path):
    half = load_model(GOLDEN / "model", dtype=torch.bfloat16)
    result = tuned(half, replace(SETTINGS, learning_rate=1e-5), output=tmp_path / "jeep")
    saved = load_file(tmp_path / "jeep" / "unet" / "diffusion_pytorch_model.safetensors")
    trained = set(result.record["trained"])
    assert {saved[name].dtype for name in trained} == {torch.float32}
    assert {x.dtype for name, x in saved.items() if name not in trained} == {torch.bfloat16}
    assert all(x.equal(saved[name].bfloat16()) for name, x in weights(result.unet).items())
    # A step of 1e-5 is lost where a weight of 0.1 is rounded to bfloat16.
    queries = [name for name in trained if name.endswith("attn1.to_q.weight")]
    assert all(not saved[name].equal(saved[name].bfloat16().float()) for name in queries)


def test_a_preview_is_of_the_middle_frame(model):
    shown = []
    tuned(model, replace(SETTINGS, preview_every=2), on_step=lambda step: shown.append(step.preview and step.preview()))
    assert [None if x is None else tuple(x.shape) for x in shown] == [None, (1, 4, 8, 8), None]


def test_training_learns_the_clip(model):
    """The loss under one noise falls: with the same draw at each step nothing else could make it smaller."""
    result = tuned(model, replace(SETTINGS, steps=12, learning_rate=5e-3))
    first, last = sum(result.losses[:4]), sum(result.losses[-4:])
    assert last < first


def planned_with(model, **changes):
    with torch.inference_mode(False):
        return planned_memory(model.unet, replace(SETTINGS, **changes), 4, 16, 16)


def test_checkpointing_plans_fewer_activations_and_more_frames_more(model):
    lean, full = planned_with(model), planned_with(model, gradient_checkpointing=False)
    assert lean.activations < full.activations
    assert (lean.weights, lean.optimizer) == (full.weights, full.optimizer)
    with torch.inference_mode(False):
        assert planned_memory(model.unet, SETTINGS, 8, 16, 16).activations > lean.activations


def test_the_plan_counts_what_the_optimizer_holds(model):
    planned = planned_with(model)
    names = trained_part(model, "fatezero", temporal=LAYERS)
    twin = trainable(model.unet, SETTINGS, "twin")
    count = sum(x.numel() for name, x in twin.net.named_parameters() if name in names)
    assert (planned.trained, planned.optimizer) == (count, 12 * count)  # a gradient and two moments of four bytes


REFUSED = {
    "one frame": ({"latents": CLIP[:1]}, VideoError, "at least 2"),
    "no prompt": ({"prompt": " "}, PromptError, "empty"),
    "pictures of another size": (
        {"class_pictures": ClassPictures(clip(frames=4, height=16), "a jeep")},
        VideoError,
        "same size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_the_first_step(model, name):
    changes, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        tuned(model, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"recipe": "all"}, {"betas": (0.9, 1.0)}],
)
def test_settings_that_cannot_be_used_are_refused(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        TuningSettings(**changes)


def test_another_run_is_refused_by_what_differs(model, tmp_path):
    output = tmp_path / "jeep"
    with pytest.raises(StopError):
        tuned(model, output=output, on_step=stop_after(1))
    others = {
        "another clip": {"latents": CLIP + 1},
        "another prompt": {"prompt": "a car"},
        "other pictures": {"class_pictures": PICTURES},
        "learning_rate 0.001": {"settings": replace(SETTINGS, learning_rate=1e-4)},
    }
    for words, changes in others.items():
        with pytest.raises(StoreError, match=words):
            tuned(model, output=output, resume=True, **changes)
    with pytest.raises(StoreError, match="resume to go on"):
        tuned(model, output=output)


def test_a_folder_of_something_else_is_never_replaced(model, tmp_path):
    shutil.copytree(GOLDEN / "model", tmp_path / "sd")
    with pytest.raises(StoreError, match="no result of tuning"):
        tuned(model, output=tmp_path / "sd", resume=True)
    assert (tmp_path / "sd" / "unet" / "config.json").exists()


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(model, tmp_path):
    settings = replace(SETTINGS, steps=9, learning_rate=1e30)
    with pytest.raises(ModelError, match="lower the learning rate") as raised:
        tuned(model, settings, output=tmp_path / "jeep")
    state = state_file(tmp_path / "jeep")
    assert str(state) in str(raised.value)
    assert all(x.isfinite().all() for name, x in load_file(state).items() if name.startswith("weight."))


def test_a_full_disk_is_refused_before_the_first_step(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StoreError, match="1000 bytes free"):
        tuned(model, output=tmp_path / "jeep")


def test_a_disk_that_fills_up_leaves_the_older_state(model, tmp_path, monkeypatch):
    output, writes = tmp_path / "jeep", []
    from fatezero_ext.tuning import saved_state

    def full(tensors, path, metadata):
        writes.append(path)
        if len(writes) > 1:
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata)

    save = saved_state.save_file
    monkeypatch.setattr(saved_state, "save_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        tuned(model, output=output)
    monkeypatch.undo()
    whole = tuned(model)
    assert same(weights(tuned(model, output=output, resume=True).unet), weights(whole.unet))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jeep", "jeep.tuning.safetensors"]


def test_memory_that_does_not_suffice_is_refused_with_bytes(model, monkeypatch):
    from fatezero_ext.tuning import planned_memory as planning

    monkeypatch.setattr(planning, "free_on", lambda _device: 1000)
    with pytest.raises(SettingsError, match=r"needs .* MiB .*1000 bytes are free"):
        tuned(model)


def test_a_tuned_unet_is_tuned_on_with_the_layers_that_it_has(golden, model):
    unet = golden.unet(tuned=True)
    result = tune(unet, model.text_encoder, CLIP, SOURCE, replace(SETTINGS, steps=1))
    assert result.unet.settings == unet.settings
    assert result.unet.digest() != unet.digest()


def test_a_damaged_state_is_refused(model, tmp_path):
    state_file(tmp_path / "jeep").write_bytes(b"no state")
    with pytest.raises(FateZeroError, match="cannot be read"):
        tuned(model, output=tmp_path / "jeep", resume=True)
