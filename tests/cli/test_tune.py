"""The command `tune`: from a clip to a folder that loads, and on from there."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from fatezero_ext import load_model
from fatezero_ext.cli import tune as command
from fatezero_ext.cli.main import main
from fatezero_ext.cli.stop_signals import stop_signals
from fatezero_ext.errors import ModelError
from fatezero_ext.media.video import write_video
from fatezero_ext.models.folder.detect import BUILT_IN_FOLDERS
from fatezero_ext.tuning.file_names import state_file
from fatezero_ext.tuning.training import Training

from ..conftest import GOLDEN

NAMED = ["--prompt", "a silver jeep", "--model", str(GOLDEN / "model"), "--frames", "2", "--size", "64", "--rank", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    write_video(folder / "clip.mp4", torch.rand(3, 64, 80, 3, generator=torch.Generator().manual_seed(3)), 8)
    return folder


def tune(folder, *options):
    return main(["tune", str(folder / "clip.mp4"), *NAMED, "--output", str(folder / "jeep"), *options])


def test_a_clip_becomes_a_model_and_the_run_goes_on(folder, capsys):
    assert tune(folder, "--steps", "2") == 0
    said = capsys.readouterr()
    assert said.out == f"{folder / 'jeep'}\n" and "tuning needs" in said.err
    assert load_model(folder / "jeep").unet.settings.temporal.rank == 4
    first = json.loads((folder / "jeep" / "tuning.json").read_text())["losses"]
    assert (folder / "jeep" / "loss.png").exists()

    assert tune(folder, "--steps", "3") == 1
    assert "--resume on the command line" in capsys.readouterr().err
    assert tune(folder, "--steps", "3", "--resume") == 0
    record = json.loads((folder / "jeep" / "tuning.json").read_text())
    assert record["losses"][:2] == first and record["steps"] == 3
    state = load_file(folder / "jeep.tuning.safetensors")
    assert state["losses"].tolist() == record["losses"]


@pytest.mark.parametrize("number", [signal.SIGINT, *stop_signals()])
def test_a_request_to_stop_within_a_step_ends_the_run_behind_it_and_nothing_is_lost(
    folder, monkeypatch, capsys, number
):
    take_step, output = Training.step, folder / f"stopped{number}"

    def step(training):
        loss = take_step(training)
        if len(training.losses) == 2:
            signal.raise_signal(number)
        return loss

    before = signal.getsignal(number)
    monkeypatch.setattr(Training, "step", step)
    assert tune(folder, "--steps", "3", "--output", str(output)) == 130
    assert len(load_file(state_file(output))["losses"]) == 2 and not output.exists()
    assert f"saved in {state_file(output)}; the same command with --resume goes on" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_what_a_run_keeps_is_offered_as_no_model(tmp_path):
    from fatezero_ext.cli.node_pack import load_pack

    (tmp_path / "jeep").mkdir()
    for name in ("jeep/tuning.json", "jeep/tuning.safetensors", "jeep.tuning.safetensors", "other.safetensors"):
        (tmp_path / name).touch()
    folders = load_pack("nodes.headless.host").Folders((), tmp_path, (tmp_path,))
    assert [*folders.model_files("checkpoints")] == ["other.safetensors"]


def test_a_stop_before_anything_is_saved_has_a_sentence_too(folder, monkeypatch, capsys):
    def stopped(_training):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "step", stopped)
    assert tune(folder, "--output", str(folder / "none")) == 130
    assert "Stopped. Files already saved are whole" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs a system with terminals that hang up")
def test_a_closed_terminal_does_not_stop_what_runs_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == (signal.SIGTERM,)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("name", "world"), [("toy", "shapes"), ("objects", "objects")])
def test_built_in_models_go_by_a_name(folder, monkeypatch, capsys, name, world):
    def refused(path, **_):
        raise ModelError(f"loads {path}")

    monkeypatch.setattr(command, "load_model", refused)
    named = [name if word == NAMED[3] else word for word in NAMED]
    assert main(["tune", str(folder / "clip.mp4"), *named, "--output", str(folder / name)]) == 1
    assert f"loads {BUILT_IN_FOLDERS[world]}" in " ".join(capsys.readouterr().err.split())


def test_help_and_bad_values_end_before_anything_loads(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(folder / "clip.mp4"), "--prompt", "x"])
    assert ended.value.code == 2
    assert "--model" in capsys.readouterr().err
    assert tune(folder, "--steps", "0", "--resume") == 1
    assert "steps is 0" in capsys.readouterr().err
