"""Load LoRA in workflows, as the headless runner runs them."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from fatezero_ext import Controller, apply_lora, invert, load_toy
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import ModelError
from fatezero_ext.media.video import read_video, write_video

from ...conftest import relative
from .files import LAYERS, TEXT_LAYERS, drawn, kohya, kohya_text

PROMPT = "a red circle"
PYTHON_HOST = load_pack("nodes.host.python").PythonHost


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy):
    """A clip, and a folder of models with three LoRAs and files that are none."""
    folder = tmp_path_factory.mktemp("lora_workflows")
    write_video(folder / "clip.mp4", torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(3)), 8)
    (folder / "models" / "loras" / "styles").mkdir(parents=True)
    unet, text = drawn(toy.unet.net, LAYERS), drawn(toy.text_encoder.net, TEXT_LAYERS)
    save_file(kohya(unet) | kohya_text(text), folder / "models" / "loras" / "style.safetensors")
    save_file(kohya(drawn(toy.unet.net, LAYERS, 5)), folder / "models" / "loras" / "styles" / "other.safetensors")
    torch.save(kohya(unet), folder / "models" / "loose.pt")
    (folder / "models" / "model").mkdir()
    for name in ("model/config.json", "model/weights.safetensors", "loras/notes.txt", "loras/broken.safetensors"):
        (folder / "models" / name).write_text("{}")
    return folder


def graph(**lora):
    load = {"model": "built-in toy model", "key_frames": "auto", "norm": "clip", "precision": "float32"}
    first = {"unet": ["3", 0], "clip": ["3", 1], "lora_name": "style.safetensors"}
    first |= {"strength_unet": 0.8, "strength_text": 1.0} | lora
    nodes = {
        "1": ("LoadVideo", {"file": "clip.mp4"}),
        "2": ("GetVideoComponents", {"video": ["1", 0]}),
        "3": ("FateZero_LoadPseudo3DUNet", load | {"least_sc_channel": 0}),
        "4": ("VAEEncode", {"pixels": ["2", 0], "vae": ["3", 2]}),
        "5": ("FateZero_LoadLoRA", {name: value for name, value in first.items() if value is not None}),
        "6": ("FateZero_RegisterAttentionControl", {"unet": ["5", 0], "self_attention": True, "most_cells": 1024}),
        "7": (
            "FateZero_DDIMInvert",
            {"controller": ["6", 0], "clip": ["5", 1], "latent": ["4", 0], "source_prompt": PROMPT, "steps": 3},
        ),
        "8": ("PreviewAny", {"source": ["7", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def outcome(folder, document, *settings):
    return runs(folder, document, settings=settings)[0]


def runs(folder, document, **options):
    (folder / "workflow.json").write_text(json.dumps(document))
    command = load_pack("nodes.headless.command")
    call = command.Command(
        folder / "workflow.json", output=folder / "output", inputs=folder, models=folder / "models", **options
    )
    return command.collect(call, Console(quiet=True))


def by_hand(toy, folder, **strengths):
    unet, text = apply_lora(toy.unet, toy.text_encoder, folder / "models" / "loras" / "style.safetensors", **strengths)
    with torch.inference_mode():
        latents = toy.vae.encode(read_video(folder / "clip.mp4").frames)
        return invert(Controller(unet), text, latents, PROMPT, steps=3, inversion_passes=0).trace.latents


def test_a_workflow_with_a_lora_gives_the_inversion_of_python(folder, toy):
    nodes = outcome(folder, graph())
    unet, text = nodes["FateZero_LoadLoRA"].outputs
    assert unet.name == "built-in toy model + style (0.8)" and text is not nodes["FateZero_LoadPseudo3DUNet"].outputs[1]
    got = nodes["FateZero_DDIMInvert"].outputs[0].trace.latents
    assert got.equal(by_hand(toy, folder, unet_strength=0.8))
    assert relative(got, by_hand(toy, folder, unet_strength=0.0)) > 1e-3


def test_taking_the_lora_off_again_gives_the_first_inversion_bit_for_bit(folder, toy):
    variants = [["5.lora_name=none"], [], ["5.lora_name=none"], ["5.strength_unet=0", "5.strength_text=0"]]
    results = runs(folder, graph(), variants=variants)
    off, on, again, at_0 = (nodes["FateZero_DDIMInvert"].outputs[0].trace.latents for nodes in results)
    assert off.equal(again) and off.equal(at_0) and relative(off, on) > 1e-3
    assert off.equal(by_hand(toy, folder, unet_strength=0, text_strength=0))


def test_two_nodes_stack(folder):
    document = graph()
    second = {"unet": ["5", 0], "lora_name": "styles/other.safetensors", "strength_unet": 0.5, "strength_text": 1.0}
    document["9"] = {"class_type": "FateZero_LoadLoRA", "inputs": second}
    document["6"]["inputs"]["unet"] = ["9", 0]
    trace_of = outcome(folder, document)["FateZero_DDIMInvert"].outputs[0]
    assert trace_of.unet.name == "built-in toy model + style (0.8) + other (0.5)"


def test_without_a_clip_the_unet_alone_is_changed(folder, toy):
    document = graph(clip=None)
    document["7"]["inputs"]["clip"] = ["3", 1]
    nodes = outcome(folder, document)
    assert nodes["FateZero_LoadLoRA"].outputs[1] is None
    got = nodes["FateZero_DDIMInvert"].outputs[0].trace.latents
    assert got.equal(by_hand(toy, folder, unet_strength=0.8, text_strength=0.0))


def test_the_list_names_lora_files_without_opening_them(folder, monkeypatch):
    folders = load_pack("nodes.headless.host")
    host = folders.RunnerHost(folders.Folders((folder,), folder, (folder / "models",)), None)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("a file was opened"))
    monkeypatch.setattr("io.open", lambda *_: pytest.fail("a file was opened"))
    with load_pack("nodes.host").installed(host):
        listed = load_pack("nodes.method.load_lora").lora_files()
    found = {name: path.relative_to(folder).as_posix() for name, path in listed.items()}
    assert found == {
        "broken.safetensors": "models/loras/broken.safetensors",
        "style.safetensors": "models/loras/style.safetensors",
        "styles/other.safetensors": "models/loras/styles/other.safetensors",
    }


@pytest.mark.parametrize("name", ["../clip.mp4", "../loras/style.safetensors", "/etc/passwd", "absent.safetensors"])
def test_names_that_are_not_in_the_list_are_refused(folder, name):
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="lora_name.*is not in the list"):
        outcome(folder, graph(lora_name=name))
    node = load_pack("nodes.method.load_lora").LoadLoRA
    with pytest.raises(ModelError, match="is no LoRA file below models/loras"):
        node.fingerprint_inputs(lora_name=name)


def test_a_broken_file_in_the_list_is_said_when_it_is_chosen(folder):
    with pytest.raises(ValueError, match=r"#5 Load LoRA \(FateZero\): .*broken.safetensors cannot be read"):
        outcome(folder, graph(lora_name="broken.safetensors"))


@pytest.mark.parametrize("strength", [11, -10.5, "nan", "inf"])
def test_strengths_out_of_range_are_refused_before_anything_runs(folder, strength):
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="strength_unet"):
        outcome(folder, graph(strength_unet=float(strength)))


def test_a_file_saved_anew_has_another_fingerprint(folder, monkeypatch):
    lora = load_pack("nodes.method.load_lora")
    path = folder / "models" / "loose.pt"
    monkeypatch.setattr(lora, "lora_files", lambda: {"loose.pt": path})
    first = lora.LoadLoRA.fingerprint_inputs(lora_name="loose.pt", strength_unet=1.0)
    assert lora.LoadLoRA.fingerprint_inputs(lora_name="loose.pt", strength_unet=2.0) == first
    os.utime(path, ns=(1, 1))
    assert lora.LoadLoRA.fingerprint_inputs(lora_name="loose.pt") != first
    assert lora.LoadLoRA.fingerprint_inputs(lora_name="none") == "none"


def test_a_clip_of_comfyui_is_sent_to_the_core_node(folder, monkeypatch):
    lora = load_pack("nodes.method.load_lora")
    monkeypatch.setattr(lora, "lora_files", lambda: {"style.safetensors": folder / "models/loras/style.safetensors"})
    unet = load_toy().unet
    with pytest.raises(ModelError, match="ComfyUI's own .*SimpleNamespace.*core node"):
        lora.LoadLoRA.execute(unet, "style.safetensors", 1.0, 1.0, SimpleNamespace(cond_stage_model=None))


def test_new_parts_are_brought_to_the_device_by_the_host_and_old_ones_stay(folder, monkeypatch):
    lora = load_pack("nodes.method.load_lora")
    other = folder / "models" / "loras" / "styles" / "other.safetensors"
    monkeypatch.setattr(lora, "lora_files", lambda: {"other.safetensors": other})
    asked = []
    monkeypatch.setattr(
        PYTHON_HOST, "residence", lambda _host, net, part: asked.append((net, part)) or (lambda working_memory: None)
    )
    toy = load_toy()
    before = toy.unet.load_to_device
    unet, clip = lora.LoadLoRA.execute(toy.unet, "other.safetensors", 1.0, 1.0, toy.text_encoder).args
    assert (
        asked == [(unet.net, "unet")]
        and clip is toy.text_encoder
        and toy.unet.load_to_device is before is not unet.load_to_device
    )


def test_what_of_a_file_has_no_place_is_said_on_the_node(folder, toy, tmp_path, monkeypatch):
    lora = load_pack("nodes.method.load_lora")
    weights = kohya(drawn(toy.unet.net, LAYERS))
    weights |= {
        key.replace("down_blocks_0", "down_blocks_9"): w for key, w in weights.items() if "down_blocks_0" in key
    }
    save_file({key: w.clone() for key, w in weights.items()}, tmp_path / "half.safetensors")
    monkeypatch.setattr(lora, "lora_files", lambda: {"half.safetensors": tmp_path / "half.safetensors"})
    said = []
    monkeypatch.setattr(PYTHON_HOST, "say", lambda _host, remarks, choices, node_id: said.extend(remarks))
    lora.LoadLoRA.execute(load_toy().unet, "half.safetensors", 1.0, 1.0)
    assert len(said) == 1 and "half: left out 8 keys" in said[0] and "match no layer" in said[0]
