"""The three kinds of published edits, with their windows, thresholds and factors, run on the built-in model."""

import pytest
from PIL import Image

from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video, to_bytes

from .conftest import as_yaml, changed

CLIP = load_pack("nodes.headless.command").EXAMPLES / "red_circle_on_grass.mp4"
SOURCE = "a red circle on the grass"
KINDS = {
    "style": (
        "watercolor of a red circle on the grass",
        {
            "is_replace_controller": False,
            "cross_replace_steps": {"default_": 0.8},
            "self_replace_steps": 0.8,
            "eq_params": {"words": ["watercolor"], "values": [10]},
        },
    ),
    "attribute": (
        "a blue circle on the grass",
        {"is_replace_controller": True, "cross_replace_steps": {"default_": 0.7}, "self_replace_steps": 0.7},
    ),
    "shape": (
        "a blue square on the grass",
        {
            "is_replace_controller": True,
            "cross_replace_steps": {"default_": 0.5},
            "self_replace_steps": 0.5,
            "blend_words": [["red", "circle"], ["blue", "square"]],
            "blend_self_attention": True,
            "blend_th": [0.3, 0.3],
        },
    ),
}
SMALL = [
    "LoadFrames.count=3",
    "LoadFrames.sampling_rate=1",
    "LoadFrames.short_side=64",
    "DDIMInvert.steps=3",
    "LoadPseudo3DUNet.model=built-in toy model",
]
"""What keeps a run fast; the config itself asks for 8 frames, 50 steps and 512 pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An input folder with the clip's pictures."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "clip").mkdir()
    for number, frame in enumerate(to_bytes(read_video(CLIP).frames)):
        Image.fromarray(frame).save(folder / "clip" / f"{number:05}.png")
    return folder


def config(prompt, control):
    return changed(
        {
            "dataset_config": {"path": "clip", "prompt": SOURCE, "n_sample_frame": 8},
            "editing_config.editing_prompts": [prompt],
            "editing_config.p2p_config": {0: control},
            "editing_config.num_inference_steps": 50,
            "editing_config.use_make_grid": False,
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_edit_of_this_kind_is_converted_and_runs(kind, folder, tmp_path, capsys):
    (tmp_path / f"{kind}.yaml").write_text(as_yaml(config(*KINDS[kind])))
    workflow = str(tmp_path / "workflow.json")
    assert main(["import-config", str(tmp_path / f"{kind}.yaml"), "--output", workflow]) == 0
    assert "Warning" not in capsys.readouterr().err
    settings = [part for setting in SMALL for part in ("--set", setting)]
    code = main(["run", workflow, "--input", str(folder), "--output", str(tmp_path / "out"), *settings])
    said = capsys.readouterr()
    assert code == 0, said.err
    (saved,) = said.out.splitlines()
    assert saved.endswith(f"{kind}_0_00001_.mp4")
    assert tuple(read_video(saved).frames.shape) == (3, 64, 64, 3)
