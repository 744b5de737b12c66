"""What ComfyUI's start and `run FILE --check` import: nothing that takes seconds, which is left to what computes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext.attention.records import PRECISIONS
from fatezero_ext.choices import PRECISION_NAMES
from fatezero_ext.media.video import write_video

ROOT = Path(__file__).parents[2]
SECONDS = frozenset(
    "torch torchvision torchaudio diffusers transformers tokenizers huggingface_hub accelerate peft torchmetrics "
    "xformers triton sympy networkx scipy pandas sklearn matplotlib cv2 imageio onnxruntime IPython".split()
)
"""Packages of which each takes a noticeable part of a second to import, or brings one that does."""
NODES = {
    "clip": ("FateZero_LoadFrames", {"source": "clip.mp4", "count": 1}),
    "pictures": ("FateZero_LoadFrames", {"source": "pictures", "count": 1}),
    "video": ("LoadVideo", {"file": "clip.mp4"}),
    "parts": ("GetVideoComponents", {"video": ["video", 0]}),
    "picture": ("LoadImage", {"image": "pictures/1.png"}),
    "framed": ("FateZero_PrepareFrames", {"images": ["parts", 0]}),
    "folder": ("FateZero_LoadPseudo3DUNet", {"model": "maker/unet", "key_frames": "-1, first"}),
    "file": ("FateZero_LoadPseudo3DUNet", {"model": "style.safetensors"}),
    "lora": ("FateZero_LoadLoRA", {"unet": ["file", 0], "clip": ["file", 1], "lora_name": "none"}),
    "control": ("FateZero_RegisterAttentionControl", {"unet": ["lora", 0]}),
    "stored": ("FateZero_AttentionStoreCache", {"controller": ["control", 0]}),
    "encoded": ("VAEEncode", {"pixels": ["framed", 0], "vae": ["file", 2]}),
    "inverted": (
        "FateZero_DDIMInvert",
        {"controller": ["stored", 0], "clip": ["lora", 1], "latent": ["encoded", 0], "source_prompt": "a jeep"},
    ),
    "prompts": ("FateZero_EditPrompts", {"prompts": "a car\nthe car"}),
    "edit": (
        "FateZero_P2PEdit",
        {
            "controller": ["inverted", 0],
            "clip": ["lora", 1],
            "edit_prompt": ["prompts", 0],
            "mask": ["picture", 1],
            "equalizer": "car: 2",
            "word_windows": "car: 0.2-0.6",
        },
    ),
    "decoded": ("VAEDecode", {"samples": ["edit", 0], "vae": ["file", 2]}),
    "kept": (
        "FateZero_KeepSourcePixels",
        {"images": ["decoded", 0], "source": ["framed", 0], "mask": ["edit", 2]},
    ),
    "compared": ("FateZero_CompareClips", {"source": ["framed", 0], "edit_1": ["decoded", 0], "labels": ""}),
    "made": ("CreateVideo", {"images": ["compared", 0], "fps": ["parts", 2], "audio": ["parts", 1]}),
    "saved": ("SaveVideo", {"video": ["made", 0]}),
    "tuned": (
        "FateZero_TuneOnClip",
        {"unet": ["file", 0], "clip": ["file", 1], "latent": ["encoded", 0], "prompt": "a jeep", "name": "jeep"},
    ),
    "heat": ("FateZero_WordHeatMaps", {"controller": ["inverted", 0]}),
    "places": ("FateZero_SelfAttentionComponents", {"controller": ["inverted", 0]}),
    "words": ("FateZero_ShowWords", {"clip": ["lora", 1], "prompt": "a jeep"}),
    "measured": (
        "FateZero_MeasureEdit",
        {"source": ["framed", 0], "edited": ["decoded", 0], "clip_model": "maker/clip"},
    ),
    "shown_0": ("PreviewAny", {"source": ["words", 0]}),
    "shown_1": ("PreviewImage", {"images": ["heat", 0]}),
    "shown_7": ("PreviewImage", {"images": ["tuned", 1]}),
    "shown_2": ("PreviewImage", {"images": ["places", 0]}),
    "shown_3": ("PreviewImage", {"images": ["clip", 0]}),
    "shown_4": ("SaveImage", {"images": ["pictures", 0]}),
    "core": ("CheckpointLoaderSimple", {"ckpt_name": "style.safetensors"}),
    "sample": ("FateZero_SampleClip", {}),
    "whole": (
        "FateZero_VideoEdit",
        {"model": ["core", 0], "clip": ["core", 1], "vae": ["core", 2], "video": ["sample", 0]},
    ),
    "shown_6": ("SaveVideo", {"video": ["whole", 0]}),
    "shown_5": ("SaveVideo", {"video": ["sample", 0]}),
}
"""A graph that names files of every kind; widgets that it leaves out get their defaults."""
LISTED = """
import asyncio, json, sys
from fatezero_ext.cli.node_pack import load_pack
found = asyncio.run(asyncio.run(load_pack("nodes").comfy_entrypoint()).get_node_list())
ids = [node.GET_SCHEMA().node_id for node in found]
print(json.dumps([ids, sorted(sys.modules)]))
"""
CHECKED = """
import json, sys
from fatezero_ext.__main__ import main
codes = [main(["run", path, "--check", *sys.argv[2:]]) for path in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted(sys.modules)]))
"""
RUN = """
import json, sys
from pathlib import Path
import fatezero_ext.cli.examples
fatezero_ext.cli.examples.EXAMPLES = Path(sys.argv[1])
from fatezero_ext.cli.main import main
import fatezero_ext.errors as ours
code = main(sys.argv[2:])
import fatezero_pack.fatezero_ext.errors as theirs
names = [name for name in sys.modules if name.startswith("fatezero_pack.fatezero_ext.")]
copies = [name for name in names if sys.modules[name] is not sys.modules[name.removeprefix("fatezero_pack.")]]
nodes = [name for name in sys.modules if name.startswith("fatezero_pack.nodes.")]
print(json.dumps([code, len(nodes), copies, ours.FateZeroError is theirs.FateZeroError]))
"""
FIRST_RUN = """
import json, sys, threading, torch
from fatezero_ext.cli.node_pack import load_pack

clip = torch.rand(2, 16, 16, 3)
loading = dict(model="built-in toy model", key_frames="-1, first", norm="video", precision="float32")
loading["least_sc_channel"] = 0
calls = {
    "method.load_unet LoadPseudo3DUNet": loading,
    "look.measure MeasureEdit": dict(source=clip, edited=clip, clip_model="none", source_prompt="", edit_prompt=""),
    "clips.compare_clips CompareClips": dict(source=[clip], edit_1=[clip], labels=[""]),
}
nodes = {}
for name in calls:
    module, node = name.split()
    nodes[name] = getattr(load_pack(f"nodes.{module}"), node)
together, done = threading.Barrier(len(calls)), []

def execute(name, inputs):
    together.wait()
    with torch.inference_mode():  # as ComfyUI runs its nodes
        nodes[name].execute(**inputs)
    done.append(name)

threads = [threading.Thread(target=execute, args=call) for call in calls.items()]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
constants = [
    (f"{name}.{key}", value.is_inference())
    for name, module in list(sys.modules.items()) if name.partition(".")[0] == "diffusers"
    for key, value in list(vars(module).items()) if isinstance(value, torch.Tensor)
]
print(json.dumps([sorted(done), sorted(calls), constants]))
"""


def told(program, *arguments):
    """What a fresh Python prints last, which is JSON, and its errors."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def imported(modules):
    """The top packages of these modules that take long."""
    return SECONDS & {name.partition(".")[0] for name in modules}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Input files, models of every kind, and a workflow over all of them."""
    made = tmp_path_factory.mktemp("startup")
    models = made / "models"
    write_video(made / "clip.mp4", torch.rand(2, 16, 16, 3), 8)
    (made / "pictures").mkdir()
    Image.new("RGBA", (8, 8)).save(made / "pictures" / "1.png")
    configs = {"unet": {"_class_name": "UNet2DConditionModel"}, "clip": {"model_type": "clip"}}
    for name, config in configs.items():
        (models / "maker" / name).mkdir(parents=True)
        (models / "maker" / name / "config.json").write_text(json.dumps(config))
    for kind in ("checkpoints", "loras"):
        (models / kind).mkdir()
    save_file(single_file(*parts("sd1"), "sd1"), models / "checkpoints" / "style.safetensors")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, models / "loras" / "style.safetensors")
    (made / "all.json").write_text(json.dumps(with_defaults(NODES)))
    return made


def with_defaults(nodes):
    """The graph in API format, its missing widgets as they are in a new node."""
    from fatezero_ext.cli.node_pack import load_pack

    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    return {
        name: {"class_type": kind, "inputs": {each.id: each.default for each in types[kind].widgets} | inputs}
        for name, (kind, inputs) in nodes.items()
    }


@pytest.fixture(scope="module")
def listed():
    """Ids of the pack's nodes, and the modules of the process that listed them."""
    (ids, modules), _ = told(LISTED)
    return ids, modules


def test_the_list_of_nodes_and_their_schemas_import_nothing_that_takes_seconds(listed):
    ids, modules = listed
    assert len(ids) >= 15 and "fatezero_pack.nodes.method.edit" in modules
    assert imported(modules) == set()


def test_the_check_of_a_workflow_imports_nothing_that_takes_seconds(folder):
    workflows = [str(folder / "all.json"), *map(str, sorted((ROOT / "example_workflows").glob("[0-9]_*.json")))]
    (codes, modules), said = told(CHECKED, json.dumps(workflows), "--models", str(folder / "models"))
    assert codes == [0] * len(workflows), said
    assert imported(modules) == set()


def test_the_graph_of_the_check_has_every_node_of_the_pack(listed):
    ids, _ = listed
    assert set(ids) <= {kind for kind, _ in NODES.values()}


@pytest.mark.slow
def test_first_runs_import_in_threads_and_leave_the_constants_of_diffusers_fit_for_training():
    (done, asked, constants), said = told(FIRST_RUN)
    assert done == asked, said
    assert [name for name, of_inference in constants if of_inference] == []


def test_the_words_of_precision_are_those_that_records_know():
    assert PRECISION_NAMES == tuple(PRECISIONS)


@pytest.fixture
def quick_examples(tmp_path):
    """The example workflows, inverting in one step."""
    from fatezero_ext.cli.node_pack import load_pack

    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    steps = [widget.id for widget in types["FateZero_DDIMInvert"].widgets].index("steps")
    folder = shutil.copytree(ROOT / "example_workflows", tmp_path / "examples")
    for path in folder.glob("[0-9]_*.json"):
        document = json.loads(path.read_text())
        (node,) = (node for node in document["nodes"] if node["type"] == "FateZero_DDIMInvert")
        assert node["widgets_values"][steps] >= 10
        node["widgets_values"][steps] = 1
        path.write_text(json.dumps(document))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("run", "{examples}/1_colour_edit_with_mask.json"), ("demo", "colour")], ids=["run", "demo"]
)
def test_commands_load_one_copy_of_the_package(command, quick_examples, tmp_path):
    command = [word.format(examples=quick_examples) for word in command]
    (code, nodes, copies, one_family_of_errors), said = told(
        RUN, str(quick_examples), *command, "--output", str(tmp_path / "output")
    )
    assert code == 0 and nodes > 30, said
    assert copies == [] and one_family_of_errors
