"""Video Edit under ComfyUI's own executor: the graph it stands for, and what its caches keep of it."""

import pytest

from tests.comfyui.in_process import Executor, Give, caches, digest
from tests.comfyui.small_native import native_model
from tests.comfyui.workflows import LOAD, TEMPLATES, api_graph

SOURCE = "a red circle on the grass"
A, B = "a blue circle on the grass", "a purple circle on the grass"
FRAMES, STEPS = 3, 5  # latents are blended in two of the steps
ONE, KEPT, GIVEN = "30", "31", "32"

pytestmark = pytest.mark.usefixtures("loaded")


class KeepImages:
    """An output node that shows a digest of the frames and the mask that it is given."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "optional": {"mask": ("MASK",), "video": ("VIDEO",)}}

    def keep(self, images, mask=None, video=None):
        told = {"digest": [digest(images, mask)], "shape": [list(images.shape)]}
        if video is not None:
            parts = video.get_components()
            told["rate"], told["same"] = [str(parts.frame_rate)], [bool(parts.images.equal(images))]
            told["sound"] = [None if parts.audio is None else list(parts.audio["waveform"].shape)]
        return {"ui": told}


@pytest.fixture(scope="module", autouse=True)
def keeping(loaded):
    import nodes

    nodes.NODE_CLASS_MAPPINGS["TestKeepImages"] = KeepImages


def parts(model):
    """Where the model's parts come from."""
    return {"model": [GIVEN, 0] if model == "native" else [LOAD, 0], "clip": [LOAD, 1], "vae": [LOAD, 2]}


def sources(model):
    template = api_graph(TEMPLATES[0])
    graph = {LOAD: template[LOAD], "1": {"class_type": "FateZero_SampleClip", "inputs": {}}}
    if model == "native":
        Give.given["model"] = Give.given.get("model") or native_model()
        graph[GIVEN] = {"class_type": "TestGive", "inputs": {"name": "model"}}
    return graph


def one_node(model="toy", edit_prompt=A, **widgets):
    words = {"source_prompt": SOURCE, "edit_prompt": edit_prompt, "kind": "auto", "strength": 1.0}
    few = {"frames": FRAMES, "steps": STEPS, "size": 64}
    inputs = {**parts(model), "video": ["1", 0], **words, **few, **widgets}
    kept = {"images": [ONE, 1], "mask": [ONE, 2], "video": [ONE, 0]}
    return sources(model) | {
        ONE: {"class_type": "FateZero_VideoEdit", "inputs": inputs},
        KEPT: {"class_type": "TestKeepImages", "inputs": kept},
    }


def by_hand(model="toy", edit_prompt=A):
    """The same of the nodes it stands for, with the frames that core decodes."""
    import nodes

    def node(class_type, **inputs):
        schema = nodes.NODE_CLASS_MAPPINGS[class_type].define_schema()
        defaults = {each.id: getattr(each, "default", None) for each in schema.inputs}
        return {"class_type": class_type, "inputs": {k: v for k, v in defaults.items() if v is not None} | inputs}

    framing = {"count": FRAMES, "short_side": 64, "centre_square": False}
    feather = 8 if model == "native" else 4
    given = parts(model)
    return sources(model) | {
        "6": node("FateZero_PrepareFrames", video=["1", 0], **framing),
        "7": {"class_type": "VAEEncode", "inputs": {"pixels": ["6", 0], "vae": given["vae"]}},
        "8": node("FateZero_RegisterAttentionControl", unet=given["model"]),
        "9": node("FateZero_AttentionStoreCache", controller=["8", 0]),
        "10": node(
            "FateZero_DDIMInvert", controller=["9", 0], clip=given["clip"], latent=["7", 0], source_prompt=SOURCE,
            steps=STEPS,
        ),
        "11": node("FateZero_P2PEdit", controller=["10", 0], clip=given["clip"], edit_prompt=edit_prompt, kind="auto"),
        "12": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0], "vae": given["vae"]}},
        "13": node("FateZero_KeepSourcePixels", images=["12", 0], source=["6", 0], mask=["11", 2], feather=feather),
        KEPT: {"class_type": "TestKeepImages", "inputs": {"images": ["13", 0], "mask": ["11", 2]}},
    }  # fmt: skip


def inner(run):
    """Names of the nodes that ran in the one node's place."""
    return {name.rpartition(".")[2] for name in run.executed if name.startswith(f"{ONE}.")}


@pytest.mark.parametrize("model", ["toy", "native"])
def test_it_gives_the_frames_and_mask_of_the_graph_it_stands_for(model):
    wanted, found = Executor().run(by_hand(model)), Executor().run(one_node(model))
    assert wanted.error is None and found.error is None, (wanted.error, found.error)
    assert found.shown[KEPT]["digest"] == wanted.shown[KEPT]["digest"]
    assert found.shown[KEPT]["shape"] == [[FRAMES, 64, 64, 3]]
    assert found.shown[KEPT]["rate"] == ["8"] and found.shown[KEPT]["same"] == [True]


@pytest.mark.parametrize("cache", ["classic", "lru 50", "ram"])
@pytest.mark.parametrize("changed", [{"edit_prompt": B}, {"strength": 0.5}, {"kind": "object"}])
def test_where_only_the_edit_changes_the_inversion_is_kept(cache, changed):
    if cache not in caches():
        pytest.skip(f"this ComfyUI has no cache {cache!r}")
    executor = Executor(cache)
    first = executor.run(one_node())
    assert {"frames", "encode", "invert", "edit", "decode"} <= inner(first)
    again = executor.run(one_node(**changed))
    assert again.error is None and inner(again) & {"frames", "encode", "control", "store", "invert"} == set()
    assert {"edit", "decode"} <= inner(again)
    assert again.shown[KEPT]["digest"] != first.shown[KEPT]["digest"]
    assert "invert" in inner(executor.run(one_node(steps=STEPS + 1)))


@pytest.mark.parametrize("cache", ["none", "lru 1", "ram pressed"])
def test_caches_that_keep_little_give_the_same(cache):
    if cache not in caches():
        pytest.skip(f"this ComfyUI has no cache {cache!r}")
    wanted, executor = Executor().run(one_node()).shown[KEPT]["digest"], Executor(cache)
    assert [executor.run(one_node()).shown[KEPT]["digest"] for _ in range(2)] == [wanted, wanted]


def test_an_unchanged_prompt_runs_nothing():
    executor = Executor()
    executor.run(one_node())
    assert executor.run(one_node()).executed == []


def test_a_list_of_edit_prompts_gives_one_clip_each_from_one_inversion():
    graph = one_node()
    graph["33"] = {"class_type": "FateZero_EditPrompts", "inputs": {"prompts": f"{A}\n{B}"}}
    graph[ONE]["inputs"]["edit_prompt"] = ["33", 0]
    run = Executor().run(graph)
    assert run.error is None
    assert sum(name.endswith(".invert") for name in run.executed) >= 1
    assert len(set(run.shown[KEPT]["digest"])) == 2


def test_the_page_is_told_of_the_choices_on_the_node_and_of_nothing_inside():
    executor = Executor()
    executor.run(one_node())
    told = [data for event, data in executor.server.sent if event == "progress_text"]
    assert [each["node"] for each in told] == [ONE]
    lines = told[0]["text"].split("\n")
    assert (
        lines[0] == "\u26a0 The clip lasts 0.38 seconds: take more frames, or a longer clip."
    )  # what is wrong comes first
    assert lines[1] == "3 of 8 frames: each, 8 fps." and lines[2].startswith("64x64 pixels")
    assert all(line.endswith(".") for line in lines)


def test_what_a_node_inside_remarks_joins_what_the_node_said_before():
    executor = Executor()
    executor.run(one_node(edit_prompt="a red circle on the sand"))
    told = [data for event, data in executor.server.sent if event == "progress_text"]
    assert {each["node"] for each in told} == {ONE} and len(told) > 1
    first, last = (told[place]["text"].split("\n") for place in (0, -1))
    further = [line for line in last if line not in first]
    assert any(line.startswith("\u26a0 New backgrounds of the built-in model flicker less") for line in further)
    assert [line for line in last if line not in further] == first


def test_an_error_inside_is_the_nodes_own():
    run = Executor().run(one_node(start=8))
    assert run.error["node_id"] == ONE and run.error["exception_message"].startswith("start is 8, and the clip has 8")
    assert run.error["exception_type"] == "fatezero_ext.VideoError"  # without the pack's path: the page shows it


@pytest.mark.parametrize("change", [{"edit_prompt": SOURCE}, {"source_prompt": " "}, {"video": None}])
def test_mistakes_are_refused_before_anything_runs(change):
    graph = one_node()
    graph[ONE]["inputs"] = {k: v for k, v in (graph[ONE]["inputs"] | change).items() if v is not None}
    run = Executor().run(graph)
    if "video" in change:  # seen before a run by ComfyUI's server only
        assert "neither video nor images" in run.error["exception_message"]
    else:
        assert run.refused
