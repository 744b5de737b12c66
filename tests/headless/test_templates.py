"""The templates and the blueprint: what they hold, and that the runner runs them."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack

from ..sounding_clips import FPS, write_clip
from .template_files import ALL, BUILT_IN, BY_NAME, few, nodes_of

ROOT = Path(__file__).parents[2]
BLUEPRINT = ROOT / "subgraphs" / "Edit video by words.json"
EXPANDED = "Every step as a node of its own"
IN_COMFYUI = {
    "Edit inside your own mask (SAM3)": "SAM3_VideoTrack",
    "Find by words, repaint with VACE": "WanVaceToVideo",
}
"""Templates with core nodes that the runner does not have, and one of these."""
RUNNING = [path for path in ALL if path.stem not in IN_COMFYUI]
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
ADDRESS = f"https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}?download=true"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint under the real file's name, and a clip of 24 frames a second with sound."""
    made = tmp_path_factory.mktemp("real_files")
    (made / "models" / "checkpoints").mkdir(parents=True)
    save_file(single_file(*parts("sd1")), made / "models" / "checkpoints" / CHECKPOINT)
    (made / "input").mkdir()
    write_clip(made / "input" / "mine.mp4", "aac")
    return made


def run(path, folder, *more, models=True):
    """Run a file by the runner's command."""
    options = ["--models", str(folder / "models")] if models else []
    given = ["--input", str(folder / "input"), "--output", str(folder / "output" / path.stem), *options, *more]
    return main(["run", str(path), "--set", "LoadVideo.file=mine.mp4", *given])


def test_vace_paints_as_large_and_as_many_frames_as_it_is_compared_with():
    """Of frames that are not 4n + 1 it leaves out the last ones: the source is cut to what it gives."""
    nodes = nodes_of(EXAMPLES / "Find by words, repaint with VACE.json")
    given = [{entry["name"]: entry["link"] for entry in node["inputs"]} for node in nodes]
    makers = {
        link: (number, output["name"])
        for number, node in enumerate(nodes)
        for output in node["outputs"]
        for link in output["links"] or ()
    }

    def source(kind, name, number=None):
        """(number, output) of the node that an input comes from."""
        (only,) = (each for each, node in enumerate(nodes) if node["type"] == kind and number in (None, each))
        return makers[given[only][name]]

    frames = source("WanVaceToVideo", "control_video")
    assert nodes[frames[0]]["type"] == "FateZero_PrepareFrames"
    sized = {name: source("WanVaceToVideo", name) for name in ("width", "height", "length")}
    assert [output for _, output in sized.values()] == ["width", "height", "batch_size"]
    assert {source("GetImageSize", "image", number) for number, _ in sized.values()} == {frames}
    compared = source("FateZero_CompareClips", "source")[0]
    assert source("ImageFromBatch", "image", compared) == frames
    counted, output = source("ImageFromBatch", "length", compared)
    assert output == "batch_size"
    assert source("GetImageSize", "image", counted) == source("FateZero_CompareClips", "edit_1")


def test_there_is_one_for_each_kind_of_edit():
    kinds = [
        node["widgets_values"][2] for path in ALL for node in nodes_of(path) if node["type"] == "FateZero_VideoEdit"
    ]
    assert sorted(kinds) == ["background", "colour", "object", "style"]


def test_the_files_are_those_that_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    found = importlib.util.spec_from_file_location("make_templates", ROOT / "docs" / "make_templates.py")
    script = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "make_templates", script)
    found.loader.exec_module(script)
    script.main(tmp_path)
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.json")}
    assert written == {path.relative_to(ROOT): path.read_text() for path in (*ALL, *BUILT_IN, BLUEPRINT)}


@pytest.mark.parametrize("path", [*ALL, BLUEPRINT], **BY_NAME)
def test_the_checkpoint_has_the_address_of_the_pages_own_workflow(path):
    loaders = [node for node in nodes_of(path) if node["type"] == "CheckpointLoaderSimple"]
    named = {node["widgets_values"][0]: node["properties"]["models"] for node in loaders}
    assert named[CHECKPOINT] == [{"name": CHECKPOINT, "url": ADDRESS, "directory": "checkpoints"}]


@pytest.mark.parametrize("path", RUNNING, **BY_NAME)
def test_the_runner_finds_it_valid(path, folder, capsys):
    assert run(path, folder, "--check") == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", RUNNING, **BY_NAME)
def test_without_the_checkpoint_the_runner_says_which_file_goes_where_and_its_address(path, folder, capsys):
    (folder / "none").mkdir(exist_ok=True)
    assert run(path, folder, "--check", "--models", str(folder / "none"), models=False) == 2
    told = capsys.readouterr().err
    for words in (f"the checkpoint '{CHECKPOINT}' is not there", f"into {folder / 'none'}", "checkpoints", ADDRESS):
        assert " ".join(words.split()) in " ".join(told.replace("\n", " ").split()) or words in told.replace("\n", "")
    assert run(path, folder, "--check", models=False) == 2
    assert "name that as --models" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("path", RUNNING, **BY_NAME)
def test_without_a_clip_the_runner_says_so(path, folder, capsys):
    assert main(["run", str(path), "--check", "--models", str(folder / "models")]) == 2
    assert "Upload your clip here input 'file': there is no file ''" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("path", [path for path in ALL if path.stem in IN_COMFYUI], **BY_NAME)
def test_the_runner_names_the_nodes_that_only_comfyui_has(path, folder, capsys):
    assert run(path, folder, "--check") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"the runner does not know nodes of class '{IN_COMFYUI[path.stem]}'" in told
    assert "run the workflow in ComfyUI" in told


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNNING, **BY_NAME)
def test_a_run_saves_the_edit_with_rate_and_sound_and_the_comparison_moving(path, folder, capsys):
    assert run(path, folder, *few(path)) == 0
    saved = [Path(line) for line in capsys.readouterr().out.splitlines()]
    clip, comparison = (next(each for each in saved if each.suffix == kind) for kind in (".mp4", ".webp"))
    with av.open(str(clip)) as container:
        assert len(list(container.decode(video=0))) == 3
        assert container.streams.video[0].average_rate == FPS / 3 and container.streams.audio
    with Image.open(comparison, formats=("WEBP",)) as moving:
        assert moving.n_frames == 3 and moving.width > 2 * 32
        moving.load()
        assert moving.info["duration"] == 1000 // (FPS // 3) and moving.info["loop"] == 0


JUNK = [
    None,
    "x",
    7,
    {},
    [1, None],
    [{"name": 3, "url": 4}],
    [{"name": CHECKPOINT}],
    [{"name": CHECKPOINT, "url": "x"}],
]
LOCAL = [{"name": CHECKPOINT, "url": "file:///etc/passwd", "directory": "checkpoints"}]
LONG = [{"name": CHECKPOINT, "url": "https://" + "x" * 5000, "directory": "checkpoints"}]


@pytest.mark.parametrize("models", [*JUNK, LOCAL, LONG], ids=lambda models: repr(models)[:30])
def test_addresses_that_are_none_are_left_out(models, folder, tmp_path, capsys):
    document = json.loads(RUNNING[0].read_text())
    (loader,) = (node for node in document["nodes"] if node["type"] == "CheckpointLoaderSimple")
    loader["properties"]["models"] = models
    path = tmp_path / "other.json"
    path.write_text(json.dumps(document))
    assert run(path, folder, "--check") == 0, capsys.readouterr().err
    assert run(path, folder, "--check", models=False) == 2
    told = capsys.readouterr().err
    assert "is not there" in told and "names this address" not in told.replace("\n", " ")


def test_another_checkpoint_that_is_there_is_named(folder, capsys):
    assert run(RUNNING[0], folder, "--check", "--set", "Load Checkpoint.ckpt_name=mine.ckpt") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "the checkpoint 'mine.ckpt' is not there" in told
        and f"there: {CHECKPOINT} (--set CheckpointLoaderSimple.ckpt_name={CHECKPOINT})." in told
    )


def test_a_file_of_another_family_is_refused_before_any_work(folder, capsys):
    other = folder / "models" / "checkpoints" / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    try:
        assert run(RUNNING[0], folder, "--check", "--set", "Load Checkpoint.ckpt_name=other.safetensors") == 2
    finally:
        other.unlink()
    assert "other.safetensors is no kind of model" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("prefix", ["../out", "/tmp/out", ""])
def test_a_moving_picture_is_saved_below_the_output_folder_only(prefix, folder, capsys):
    assert run(RUNNING[0], folder, "--check", "--set", f"SaveAnimatedWEBP.filename_prefix={prefix}") == 2
    assert "names no file below the output folder" in " ".join(capsys.readouterr().err.split())


def with_blueprint(folder, **values):
    """A workflow as the page saves it after a user put the blueprint between Load Video and Save Video."""
    document = json.loads(BLUEPRINT.read_text())
    (box,) = document["nodes"]
    names = [widget["name"] for widget in box["inputs"] if "widget" in widget]
    defaults = {"source_prompt": "a jeep", "edit_prompt": "a car", "kind": "object", "strength": 1.0}
    chosen = {**defaults, "ckpt_name": CHECKPOINT, **values}
    box |= {"id": 2, "widgets_values": [chosen[name] for name in names]}
    box["inputs"][0]["link"] = 1
    load = {"id": 1, "type": "LoadVideo", "inputs": [], "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": [1]}]}
    video = {"name": "video", "type": "VIDEO", "link": 2}
    save = {"id": 3, "type": "SaveVideo", "inputs": [video], "outputs": []}
    load["widgets_values"], save["widgets_values"] = ["mine.mp4", "image"], ["video/edit", "auto", "auto"]
    document["nodes"] = [load, box, save]
    document["links"] = [[1, 1, 0, 2, 0, "VIDEO"], [2, 2, 0, 3, 0, "VIDEO"]]
    path = folder / "with_blueprint.json"
    path.write_text(json.dumps(document))
    return path


def test_the_runner_takes_the_blueprint_apart(folder, capsys):
    path = with_blueprint(folder)
    assert run(path, folder, "--check") == 0, capsys.readouterr().err
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    graph = load_pack("nodes.headless.formats.read").read_workflow(path, types).api_format()
    edit = next(node for node in graph.values() if node["class_type"] == "FateZero_VideoEdit")["inputs"]
    assert {name: edit[name] for name in ("source_prompt", "edit_prompt", "kind", "strength")} == {
        "source_prompt": "a jeep", "edit_prompt": "a car", "kind": "object", "strength": 1.0,
    }  # fmt: skip
    assert graph[edit["video"][0]]["class_type"] == "LoadVideo"
    assert {graph[edit[name][0]]["class_type"] for name in ("model", "clip", "vae")} == {"CheckpointLoaderSimple"}


def test_the_blueprints_checkpoint_has_its_address_too(folder, capsys):
    path = with_blueprint(folder, ckpt_name=CHECKPOINT)
    assert run(path, folder, "--check", models=False) == 2
    assert ADDRESS in capsys.readouterr().err.replace("\n", "")


@pytest.mark.slow
def test_the_blueprint_runs(folder, capsys):
    path = with_blueprint(folder)
    assert run(path, folder, *few(BLUEPRINT)) == 0
    (saved,) = capsys.readouterr().out.splitlines()
    with av.open(saved) as container:
        assert len(list(container.decode(video=0))) == 3 and container.streams.audio


def test_the_expanded_template_is_the_graph_of_the_one_node_for_a_wide_clip_of_24_frames_a_second():
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    read = load_pack("nodes.headless.formats.read").read_workflow
    graph = read(EXAMPLES / f"{EXPANDED}.json", types).api_format()
    template = {node["class_type"]: dict(node["inputs"]) for node in graph.values()}
    whole = read(EXAMPLES / "Change an object, keep the motion.json", types).api_format()
    (asked,) = [node["inputs"] for node in whole.values() if node["class_type"] == "FateZero_VideoEdit"]
    words = {name: text_of(whole, asked[name]) for name in ("source_prompt", "edit_prompt", "kind", "strength")}
    links = {name: ["outside", slot] for slot, name in enumerate(("model", "clip", "vae", "video"))}
    made = load_pack("nodes.method.video_edit_graph").edit_graph(links, words, 8.0, choices_for(words)).expand
    assert len(made) == 10
    for node in made.values():
        found = template[node["class_type"]]
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                assert isinstance(found[name], list) and found[name][1] == wanted_slot(value, name)
            elif (node["class_type"], name) != ("CreateVideo", "fps"):
                assert text_of(graph, found[name]) == value, (node["class_type"], name)


def text_of(graph, value):
    """A constant, or that of the text node a widget is linked to."""
    return graph[value[0]]["inputs"]["value"] if isinstance(value, list) else value


def wanted_slot(link, name):
    """The loaders' outputs stand in the order model, clip, vae; a clip is Load Video's only output."""
    return {"video": 0}.get(name, link[1])


def choices_for(words):
    module = load_pack("nodes.method.video_edit_choices")
    layers = [SimpleNamespace(key_frames=(-1, "first"), query_dim=320)]
    cells = SimpleNamespace(pixels_per_cell=8)
    unet = SimpleNamespace(
        name="SD15", trained_side=64, latent_format=cells, built_in=False, smallest_side=8, layers=layers,
        device=torch.device("cpu"), run=lambda work, *_: work(),
        working_memory=lambda chunks, frames, height, width: chunks * frames,
    )  # fmt: skip
    settings = load_pack("fatezero_ext.editing.automatic").resolved_settings(
        load_pack("fatezero_ext.editing.settings").EditSettings(kind=words["kind"]),
        words["source_prompt"],
        words["edit_prompt"],
        built_in=False,
    )
    clip = module.ClipFacts(240, 240, 720, 1280, 24.0, None)
    return module.choose(unet, clip, module.Asked(), settings, (words["source_prompt"], words["edit_prompt"]))


@pytest.mark.slow
def test_the_one_node_and_every_step_as_a_node_of_its_own_save_the_same_frames_with_a_checkpoint(folder, capsys):
    videos = []
    for name, multiple in (("Change an object, keep the motion", ()), (EXPANDED, ("Prepare Frames.multiple_of=32",))):
        path = EXAMPLES / f"{name}.json"
        further = [option for value in multiple for option in ("--set", value)]
        assert run(path, folder, *few(path), *further) == 0
        (saved,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".mp4")]
        with av.open(saved) as container:
            videos.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    mine, theirs = videos
    assert len(mine) == len(theirs) == 3
    assert all((one == other).all() for one, other in zip(mine, theirs, strict=True))
