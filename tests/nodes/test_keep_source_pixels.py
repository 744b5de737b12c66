"""Keep Source Pixels in a graph: what it gives, its switch, and what a bypass hands on."""

import json

import pytest
import torch

from fatezero_ext import SettingsError, VideoError, keep_source_pixels
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.editing import source_pixels

NODE = load_pack("nodes.clips.keep_source_pixels").KeepSourcePixels
PASTING = sorted(
    path for path in EXAMPLES.glob("[0-9]_*.json") if "FateZero_KeepSourcePixels" in path.read_text(encoding="utf-8")
)
TITLE = 30  # pixels that a node's title takes above it


def clip(seed, frames=2, height=16, width=24, channels=3):
    return torch.rand(frames, height, width, channels, generator=torch.Generator().manual_seed(seed))


def mask():
    left = torch.zeros(1, 16, 24)
    left[:, :, :8] = 1
    return left


def given(**other):
    return {"images": clip(1), "source": clip(2), "mask": mask(), "grow": 2, "feather": 3, **other}


def test_the_node_gives_what_python_gives():
    (found,) = NODE.execute(**given()).args
    assert found.equal(keep_source_pixels(clip(1), clip(2), mask(), grow=2, feather=3))
    assert not found.equal(clip(1)) and not found.equal(clip(2))


def test_alpha_is_left_out():
    (found,) = NODE.execute(**given(images=clip(1, channels=4), source=clip(2, channels=4))).args
    assert found.equal(
        keep_source_pixels(clip(1, channels=4)[..., :3], clip(2, channels=4)[..., :3], mask(), grow=2, feather=3)
    )


def test_switched_off_it_hands_the_images_on_whatever_else_came():
    images = clip(1)
    (found,) = NODE.execute(**given(images=images, source=clip(2, frames=5), enabled=False)).args
    assert found is images


@pytest.mark.parametrize(
    ("mask", "told", "left"),
    [
        (torch.zeros(1, 16, 24), "black everywhere: nothing of the edit is kept, the result is the source.", "source"),
        (torch.full((1, 16, 24), 0.5), "black everywhere", "source"),
        (torch.ones(1, 16, 24), "white everywhere: all of the edit is kept", "images"),
        (mask(), "", None),
    ],
)
def test_a_mask_of_one_colour_is_remarked_with_what_comes_of_it(caplog, mask, told, left):
    with caplog.at_level("INFO"):
        (found,) = NODE.execute(**given(mask=mask)).args
    assert (told in caplog.text) and bool(caplog.text) == bool(told)
    assert left is None or found.equal(given()[left])


def streamed(frames):
    """Frames of a long clip, which are made where they are used."""
    kind = load_pack("fatezero_ext.media.streamed").StreamedFrames
    return kind(tuple(frames.shape), lambda: iter(frames.split(1)))


@pytest.mark.parametrize("made", [torch.clone, streamed])
@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"source": clip(2, frames=5)}, VideoError, "'edited' has 2 frames, 'source' has 5"),
        ({"source": clip(2, height=8)}, VideoError, "'source' is 24x8;"),
        ({"mask": torch.ones(1, 16, 16)}, SettingsError, "the mask is 16x16"),
        ({"grow": -1}, SettingsError, "grow is -1"),
    ],
)
def test_what_does_not_fit_is_refused_at_this_node(other, error, message, made):
    brought = given(**other)
    with pytest.raises(error, match=message):
        NODE.execute(**{**brought, "images": made(brought["images"])})


def test_streamed_clips_give_what_held_ones_do():
    (found,) = NODE.execute(**given(images=streamed(clip(1)), source=streamed(clip(2)))).args
    assert found.all().equal(keep_source_pixels(clip(1), clip(2), mask(), grow=2, feather=3))


def test_its_widgets_have_pythons_defaults_and_bounds():
    widgets = {widget.id: widget for widget in NODE.define_schema().inputs}
    for name in ("grow", "feather"):
        assert widgets[name].default == keep_source_pixels.__kwdefaults__[name]
        assert (widgets[name].min, widgets[name].max) == (0, source_pixels.MOST_PIXELS)
    assert widgets["enabled"].default is True


def test_bypassed_the_edit_goes_on(tmp_path):
    """ComfyUI hands on the first input of the type that is asked for."""
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    document = json.loads(PASTING[0].read_text("utf-8"))
    paste = next(node for node in document["nodes"] if node["type"] == "FateZero_KeepSourcePixels")
    paste["mode"] = 4
    path = tmp_path / "bypassed.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    graph = load_pack("nodes.headless.formats.read").read_workflow(path, types)
    (video,) = [node for node in graph.nodes.values() if node.class_type == "CreateVideo"]
    assert graph.nodes[video.inputs["images"].node].class_type == "VAEDecode"


def test_the_templates_of_edits_with_a_mask_put_pixels_back():
    assert [path.stem for path in PASTING] == [
        "1_colour_edit_with_mask",
        "2_shape_edit",
        "3_background_edit",
        "5_animal_edit",
    ]


@pytest.mark.parametrize("path", PASTING, ids=lambda path: path.stem)
def test_a_template_pastes_what_was_encoded_under_the_last_mask(path):
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    graph = load_pack("nodes.headless.formats.read").read_workflow(path, types)
    nodes = graph.nodes
    of = {node.class_type: node for node in nodes.values()}
    inputs = of["FateZero_KeepSourcePixels"].inputs
    feeds = {name: (nodes[inputs[name].node].class_type, inputs[name].slot) for name in ("images", "source", "mask")}
    assert feeds == {
        "images": ("VAEDecode", 0),
        "source": ("FateZero_PrepareFrames", 0),
        "mask": ("FateZero_P2PEdit", 2),
    }
    assert inputs["source"] == of["VAEEncode"].inputs["pixels"]
    assert nodes[of["CreateVideo"].inputs["images"].node] is of["FateZero_KeepSourcePixels"]
    # The mask is grown already; the edge is as wide as a cell of the built-in model.
    assert (inputs["grow"], inputs["feather"], inputs["enabled"]) == (0, 4, True)


@pytest.mark.parametrize("path", PASTING, ids=lambda path: path.stem)
def test_a_templates_nodes_do_not_overlap_and_its_links_fit(path):
    document = json.loads(path.read_text("utf-8"))
    nodes = {node["id"]: node for node in document["nodes"]}
    sizes = {name: (0 if node["flags"].get("collapsed") else node["size"][1]) for name, node in nodes.items()}
    boxes = {name: (*node["pos"], node["size"][0], sizes[name]) for name, node in nodes.items()}
    for one, (left, top, width, height) in boxes.items():
        for other, (x, y, w, h) in boxes.items():
            apart = left + width <= x or x + w <= left or top + height <= y - TITLE or y + h <= top - TITLE
            assert one == other or apart, (one, other)
    for number, source, out, target, slot, kind in document["links"]:
        assert number in nodes[source]["outputs"][out]["links"] and nodes[source]["outputs"][out]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == number and boxes[source][0] <= boxes[target][0]
    assert sorted(node["order"] for node in nodes.values()) == list(range(len(nodes)))
    assert document["last_link_id"] == max(link[0] for link in document["links"])
    assert document["last_node_id"] == max(nodes)
