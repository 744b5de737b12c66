"""Tuning a small model on a clip: what it changes, what it leaves, how it goes on, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.autograd.graph import saved_tensors_hooks

from fatezero_ext import ClassPictures, InflationSettings, TemporalLayers, TuningSettings, load_model, load_unet, tune
from fatezero_ext.errors import FateZeroError, PromptError, SettingsError, StoreError, VideoError
from fatezero_ext.memory.free_memory import OutOfMemoryError
from fatezero_ext.models.unet.temporal import LowRankTemporalConv
from fatezero_ext.tuning.draws import RandomDraws
from fatezero_ext.tuning.folder import TunedFolder
from fatezero_ext.tuning.planned_memory import planned_memory
from fatezero_ext.tuning.settings import TRAINED
from fatezero_ext.tuning.trainable import normal, trainable, trained_names
from fatezero_ext.tuning.training import Lesson, Training

from ..conftest import GOLDEN
from ..small_runs import SOURCE, clip
from .runs import CLIP, LAYERS, RATE, SETTINGS, prediction, same, tuned, weights


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


@pytest.mark.parametrize("moved", [False, True])
def test_a_model_that_was_loaded_in_inference_mode_can_be_tuned(moved):
    with torch.inference_mode():
        model = load_model(GOLDEN / "model")
        assert model.unet.net.conv_in.weight.is_inference()
        if moved:  # to a GPU when the run begins
            model.unet.load_to_device = lambda _nbytes: model.unet.net._apply(lambda x: x.clone())
        result = tuned(model, replace(SETTINGS, steps=1))
        assert prediction(result.unet).isfinite().all()


def test_a_weight_that_was_moved_out_of_inference_mode_can_stand_in_a_backward_pass():
    with torch.inference_mode():
        layer = torch.nn.Linear(2, 2)
    layer.weight.data = layer.weight.data.clone()  # as Module.to does
    x = torch.ones(1, 2, requires_grad=True)
    (x @ normal(layer.weight)).sum().backward()
    assert x.grad is not None


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


def test_a_rank_above_all_widths_is_saved_so_that_the_authors_program_finds_the_same_shapes(model, tmp_path):
    settings = replace(SETTINGS, steps=1, temporal=TemporalLayers(rank=2000))
    result = tuned(model, settings, output=TunedFolder(tmp_path / "jeep"))
    rank = json.loads((tmp_path / "jeep" / "unet" / "config.json").read_text())["lora"]
    for module in result.unet.net.modules():
        if isinstance(module, LowRankTemporalConv):  # their rule
            width = module.down.in_channels
            assert module.down.out_channels == (rank if rank <= width else width // 2)


def test_attention_over_time_is_tuned_where_a_saved_folder_has_it_alone(model):
    layers = TemporalLayers(rank=4, position="after_cross")
    with pytest.raises(SettingsError, match="'after_feedforward' alone"):
        tuned(model, replace(SETTINGS, temporal=layers))


def test_the_record_says_which_key_frames_and_norm_it_was_trained_with():
    model = load_model(GOLDEN / "model", InflationSettings(key_frames=("mid",), least_sc_channel=64, norm="frame"))
    record = tuned(model, replace(SETTINGS, steps=1)).record
    assert (record["key_frames"], record["least_sc_channel"], record["norm"]) == (["mid"], 64, "frame")


def test_attention_is_never_computed_with_whole_maps_that_were_not_planned(model):
    def maps(*_call):
        raise AssertionError("the UNet's own kernel was called")

    sliced = load_model(GOLDEN / "model", attention=maps)
    assert tuned(sliced, replace(SETTINGS, steps=1)).losses == tuned(model, replace(SETTINGS, steps=1)).losses


def test_a_step_keeps_no_more_than_planned(model):
    """The bytes that autograd keeps for the backward pass, counted on the CPU with activations kept."""
    settings = replace(SETTINGS, gradient_checkpointing=False)
    planned, held = planned_with(model, gradient_checkpointing=False), {}

    def keep(x):
        held[x.untyped_storage().data_ptr()] = x
        return x

    latents = clip(frames=4, height=16, width=16)
    training = Training(model.unet, settings, RandomDraws(0, 1000), clip=Lesson(latents, torch.zeros(1, 77, 32)))
    weights_there = {x.untyped_storage().data_ptr() for x in training._twin.net.parameters()}
    with saved_tensors_hooks(keep, lambda x: x):
        training._loss_of_clip()
    kept = sum(x.untyped_storage().nbytes() for at, x in held.items() if at not in weights_there)
    assert 0.5 * planned.activations < kept <= planned.activations


def test_a_preview_is_of_the_middle_frame(model):
    shown = []
    tuned(model, replace(SETTINGS, preview_every=2), on_step=lambda step: shown.append(step.preview and step.preview()))
    assert [None if x is None else tuple(x.shape) for x in shown] == [None, (1, 4, 8, 8), None]


def test_a_preview_that_runs_out_of_memory_ends_with_what_to_lower(model, monkeypatch):
    def full(_training):
        raise OutOfMemoryError("Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Training, "preview", full)
    settings = replace(SETTINGS, preview_every=1, save_every=50)
    with pytest.raises(OutOfMemoryError, match="Use fewer or smaller frames"):
        tuned(model, settings, on_step=lambda step: step.preview())


def test_training_learns_the_clip(model, monkeypatch):
    """The loss falls, though noise and timestep are the same at each step: nothing but the weights can lower it."""
    drawn = RandomDraws(0, 1000).clip(CLIP.shape)
    monkeypatch.setattr(RandomDraws, "clip", lambda _draws, _shape: drawn)
    losses = tuned(model, replace(SETTINGS, steps=6)).losses
    assert losses[-1] < losses[0]


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
    "no class prompt": ({"class_pictures": ClassPictures(CLIP, " ")}, PromptError, "class prompt is empty"),
    "flat pictures": ({"class_pictures": ClassPictures(CLIP[0], "a jeep")}, StoreError, "the class pictures' latents"),
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


def test_settings_may_be_numbers_of_numpy(model, tmp_path):
    numbers = {
        "seed": np.int64(1),
        "steps": np.int32(1),
        "learning_rate": np.float32(RATE),
        "betas": (np.float32(0), 0),
    }
    settings = replace(SETTINGS, temporal=TemporalLayers(rank=np.int64(4)), **numbers)
    assert tuned(model, settings, output=tmp_path / "jeep").folder.exists()


@pytest.mark.parametrize("options", [{"output": b"jeep"}, {"settings": {"steps": 3}}])
def test_other_types_are_refused_with_what_came(model, options):
    with pytest.raises(FateZeroError, match="in place of"):
        tuned(model, **options)


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
