"""Edit Prompts and Compare Clips, and both in one run with the built-in model."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import PromptError, VideoError
from fatezero_ext.media.video import read_video
from fatezero_ext.pictures.comparison_grid import compare

from ..conftest import relative

COMPARE, PROMPTS_NODE = load_pack("nodes.clips.compare_clips"), load_pack("nodes.clips.edit_prompts")
EXAMPLES = Path(__file__).parents[2] / "example_workflows"
PROMPTS = "  a blue circle on the grass \n\n a green circle on the grass\n   \n"


def clip(value=0.5):
    return torch.full((2, 16, 16, 3), value)


def grid_of(labels, **edits):
    inputs = {"source": [clip()], "edit_1": [clip(0.2)], "labels": labels, **edits}
    return COMPARE.CompareClips.execute(**inputs).args[0]


def test_each_line_is_a_prompt_and_blank_ones_are_left_out():
    (prompts,) = PROMPTS_NODE.EditPrompts.execute(PROMPTS).args
    assert prompts == ["a blue circle on the grass", "a green circle on the grass"]
    assert PROMPTS_NODE.EditPrompts.define_schema().outputs[0].is_output_list


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_no_prompt_at_all_is_an_error_before_anything_runs(text):
    assert "at least one edit prompt" in PROMPTS_NODE.EditPrompts.validate_inputs(text)
    with pytest.raises(PromptError, match="at least one edit prompt"):
        PROMPTS_NODE.EditPrompts.execute(text)
    assert PROMPTS_NODE.EditPrompts.validate_inputs(None) is True


def test_missing_labels_have_their_usual_names():
    assert grid_of([""]).equal(grid_of(["source\nedit"]))
    assert grid_of(["\nnight"]).equal(grid_of(["source", "night"]))
    assert (grid_of(["day"]) - grid_of([""])).abs().max() > 0.5  # letters are dark on light


def test_every_edit_input_may_bring_several_clips():
    one = grid_of([""], edit_1=[clip(0.1), clip(0.2), clip(0.3)])
    other = grid_of([""], edit_1=[clip(0.1)], edit_3=[clip(0.2), clip(0.3)], edit_2=None, edit_4=[None])
    assert one.equal(other)


def test_more_labels_than_clips_and_several_sources_are_refused():
    with pytest.raises(VideoError, match="3 labels for 2 clips"):
        grid_of(["a\nb\nc"])
    with pytest.raises(VideoError, match="source brings 2 clips"):
        grid_of([""], source=[clip(), clip()])


def test_clip_of_another_length_is_named_by_its_label():
    with pytest.raises(VideoError, match="'short' has 1 frames"):
        grid_of(["\n\nshort"], edit_2=[clip()[:1]])


def workflow():
    """Two frames of the sample clip, edited by two prompts from one inversion, compared and saved."""

    def node(class_type, **inputs):
        return {"class_type": class_type, "inputs": inputs}

    types = load_pack("nodes.headless.schemas.registry").pack_node_types()

    def own(name, **inputs):
        class_type = f"FateZero_{name}"
        defaults = {widget.id: widget.default for widget in types[class_type].widgets}
        return node(class_type, **{**defaults, **inputs})

    save = {"format": "auto", "codec": "auto"}
    return {
        "1": node("LoadVideo", file="red_circle_on_grass.mp4"),
        "2": node("GetVideoComponents", video=["1", 0]),
        "3": node("ImageFromBatch", image=["2", 0], batch_index=0, length=2),
        "4": own("LoadPseudo3DUNet", model="built-in toy model", key_frames=""),
        "5": node("VAEEncode", pixels=["3", 0], vae=["4", 2]),
        "6": own("RegisterAttentionControl", unet=["4", 0]),
        "7": own("DDIMInvert", controller=["6", 0], clip=["4", 1], latent=["5", 0], steps=2),
        "8": own("EditPrompts", prompts=PROMPTS),
        "9": own("P2PEdit", controller=["7", 0], clip=["4", 1], edit_prompt=["8", 0], guidance=3.0),
        "10": node("VAEDecode", samples=["9", 0], vae=["4", 2]),
        "11": own("CompareClips", source=["3", 0], edit_1=["10", 0], edit_labels=["8", 0]),
        "12": node("CreateVideo", images=["10", 0], fps=8.0),
        "13": node("SaveVideo", video=["12", 0], filename_prefix="edit", **save),
        "14": node("CreateVideo", images=["11", 0], fps=8.0),
        "15": node("SaveVideo", video=["14", 0], filename_prefix="grid", **save),
    }


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The results of that workflow by node id, and the folder they are saved to."""
    folder = tmp_path_factory.mktemp("compare")
    headless = {
        "folders": load_pack("nodes.headless.host"),
        "registry": load_pack("nodes.headless.schemas.registry"),
        "report": load_pack("nodes.headless.run.progress"),
        "workflow": load_pack("nodes.headless.formats.read"),
    }
    execute, validate = load_pack("nodes.headless.run.execute"), load_pack("nodes.headless.schemas.validate")
    types = headless["registry"].pack_node_types()
    reporter = headless["report"].Reporter(Console(quiet=True))
    host = headless["folders"].RunnerHost(headless["folders"].Folders((EXAMPLES,), folder), reporter)
    with load_pack("nodes.host").installed(host):
        graph = validate.validated(headless["workflow"].graph_from(workflow(), types), types)
        (results,) = execute.run_graphs([graph], types, reporter)
    return results, folder


def test_several_prompts_are_edited_from_one_inversion(outcome):
    results, _ = outcome
    blue, green = results["10"].lists[0]
    assert len(results["7"].lists[0]) == 1
    assert blue.shape == green.shape and relative(blue, green) > 0.01


def test_each_edit_stands_under_its_own_prompt(outcome):
    results, _ = outcome
    clips = [results["3"].lists[0][0], *results["10"].lists[0]]
    wanted = compare(clips, ["source", *(line.strip() for line in PROMPTS.splitlines() if line.strip())])
    assert results["11"].outputs[0].equal(wanted)


def test_every_edit_and_the_grid_are_saved(outcome):
    results, folder = outcome
    assert [path.rpartition("/")[2] for path in results["13"].shown["saved"]] == ["edit_00001_.mp4", "edit_00002_.mp4"]
    (grid,) = results["15"].shown["saved"]
    assert read_video(grid).frames.shape == results["11"].outputs[0].shape
    assert len(list(folder.glob("*.mp4"))) == 3
