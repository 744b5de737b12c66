"""Stopped, broken and finished tuning runs: what is kept on disk, how they go on, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fatezero_ext import load_model, load_unet
from fatezero_ext.errors import FateZeroError, ModelError, StoreError
from fatezero_ext.tuning import tune as tuning
from fatezero_ext.tuning.draws import RandomDraws
from fatezero_ext.tuning.file_names import state_file
from fatezero_ext.tuning.folder import TunedFolder, _put
from fatezero_ext.tuning.saved_state import IDENTITY, read_state
from fatezero_ext.tuning.training import Training

from ..conftest import GOLDEN
from .runs import CLIP, PICTURES, RATE, SETTINGS, StopError, same, stop_after, tuned, weights


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


def test_a_clip_that_lies_otherwise_in_memory_goes_on_to_the_same_bits(model, tmp_path):
    """As ComfyUI's VAE hands latents on; a state on disk keeps no order."""
    lying = {"latents": CLIP.to(memory_format=torch.channels_last), "class_pictures": PICTURES}
    assert not lying["latents"].is_contiguous()
    whole = tuned(model, **lying)
    with pytest.raises(StopError):
        tuned(model, **lying, output=tmp_path / "jeep", on_step=stop_after(1))
    resumed = tuned(model, **lying, output=tmp_path / "jeep", resume=True)
    assert resumed.losses == whole.losses
    assert same(weights(resumed.unet), weights(whole.unet))


def test_a_finished_run_goes_on_with_more_steps(model, tmp_path):
    whole = tuned(model)
    tuned(model, replace(SETTINGS, steps=2, save_every=50), output=tmp_path / "jeep")
    longer = tuned(model, output=tmp_path / "jeep", resume=True)
    assert same(weights(longer.unet), weights(whole.unet))
    assert same(weights(load_unet(tmp_path / "jeep" / "unet")), weights(whole.unet))


def test_another_run_is_refused_by_what_differs(model, tmp_path):
    output = tmp_path / "jeep"
    with pytest.raises(StopError):
        tuned(model, output=output, on_step=stop_after(1))
    others = {
        "another clip": {"latents": CLIP + 1},
        "another prompt": {"prompt": "a car"},
        "other pictures": {"class_pictures": PICTURES},
        r"warmup_steps 0 \(now 1\)": {"settings": replace(SETTINGS, warmup_steps=1)},
    }
    for words, changes in others.items():
        with pytest.raises(StoreError, match=words):
            tuned(model, output=output, resume=True, **changes)
    with pytest.raises(StoreError, match="go on with that run: resume=True"):
        tuned(model, output=output)


def test_a_folder_of_something_else_is_never_replaced(model, tmp_path):
    shutil.copytree(GOLDEN / "model", tmp_path / "sd")
    with pytest.raises(StoreError, match="no result of tuning"):
        tuned(model, output=tmp_path / "sd", resume=True)
    assert (tmp_path / "sd" / "unet" / "config.json").exists()


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(model, tmp_path):
    settings = replace(SETTINGS, learning_rate=1e30, warmup_steps=1)  # the first update has a rate of 0
    with pytest.raises(ModelError, match="lower the learning rate") as raised:
        tuned(model, settings, output=tmp_path / "jeep")
    state = state_file(tmp_path / "jeep")
    assert str(state) in str(raised.value)
    kept = load_file(state)
    assert len(kept["losses"]) == 1
    assert all(x.abs().max() < 100 for name, x in kept.items() if name.startswith("weight."))
    lower = replace(settings, learning_rate=RATE)
    resumed = tuned(model, lower, output=tmp_path / "jeep", resume=True)
    assert same(weights(resumed.unet), weights(tuned(model, lower).unet))


def test_a_last_step_that_breaks_the_weights_saves_no_model(model, tmp_path):
    with pytest.raises(ModelError, match="step 1: the weights give numbers that are not finite"):
        tuned(model, replace(SETTINGS, steps=1, learning_rate=1e30), output=tmp_path / "jeep")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_has_left_is_removed(model, tmp_path):
    (tmp_path / f".{state_file(tmp_path / 'jeep').name}.0123456789abcdef.partial").write_bytes(b"cut off")
    tuned(model, replace(SETTINGS, steps=1), output=tmp_path / "jeep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jeep", "jeep.tuning.safetensors"]


@pytest.fixture
def half():
    return load_model(GOLDEN / "model", dtype=torch.float16)


def spoil_gradients(monkeypatch, times):
    """Let the first `times` gradients of one weight overflow."""
    begin, left = Training.__init__, iter(range(times))

    def beginning(training, *arguments, **named):
        begin(training, *arguments, **named)
        weight = training._twin.net.get_parameter(training.trained[0])
        weight.register_hook(lambda grad: grad if next(left, None) is None else grad * float("inf"))

    monkeypatch.setattr(Training, "__init__", beginning)


def test_an_overflow_of_float16_skips_an_update_and_the_run_goes_on_to_the_same_bits(half, tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, 1)
    whole = tuned(half, output=tmp_path / "whole")
    state = load_file(state_file(tmp_path / "whole"))
    assert int(state["updates"]) == len(whole.losses) - 1
    monkeypatch.undo()
    spoil_gradients(monkeypatch, 1)
    with pytest.raises(StopError):
        tuned(half, output=tmp_path / "jeep", on_step=stop_after(2))
    monkeypatch.undo()
    assert same(weights(tuned(half, output=tmp_path / "jeep", resume=True).unet), weights(whole.unet))


def test_float16_gradients_that_always_overflow_end_the_run(half, tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, 100)
    with pytest.raises(ModelError, match="the gradients are not finite"):
        tuned(half, replace(SETTINGS, steps=30, save_every=50), output=tmp_path / "jeep")
    assert not (tmp_path / "jeep").exists()


def test_a_finished_result_is_taken_as_it_is_and_never_replaced_by_fewer_steps(model, tmp_path):
    output = tmp_path / "jeep"
    whole = tuned(model, output=output)
    state_file(output).unlink()  # as one may who wants no more steps
    again = tuned(model, output=output, resume=True, on_step=stop_after(1))
    assert same(weights(again.unet), weights(whole.unet))
    assert again.losses == whole.losses
    for steps in (1, 4):
        with pytest.raises(StoreError, match="result of 3 steps, and the state of its training is gone"):
            tuned(model, replace(SETTINGS, steps=steps), output=output, resume=True)
    with pytest.raises(StoreError, match="learning_rate 0.001"):
        tuned(model, replace(SETTINGS, learning_rate=1e-4), output=output, resume=True)
    assert json.loads((output / "tuning.json").read_text())["steps"] == 3


def test_a_run_goes_on_though_another_device_encodes_the_clip_a_little_otherwise(model, tmp_path, monkeypatch):
    output, whole = tmp_path / "jeep", tuned(model)
    with pytest.raises(StopError):
        tuned(model, output=output, on_step=stop_after(1))
    encode = tuning.embedded
    monkeypatch.setattr(tuning, "embedded", lambda *given: encode(*given).bfloat16().float())
    resumed = tuned(model, output=output, resume=True, latents=CLIP.half())
    assert same(weights(resumed.unet), weights(whole.unet))
    assert same(weights(tuned(model, output=output, resume=True, latents=CLIP.half()).unet), weights(whole.unet))


def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        tuned(model, replace(SETTINGS, save_every=50), output=tmp_path / "file" / "jeep", on_step=stop_after(1))


def test_a_full_disk_is_refused_before_the_first_step(model, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StoreError, match="1000 bytes free"):
        tuned(model, output=tmp_path / "jeep")


def test_a_state_that_is_there_needs_room_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1500})())
    folder = TunedFolder(tmp_path / "jeep")
    with pytest.raises(StoreError, match=r"1\.5 KiB free"):
        tuning._check_disk(folder, 1000, 100)
    state_file(folder.path).touch()
    tuning._check_disk(folder, 1000, 100)


def test_a_result_that_cannot_be_put_in_its_place_leaves_the_older_one(tmp_path, monkeypatch):
    new, place, rename = tmp_path / ".jeep.partial", tmp_path / "jeep", Path.rename
    new.mkdir()
    (place / "unet").mkdir(parents=True)

    def held(path, target):
        if path == new:
            raise PermissionError("a program has a file of it open")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    with pytest.raises(PermissionError):
        _put(new, place)
    assert (place / "unet").exists()


def test_a_disk_that_fills_up_leaves_the_older_state(model, tmp_path, monkeypatch):
    output, writes = tmp_path / "jeep", []
    from fatezero_ext.tuning import saved_state

    def full(tensors, path, metadata):
        writes.append(path)
        if len(writes) > 2:  # the trial before the first step, and the state behind it, are written
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


def test_random_numbers_that_are_none_are_refused():
    state = RandomDraws(0, 1000).state()
    with pytest.raises(StoreError, match="state is damaged"):
        RandomDraws(0, 1000).restore({**state, "generator": torch.full_like(state["generator"], 255)})


def test_a_state_that_lacks_a_tensor_or_has_it_in_another_shape_is_refused(model, tmp_path):
    path = state_file(tmp_path / "jeep")
    with pytest.raises(StopError):
        tuned(model, output=tmp_path / "jeep", on_step=stop_after(1))
    with safe_open(path, "pt") as file:
        state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    identity = json.loads(metadata[IDENTITY])
    assert read_state(path, identity, state).keys() == state.keys()
    for name in ("updates", "generator", "order", "weight.", "exp_avg.", "losses"):
        key = next(key for key in sorted(state) if key.startswith(name))
        others = {other: x for other, x in state.items() if other != key}
        for changed in ({key: torch.zeros(1, 1, 1, 1)}, {}):
            save_file({**others, **changed}, path, metadata)
            with pytest.raises(StoreError, match=f"no whole state .*{key[:20]}"):
                read_state(path, identity, state)


def test_a_record_that_is_no_record_is_refused(model, tmp_path):
    tuned(model, replace(SETTINGS, steps=1), output=tmp_path / "jeep")
    record = tmp_path / "jeep" / "tuning.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "settings": "all"}))
    with pytest.raises(StoreError, match="no result of tuning"):
        tuned(model, output=tmp_path / "jeep", resume=True)


def test_a_damaged_state_is_refused(model, tmp_path):
    state_file(tmp_path / "jeep").write_bytes(b"no state")
    with pytest.raises(FateZeroError, match="cannot be read"):
        tuned(model, output=tmp_path / "jeep", resume=True)
