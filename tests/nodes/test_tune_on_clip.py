"""Tune on Clip as the headless runner runs it: what it saves, how it goes on, and what it leaves as it was."""

import json
import shutil

import pytest
import torch
from rich.console import Console

from fatezero_ext import load_model, load_unet
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import write_video

from ..conftest import GOLDEN
from ..tuning_widgets import UNCHANGED

TUNE = "FateZero_TuneOnClip"
PROMPT = "a silver jeep on the road"
TUNING = {
    "prompt": PROMPT,
    "name": "my jeep",
    "steps": 3,
    "learning_rate": 1e-3,
    **UNCHANGED,
    "save_every": 1,
    "preview_every": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip, and a folder with the small model."""
    folder = tmp_path_factory.mktemp("tuning_workflow")
    write_video(folder / "clip.mp4", torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(3)), 8)
    shutil.copytree(GOLDEN / "model", folder / "models" / "jeep")
    return folder


def graph(**tuning):
    load = {"model": "jeep", "key_frames": "-1, first", "norm": "video", "precision": "float32", "least_sc_channel": 0}
    links = {"unet": ["3", 0], "clip": ["3", 1], "latent": ["4", 0]}
    inversion = {"controller": ["6", 0], "clip": ["3", 1], "latent": ["4", 0], "source_prompt": PROMPT, "steps": 2}
    nodes = {
        "1": ("LoadVideo", {"file": "clip.mp4"}),
        "2": ("GetVideoComponents", {"video": ["1", 0]}),
        "3": ("FateZero_LoadPseudo3DUNet", load),
        "4": ("VAEEncode", {"pixels": ["2", 0], "vae": ["3", 2]}),
        "5": ("FateZero_TuneOnClip", {**links, **TUNING, **tuning}),
        "6": ("FateZero_RegisterAttentionControl", {"unet": ["5", 0], "self_attention": True, "most_cells": 1024}),
        "7": ("FateZero_DDIMInvert", inversion),
        "8": ("PreviewAny", {"source": ["7", 0]}),
    }
    if "unet" in tuning:
        nodes["9"] = ("FateZero_LoadPseudo3DUNet", {**load, "model": "bare"})
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def outcome(folder, **tuning):
    """Run the workflow; results by the nodes' class."""
    runner = load_pack("nodes.headless.command")
    file = folder / "workflow.json"
    file.write_text(json.dumps(graph(**tuning)))
    command = runner.Command(file, output=folder / "output", inputs=folder, models=folder / "models")
    (results,) = runner.collect(command, Console(quiet=True))
    return results


@pytest.fixture(scope="module")
def first(folder):
    return outcome(folder)


def test_the_tuned_unet_goes_on_through_the_graph_and_the_one_that_came_in_stays(folder, first):
    came, (tuned, curve, losses, name) = first["FateZero_LoadPseudo3DUNet"].outputs[0], first[TUNE].outputs
    assert came.digest() == load_model(folder / "models" / "jeep", name="jeep").unet.digest()
    assert first["FateZero_DDIMInvert"].outputs[0].unet is tuned and tuned is not came
    assert (name, len(losses["loss"]), curve.shape[-1]) == ("my jeep", 3, 3)


def test_the_saved_model_is_in_the_list_and_is_the_tuned_one(folder, first):
    found = load_model(folder / "models" / "my jeep")
    assert found.unet.digest() == first[TUNE].outputs[0].digest()
    loaded = outcome(folder, name="my jeep")  # the list is read again
    assert loaded[TUNE].outputs[0].digest() == found.unet.digest()


def test_a_unet_without_a_folder_around_it_is_named_as_the_list_has_it(folder, monkeypatch):
    shutil.copytree(GOLDEN / "model" / "unet", folder / "models" / "bare")
    tuned, _curve, _losses, name = outcome(folder, unet=["9", 0], name="alone")[TUNE].outputs
    assert name == "alone/unet"
    assert load_unet(folder / "models" / name).digest() == tuned.digest()
    (folder / "models" / ".alone.partial").mkdir()
    shutil.copytree(folder / "models" / name, folder / "models" / ".alone.partial" / "unet")
    host = load_pack("nodes.host.python").PythonHost
    monkeypatch.setattr(host, "diffusers_folders", lambda _host: (folder / "models",))
    names = load_pack("nodes.method.model_list").model_names()
    assert name in names and not any("partial" in listed for listed in names)


def test_a_second_run_goes_on_behind_the_first(folder, first):
    longer = outcome(folder, steps=4)[TUNE].outputs
    assert longer[2]["loss"][:3] == first[TUNE].outputs[2]["loss"]
    assert len(longer[2]["loss"]) == 4


@pytest.mark.parametrize(
    ("widgets", "words"),
    [
        ({"name": "../jeep"}, "such a name"),
        ({"name": "jeep "}, "such a name"),
        ({"name": "nul.1"}, "such a name"),
        ({"prompt": "  "}, "prompt is empty"),
    ],
)
def test_widgets_that_cannot_be_used_are_refused_before_anything_runs(folder, widgets, words):
    with pytest.raises(Exception, match=words):
        outcome(folder, **widgets)


def test_another_model_of_that_name_is_never_replaced(folder):
    with pytest.raises(Exception, match="no result of tuning"):
        outcome(folder, name="jeep")
    assert (folder / "models" / "jeep" / "vae").is_dir()
