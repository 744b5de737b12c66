"""The nodes as the headless runner runs them; the same edit by every road."""

import inspect
import json

import pytest
import torch
from rich.console import Console

from fatezero_ext import BlendSettings, Controller, Storage, edit, invert, load_model
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import ModelError
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.media.video import read_video, write_video

from ..conftest import GOLDEN, relative
from ..small_runs import named

SOURCE, EDIT = "a silver jeep on the road", "a silver car on the road"
STEPS = 3
EDIT_WIDGETS = {
    "edit_prompt": EDIT,
    "negative_prompt": "",
    "mode": "replace",
    "guidance": 5.0,
    "cross_replace_start": 0.0,
    "cross_replace_end": 0.8,
    "self_replace_start": 0.0,
    "self_replace_end": 0.7,
    "equalizer": "car: 2",
    "blend_words": "silver jeep",
    "blend_edit_words": "silver car",
    "blend_threshold": 0.4,
    "blend_self_attention": True,
    "blend_latents": True,
    "word_windows": "road: 0.2-0.6",
    "subtract_words": "road",
    "subtract_threshold": 0.9,
    "blend_resolution": "auto",
    "quirks": "fixed",
    "kind": "custom",
}
SETTINGS = named(
    cross_replace=0.8,
    self_replace=0.7,
    equalizer={"car": 2.0},
    cross_replace_words={"road": (0.2, 0.6)},
    guidance=5.0,
    blend=BlendSettings(
        ("silver jeep",), ("silver car",), 0.4, latents=True, subtract_words=("road",), subtract_threshold=0.9
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a clip and two copies of one workflow: API and UI format."""
    folder = tmp_path_factory.mktemp("workflows")
    generator = torch.Generator().manual_seed(3)
    write_video(folder / "clip.mp4", torch.rand(3, 80, 96, 3, generator=generator), 8)
    graph = api_workflow()
    (folder / "api.json").write_text(json.dumps(graph))
    (folder / "ui.json").write_text(json.dumps(ui_workflow(graph)))
    return folder


def api_workflow():
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {
            "class_type": "FateZero_LoadPseudo3DUNet",
            "inputs": {
                "model": "model",
                "key_frames": "-1, first",
                "norm": "clip",
                "precision": "float32",
                "least_sc_channel": 0,
            },
        },
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["3", 2]}},
        "5": {
            "class_type": "FateZero_RegisterAttentionControl",
            "inputs": {"unet": ["3", 0], "self_attention": True, "most_cells": 1024},
        },
        "6": {
            "class_type": "FateZero_AttentionStoreCache",
            "inputs": {"controller": ["5", 0], "policy": "features", "place": "ram", "precision": "as computed"},
        },
        "7": {
            "class_type": "FateZero_DDIMInvert",
            "inputs": {
                "controller": ["6", 0],
                "clip": ["3", 1],
                "latent": ["4", 0],
                "source_prompt": SOURCE,
                "steps": STEPS,
                "inversion_passes": 1,
            },
        },
        "8": {
            "class_type": "FateZero_P2PEdit",
            "inputs": {"controller": ["7", 0], "clip": ["3", 1], **EDIT_WIDGETS},
        },
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["3", 2]}},
        "10": {"class_type": "CreateVideo", "inputs": {"images": ["9", 0], "fps": ["2", 2]}},
        "11": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["10", 0], "filename_prefix": "edit", "format": "auto", "codec": "auto"},
        },
    }


def ui_workflow(graph):
    """The same graph as ComfyUI's page saves it: positional widgets, numbered links."""
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    nodes, links = [], []
    for node_id, node in graph.items():
        sockets, widgets = [], []
        for socket in types[node["class_type"]].schema.inputs:
            value = node["inputs"].get(socket.id)
            if isinstance(value, list):
                link = len(links) + 1
                links.append([link, int(value[0]), value[1], int(node_id), len(sockets), socket.io_type])
                sockets.append({"name": socket.id, "type": socket.io_type, "link": link})
            if hasattr(socket, "default"):
                widgets.append(socket.default if value is None or isinstance(value, list) else value)
        nodes.append(
            {"id": int(node_id), "type": node["class_type"], "mode": 0, "inputs": sockets, "widgets_values": widgets}
        )
    return {"version": 0.4, "nodes": nodes, "links": links}


def run(folder, file, *variants, settings=()):
    command = load_pack("nodes.headless.command")
    call = command.Command(
        folder / file, settings=settings, variants=variants, output=folder / "output", models=GOLDEN, inputs=folder
    )
    return command.collect(call, Console(quiet=True))


def test_the_reconstruction_pass_of_the_node_is_that_of_python(folder):
    settings = ["FateZero_DDIMInvert.attention_from=reconstruction", "FateZero_DDIMInvert.reconstruction_guidance=2"]
    (outcome,) = run(folder, "api.json", settings=settings)
    trace = outcome["FateZero_DDIMInvert"].outputs[0].trace
    model, frames = load_model(GOLDEN / "model"), read_video(folder / "clip.mp4").frames
    with torch.inference_mode():
        again = invert(
            Controller(model.unet),
            model.text_encoder,
            model.vae.encode(frames),
            SOURCE,
            steps=STEPS,
            reconstruct=Reconstruction(guidance=2.0),
        )
    assert trace.latents.equal(again.trace.latents)


@pytest.mark.slow
def test_python_api_format_and_ui_format_give_identical_frames(folder):
    model = load_model(GOLDEN / "model")
    frames = read_video(folder / "clip.mp4").frames
    with torch.inference_mode():
        controller = Controller(model.unet, storage=Storage())
        controller = invert(controller, model.text_encoder, model.vae.encode(frames), SOURCE, steps=STEPS)
        result = edit(controller, model.text_encoder, EDIT, SETTINGS)
        wanted = model.vae.decode(result.latents)
    for file in ("api.json", "ui.json"):
        (outcome,) = run(folder, file)
        assert outcome["VAEDecode"].outputs[0].equal(wanted)
        latent, mask, last_mask = outcome["FateZero_P2PEdit"].outputs
        assert latent["samples"].equal(result.latents)
        assert mask.shape == (3, 80, 96) and mask[:, ::8, ::8].equal(result.mask)
        assert last_mask.shape == (3, 80, 96) and last_mask.dtype == torch.float32
        assert last_mask[:, ::8, ::8].equal(result.last_mask.float())


@pytest.mark.slow
def test_another_edit_prompt_repeats_neither_loading_nor_inverting(folder):
    first, second, third = run(
        folder, "api.json", [], ["8.edit_prompt=a silver car on the lake", "8.word_windows="], []
    )
    assert second["FateZero_DDIMInvert"].outputs[0] is first["FateZero_DDIMInvert"].outputs[0]
    assert relative(second["VAEDecode"].outputs[0], first["VAEDecode"].outputs[0]) > 0.01
    assert third["VAEDecode"].outputs[0].equal(first["VAEDecode"].outputs[0])


def test_edit_mistakes_end_the_run_before_the_inversion(folder):
    with pytest.raises(ValueError, match=r"#8 Prompt-to-Prompt Edit input 'blend_words': 'boat' is not in the prompt"):
        run(folder, "api.json", settings=["8.blend_words=boat"])
    with pytest.raises(ValueError, match=r"#8 Prompt-to-Prompt Edit input 'edit_prompt': .*source has 6, edit has 7"):
        run(folder, "api.json", settings=["8.edit_prompt=a silver car on the road today"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("8.cross_replace_end=1.5", "cross_replace"),
        ("8.self_replace_start=0.9", "self_replace is 0.9 to 0.7"),
        ("8.equalizer=car", "'car'; each entry is a word, a colon and a value"),
        ("8.equalizer=car: much", "'much' for a number"),
        ("8.word_windows=car: 0.9-0.2", "cross_replace of 'car' is 0.9 to 0.2"),
        ("8.guidance=-1", "guidance"),
        ("3.key_frames=-1, frist", "unknown key frame 'frist'"),
        ("3.model=no such model", "model"),
        ("7.steps=0", "steps"),
    ],
)
def test_widgets_are_checked_before_anything_runs(folder, setting, message):
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match=message):
        run(folder, "api.json", settings=[setting])


def test_widget_lists_are_read_as_people_write_them():
    words = load_pack("nodes.text_lists")
    assert words.parse_phrases(" silver  jeep, road\nlake,, ") == ("silver jeep", "road", "lake")
    assert words.parse_weights("watercolor: 10, old jeep:0.5", "equalizer") == {"watercolor": 10.0, "old jeep": 0.5}
    assert words.parse_windows("car: 0.2-0.6, road:.5", "word_windows") == {"car": (0.2, 0.6), "road": (0.0, 0.5)}
    assert words.parse_key_frames("-1, first, +2") == (-1, "first", 2)


def test_what_travels_between_nodes_is_frozen_and_prints_short(folder):
    (outcome,) = run(folder, "api.json")
    controller = outcome["FateZero_DDIMInvert"].outputs[0]
    with pytest.raises(AttributeError):
        controller.trace = None
    assert len(repr(controller)) < 300
    assert outcome["FateZero_RegisterAttentionControl"].outputs[0].trace is None


def test_queue_time_checks_name_their_inputs_by_position():
    """ComfyUI looks for positional names only and calls without the others."""
    for node in load_pack("nodes.headless.schemas.registry").pack_node_types().values():
        check = getattr(node.node_class, "validate_inputs", None)
        assert check is None or not inspect.getfullargspec(check).kwonlyargs


def test_edits_nothing_reads_and_edits_not_yet_known_do_not_stop_an_inversion(folder):
    graph = api_workflow()
    wrong = {**graph["8"]["inputs"], "blend_words": "boat"}
    graph["20"] = {"class_type": "FateZero_P2PEdit", "inputs": wrong}
    graph["21"] = {"class_type": "FateZero_P2PEdit", "inputs": {"controller": ["7", 0], "clip": ["3", 1]}}
    (folder / "unread.json").write_text(json.dumps(graph))
    (outcome,) = run(folder, "unread.json")
    assert outcome["VAEDecode"].outputs[0].shape == (3, 80, 96, 3)


@pytest.mark.parametrize("setting", ["8.blend_edit_words=submarine", "8.subtract_words=submarine"])
def test_every_listed_word_is_looked_up(folder, setting):
    widget = setting.partition(".")[2].partition("=")[0]
    with pytest.raises(ValueError, match=f"input '{widget}': 'submarine' is not in the prompt"):
        run(folder, "api.json", settings=[setting, "8.blend_latents=false"])


def test_blending_without_words_or_mask_is_said_before_the_inversion(folder):
    settings = ["8.blend_words=", "8.blend_edit_words=", "8.subtract_words="]
    with pytest.raises(ValueError, match="#8 .* input 'blend_words': .*neither blend_words nor a mask"):
        run(folder, "api.json", settings=settings)


def test_a_model_folder_saved_anew_has_another_fingerprint(tmp_path, monkeypatch):
    load = load_pack("nodes.method.load_unet")
    folder = tmp_path / "publisher" / "model"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(load_pack("nodes.host.python").PythonHost, "diffusers_folders", lambda _host: (tmp_path,))
    first = load.LoadPseudo3DUNet.fingerprint_inputs(model="publisher/model", norm="clip")
    assert load.LoadPseudo3DUNet.fingerprint_inputs(model="publisher/model", norm="frame") == first
    (folder / "model_index.json").write_text("{} ")
    assert load.LoadPseudo3DUNet.fingerprint_inputs(model="publisher/model", norm="clip") != first
    with pytest.raises(ModelError, match="'../model' is not there"):
        load.LoadPseudo3DUNet.fingerprint_inputs(model="../model")


@pytest.mark.parametrize(
    ("node", "name", "value", "message"),
    [
        ("11", "filename_prefix", "../../evil", "names no file below the output folder"),
        ("1", "file", None, "is not in the list"),
        ("1", "file", {}, "is not in the list"),
        ("1", "file", "a\0b", "no file name"),
        ("3", "key_frames", "--1", "unknown key frame"),
        ("3", "key_frames", "²", "unknown key frame"),
    ],
)
def test_values_no_widget_would_give_are_refused_before_anything_runs(folder, node, name, value, message):
    graph = api_workflow()
    graph[node]["inputs"][name] = value
    (folder / "odd.json").write_text(json.dumps(graph))
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match=message):
        run(folder, "odd.json")


def test_an_output_folder_that_is_a_file_is_refused_before_anything_runs(folder):
    command = load_pack("nodes.headless.command")
    call = command.Command(folder / "api.json", output=folder / "clip.mp4" / "sub", models=GOLDEN, inputs=folder)
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="is not a folder"):
        command.collect(call, Console(quiet=True))
