"""Video Edit: the same bits as the graph it stands for, what it keeps between runs, and its sound and rate."""

import json
import re
from types import SimpleNamespace

import av
import pytest
import torch
from rich.console import Console

from fatezero_ext.cli.node_pack import load_pack

from ..sounding_clips import heard, write_clip

SOURCE = "a red circle on the grass"
COLOUR, STYLE = "a blue circle on the grass", f"a watercolor painting of {SOURCE}"
FRAMES, STEPS = 3, 5  # latents are blended in two of the steps
MODEL = {
    "model": "built-in toy model", "key_frames": "auto", "norm": "clip", "precision": "auto", "least_sc_channel": 0,
}  # fmt: skip
LOAD = {"2": {"class_type": "FateZero_LoadPseudo3DUNet", "inputs": MODEL}}
SAMPLE = {"1": {"class_type": "FateZero_SampleClip", "inputs": {}}}
PARTS = {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2]}


def one_node(edit_prompt=COLOUR, **widgets):
    """The whole edit of the sample clip as one node."""
    words = {"source_prompt": SOURCE, "edit_prompt": edit_prompt, "kind": "auto", "strength": 1.0}
    few = {"frames": FRAMES, "steps": STEPS}
    edit = {"class_type": "FateZero_VideoEdit", "inputs": {**PARTS, "video": ["1", 0], **words, **few, **widgets}}
    return SAMPLE | LOAD | {"3": edit, "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 3]}}}


def by_hand(schemas):
    """What a user would build for the same with the nodes alone, their widgets as the page makes them."""

    def node(class_type, **inputs):
        defaults = {each.id: each.default for each in schemas[class_type].widgets if each.default is not None}
        return {"class_type": class_type, "inputs": {**defaults, **inputs}}

    framing = {"count": FRAMES, "short_side": 64, "centre_square": False}
    words = {"source_prompt": SOURCE, "steps": STEPS}
    return {
        "5": node("GetVideoComponents", video=["1", 0]),
        "6": node("FateZero_PrepareFrames", images=["5", 0], fps=["5", 2], **framing),
        "7": node("VAEEncode", pixels=["6", 0], vae=["2", 2]),
        "8": node("FateZero_RegisterAttentionControl", unet=["2", 0]),
        "9": node("FateZero_AttentionStoreCache", controller=["8", 0]),
        "10": node("FateZero_DDIMInvert", controller=["9", 0], clip=["2", 1], latent=["7", 0], **words),
        "11": node("FateZero_P2PEdit", controller=["10", 0], clip=["2", 1], edit_prompt=COLOUR, kind="auto"),
        "12": node("VAEDecode", samples=["11", 0], vae=["2", 2]),
        "13": node("FateZero_KeepSourcePixels", images=["12", 0], source=["6", 0], mask=["11", 2], feather=4),
        "14": node("FateZero_CompareClips", source=["6", 0], edit_1=["13", 0]),
        "15": node("CreateVideo", images=["13", 0], fps=["6", 1]),
        "16": node("PreviewImage", images=["14", 0]),
        "17": node("SaveVideo", video=["15", 0], filename_prefix="by_hand", format="auto", codec="auto"),
    }


def inside(edit_prompt=COLOUR):
    """The nodes that the one node puts in its place, with a node that reads the last of them."""
    io, edit = load_pack("nodes.api").io, load_pack("nodes.method.video_edit").VideoEdit
    loaded = load_pack("nodes.method.load_unet").LoadPseudo3DUNet.execute(**MODEL).args
    sample = load_pack("nodes.clips.sample_clip").SampleClip.execute().args[0]
    running = load_pack("nodes.headless.run.execute")._Running(SimpleNamespace(api_format=one_node))
    edit = type("VideoEdit", (edit,), {"hidden": io.HiddenHolder(unique_id="3", dynprompt=running)})
    words = {"source_prompt": SOURCE, "edit_prompt": edit_prompt, "kind": "auto", "strength": 1.0}
    found = edit.execute(*loaded, **words, video=sample, frames=FRAMES, steps=STEPS)
    return found.expand | {"18": {"class_type": "PreviewImage", "inputs": {"images": found.args[3]}}}


def run(folder, document, *variants):
    """The results of each variant by the nodes' ids, and what the terminal showed."""
    (folder / "graph.json").write_text(json.dumps(document))
    command, runs = load_pack("nodes.headless.command"), load_pack("nodes.headless.run.execute")
    call = command.Command(folder / "graph.json", variants=variants, output=folder / "output", inputs=folder)
    with (folder / "shown.txt").open("w") as file:
        console = Console(record=True, width=500, file=file)
        with load_pack("nodes.headless.run.progress").Reporter(console) as reporter:
            with load_pack("nodes.host").installed(load_pack("nodes.headless.host").RunnerHost(call.folders, reporter)):
                types = load_pack("nodes.headless.schemas.registry").pack_node_types()
                graphs = command._graphs(call, types)
                results = [dict(found) for found in runs.run_graphs(graphs, types, reporter)]
    return results, console.export_text()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The one node, what it puts in its place, and the graph by hand: first for a colour, then for a style."""
    document = one_node() | by_hand(load_pack("nodes.headless.schemas.registry").pack_node_types()) | inside()
    style = [f"{node}.edit_prompt={STYLE}" for node in ("3", "11", "edit")]
    return run(tmp_path_factory.mktemp("compared"), document, [], style)


@pytest.mark.parametrize("variant", [0, 1])
def test_its_latents_are_those_of_the_graph_it_stands_for(compared, variant):
    results = compared[0][variant]
    for mine, theirs in (("encode", "7"), ("edit", "11")):
        (latents, *_), (wanted, *_) = results[mine].outputs, results[theirs].outputs
        assert latents["samples"].equal(wanted["samples"])
    assert results["invert"].outputs[0].trace.noise.equal(results["10"].outputs[0].trace.noise)


@pytest.mark.parametrize("variant, last", [(0, "13"), (1, "12")])
def test_its_results_are_those_of_the_graph_and_a_style_has_no_pixels_of_the_source(compared, variant, last):
    results = compared[0][variant]
    video, images, mask, both = results["3"].outputs
    assert images.equal(results[last].outputs[0]) and images.shape == (FRAMES, 64, 64, 3)
    assert video.frames.equal(images) and video.frame_rate == results["15"].outputs[0].frame_rate == 8
    assert mask.equal(results["11"].outputs[2]) and bool((mask == 1).all()) == (variant == 1)
    assert variant or both.equal(results["14"].outputs[0])


def test_another_edit_keeps_the_inversion(compared):
    _, shown = compared
    assert shown.count("Inversion of 3 frames in 5 steps") == 2  # the one node's and the graph's by hand
    assert shown.count("Edit of 3 frames") == 4


def test_it_says_what_it_has_chosen(compared):
    first = compared[1].index("  3 of 8 frames: each, 8 fps.\n  64x64 pixels; built-in toy model was trained on 64.\n")
    assert "colour, replace, cross-attention 0-0.8" in compared[1][first:]


def test_a_remark_is_told_once_by_the_node_and_not_again_by_those_inside(tmp_path):
    document = one_node("a silver jeep", source_prompt="one red circle", steps=2, frames=1, kind="style")
    _, shown = run(tmp_path, document, [], ["3.edit_prompt=a silver cat"])
    for remark in ("does not know 'silver', 'jeep'", "does not know 'silver', 'cat'"):
        assert shown.count(remark) == 1
    for remark in ("does not know 'one'", "The clip is one frame", "The prompts have no word in common"):
        assert shown.count(remark) == 2  # once in each variant
    assert shown.count("Edit of 1 frames in 2 steps") == 2


def test_strength_and_kind_go_to_the_edit_alone(tmp_path):
    document = one_node(steps=1, frames=1)
    results, shown = run(tmp_path, document, [], ["3.strength=0.5"], ["3.kind=style"])
    assert shown.count("Inversion of 1 frames") == 1 and shown.count("Edit of 1 frames") == 3
    assert "strength 0.5" in shown and "style, refine" in shown and "The clip is one frame" in shown
    assert results[0]["3"].outputs[1].shape == (1, 64, 64, 3)


def test_a_video_keeps_its_rate_and_its_sound_from_the_first_frame_taken_on(tmp_path):
    write_clip(tmp_path / "clip.mp4", "aac")  # 96 frames, 24 a second, a beep at 2 seconds
    document = one_node(start=42, frames=4, steps=1)
    document["1"] = {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}}
    save = {"video": ["3", 0], "filename_prefix": "edit", "format": "auto", "codec": "auto"}
    document["4"] = {"class_type": "SaveVideo", "inputs": save}
    (results,), shown = run(tmp_path, document)
    assert "4 of 96 frames from frame 42 on: every 3rd, 8 fps" in shown
    (path,) = results["4"].shown["saved"]
    with av.open(path) as container:
        pictures = container.streams.video[0]
        assert pictures.average_rate == 8 and pictures.frames == 4
    start, seconds = heard(path)
    assert start == pytest.approx(2.0 - 42 / 24, abs=0.05) and seconds == pytest.approx(0.5, abs=0.1)


def test_several_edit_prompts_give_one_clip_each_from_one_inversion(tmp_path):
    prompts = {"prompts": f"{COLOUR}\na green circle on the grass"}
    document = one_node(steps=2, frames=1)
    document["7"] = {"class_type": "FateZero_EditPrompts", "inputs": prompts}
    document["3"]["inputs"]["edit_prompt"] = ["7", 0]
    (results,), shown = run(tmp_path, document)
    clips = results["3"].lists[1]
    assert len(clips) == 2 and not clips[0].equal(clips[1])
    assert shown.count("Inversion of 1 frames") == 1


def refusal(folder, document):
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow) as caught:
        run(folder, document)
    return str(caught.value)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"edit_prompt": SOURCE}, "source and edit prompt are the same"),
        ({"edit_prompt": "  "}, "edit_prompt is empty"),
        ({"source_prompt": ""}, "source_prompt is empty"),
        ({"video": None}, "neither video nor images is connected"),
        ({"images": ["1", 0]}, "both video and images are connected"),
        ({"strength": 1.5}, "strength"),
        ({"kind": "custom"}, "kind is 'custom'; it must be one of auto"),
        ({"source_prompt": "a (red:1.2) circle on the grass"}, "weight"),
        ({"source_prompt": "red " * 90}, "source prompt"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path, change, told):
    document = one_node()
    document["3"]["inputs"] |= change
    document["3"]["inputs"] = {name: value for name, value in document["3"]["inputs"].items() if value is not None}
    if "images" in change:
        document["5"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}}
        document["3"]["inputs"]["images"] = ["5", 0]
    said = refusal(tmp_path, document)
    assert told in said and not foreign(said)


def test_a_mistake_names_the_node_in_which_the_text_stands():
    graph_texts = load_pack("nodes.checking.graph_texts")
    inputs = {"source_prompt": ["1", 0], "edit_prompt": ["2", 0], "kind": "auto"}
    graph = {
        "1": {"class_type": "PrimitiveStringMultiline", "inputs": {}, "_meta": {"title": "What is in the clip"}},
        "2": {"class_type": "FateZero_EditPrompts", "inputs": {}},
    }
    mistakes = dict.fromkeys(("source_prompt", "edit_prompt", "kind"), "It is empty.")
    named = {**mistakes, "source_prompt": "It is empty. The text stands in What is in the clip (node 1)."}
    assert graph_texts.with_places(mistakes, graph, inputs) == named
    assert graph_texts.with_places(mistakes, {}, inputs) == graph_texts.with_places(mistakes, graph, None) == mistakes


def foreign(said):
    """Inputs of the nodes inside that a message names: the one node's user finds none of them."""
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    words, own = set(re.findall(r"\w+", said)), types["FateZero_VideoEdit"].inputs
    inner = {"PrepareFrames", "RegisterAttentionControl", "AttentionStoreCache", "DDIMInvert", "P2PEdit"}
    names = {name for node in inner for name in types[f"FateZero_{node}"].inputs if "_" in name or name == "policy"}
    return "'auto'" in said or sorted(words & names.difference(own))


def test_a_model_of_another_family_and_a_missing_vae_are_told_before_any_work():
    edit, frames = load_pack("nodes.method.video_edit").VideoEdit, torch.zeros(8, 64, 64, 3)
    words = {"source_prompt": SOURCE, "edit_prompt": COLOUR, "kind": "auto", "strength": 1.0}
    other = SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace(), diffusion_model=None))
    with pytest.raises(ValueError, match="is not supported: it has no UNet"):
        edit.execute(other, None, None, **words, images=frames)
    with pytest.raises(ValueError, match="nothing is connected to model"):
        edit.execute(None, None, None, **words, images=frames)
    with pytest.raises(ValueError, match="neither video nor images"):
        edit.execute(other, None, None, **words)
    with pytest.raises(ValueError, match="source and edit prompt are the same"):
        edit.execute(other, None, None, **{**words, "edit_prompt": SOURCE}, images=frames)


@pytest.fixture
def running():
    """The node as a program calls it, its model, and its words."""
    edit = load_pack("nodes.method.video_edit").VideoEdit
    parts = load_pack("nodes.method.load_unet").LoadPseudo3DUNet.execute(**MODEL).args
    graph = load_pack("nodes.headless.run.execute")._Running(SimpleNamespace(api_format=one_node))
    hidden = load_pack("nodes.api").io.HiddenHolder(unique_id="3", dynprompt=graph)
    words = {"source_prompt": SOURCE, "edit_prompt": COLOUR, "kind": "auto", "strength": 1.0}
    return type("VideoEdit", (edit,), {"hidden": hidden}), parts, words


@pytest.mark.parametrize(
    "inputs, told",
    [
        ({"fps": 0.0}, "fps is 0.0; a positive rate is needed"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": -1.0}, "fps is -1.0"),
        ({"frames": -1}, "frames is -1; 0 or more is needed"),
        ({"size": 10}, "size is 10; built-in toy model needs at least 32 pixels"),
        ({"images": torch.zeros(0, 64, 64, 3)}, "images brings no frames"),
    ],
)
def test_what_links_bring_is_checked_before_any_work(running, inputs, told):
    edit, parts, words = running
    with pytest.raises(ValueError, match=told):
        edit.execute(*parts, **words, **({"images": torch.zeros(8, 64, 64, 3)} | inputs))


def test_a_list_on_a_link_is_refused_before_any_work_and_one_of_prompts_is_not(running):
    """A program calls a node for every item of a list before anything in the node's place runs."""
    edit, parts, words = running
    clips = torch.zeros(8, 64, 64, 3), torch.ones(8, 64, 64, 3)
    for prompt in (COLOUR, STYLE):
        assert edit.execute(*parts, **{**words, "edit_prompt": prompt}, images=clips[0]).expand
    with pytest.raises(ValueError, match="a list is connected to images; this node edits one clip"):
        edit.execute(*parts, **words, images=clips[1])


@pytest.mark.parametrize("reader", ["FateZero_VideoEdit", "FateZero_PrepareFrames"])
def test_a_template_in_which_no_clip_is_chosen_yet_is_refused_before_any_work(reader):
    mistakes = load_pack("nodes.clips.given_clip").clip_mistakes
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": ""}, "_meta": {"title": "Upload your clip here"}},
        "2": {"class_type": reader, "inputs": {"video": ["1", 0]}},
    }
    assert "no clip is chosen in Upload your clip here (node 1); " in mistakes(graph["2"]["inputs"], graph)["video"]
    graph["1"]["inputs"]["file"] = "mine.mp4"
    assert mistakes(graph["2"]["inputs"], graph) == {}
