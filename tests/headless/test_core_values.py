"""Core nodes that hold a value, and those between pictures and masks."""

import json

import pytest
import torch
from PIL import Image

from fatezero_ext.cli.node_pack import load_pack

VALUES = {
    "PrimitiveString": ("STRING", "a"),
    "PrimitiveStringMultiline": ("STRING", "a\nb"),
    "PrimitiveInt": ("INT", -(2**63) + 1),
    "PrimitiveFloat": ("FLOAT", 0.25),
    "PrimitiveBoolean": ("BOOLEAN", True),
}


@pytest.fixture(scope="module")
def core():
    return {node.GET_SCHEMA().node_id: node for node in load_pack("nodes.headless.core_nodes").CORE_NODES}


@pytest.mark.parametrize("name", VALUES)
def test_a_primitive_gives_its_value(run, core, name):
    kind, value = VALUES[name]
    assert [output.get_io_type() for output in core[name].GET_SCHEMA().outputs] == [kind]
    document = {
        "1": {"class_type": name, "inputs": {"value": value}},
        "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
    }
    assert run(document)[0] == [[str(value)]]


def test_a_seed_primitive_has_a_second_value_in_the_file(run):
    nodes = [{"id": 1, "type": "PrimitiveInt", "widgets_values": [7, "randomize"]}]
    nodes.append({"id": 2, "type": "Show", "inputs": [{"name": "source", "link": 1}]})
    assert run({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "INT"]]})[0] == [["7"]]


def test_a_node_is_asked_about_the_value_of_a_primitive_before_anything_runs(refused):
    document = {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": 2}},
        "2": {"class_type": "Strict", "inputs": {"value": ["1", 0], "other": 1}},
        "3": {"class_type": "Show", "inputs": {"source": ["2", 0]}},
    }
    assert "#2 Strict input 'value': 2 is even" in refused(document)


@pytest.fixture
def picture(headless, tmp_path):
    """A host with a picture of one row whose channels are all different."""
    Image.new("RGBA", (3, 1), (255, 51, 0, 102)).save(tmp_path / "picture.png")
    folders = headless.folders.Folders((tmp_path,), tmp_path / "out")
    reporter = headless.report.Reporter(load_pack("nodes.headless.command").Console(stderr=True))
    with headless.host.installed(headless.folders.RunnerHost(folders, reporter)):
        yield "picture.png"


@pytest.mark.parametrize(("channel", "value"), [("red", 1.0), ("green", 0.2), ("blue", 0.0), ("alpha", 0.6)])
def test_a_mask_is_read_from_a_channel(core, picture, channel, value):
    (mask,) = core["LoadImageMask"].execute(picture, channel).args
    torch.testing.assert_close(mask, torch.full((1, 1, 3), value))


def test_a_mask_from_a_missing_picture_is_told_before_anything_runs(core, picture):
    assert core["LoadImageMask"].validate_inputs(picture) is True
    assert "there is no file 'none.png'" in core["LoadImageMask"].validate_inputs("none.png")


def test_a_channel_of_pictures_becomes_a_mask(core):
    image = torch.rand(2, 3, 4, 3)
    (mask,) = core["ImageToMask"].execute(image, "green").args
    assert mask.equal(image[..., 1])
    with pytest.raises(ValueError, match="have 3 channels, so there is no 'alpha'"):
        core["ImageToMask"].execute(image, "alpha")


def test_an_inverted_mask_and_the_mask_sum_to_one(core):
    mask = torch.rand(2, 3, 4)
    (inverted,) = core["InvertMask"].execute(mask).args
    torch.testing.assert_close(inverted + mask, torch.ones(2, 3, 4))


def test_a_mask_goes_into_an_edit(headless):
    """Sockets of the new nodes fit those of the pack's."""
    types = headless.registry.pack_node_types()
    document = json.loads((headless.command.EXAMPLES / "1_colour_edit_with_mask.json").read_text())
    graph = headless.workflow.graph_from(document, types)
    nodes = dict(graph.nodes)
    Node, Link = headless.graph.Node, headless.graph.Link
    nodes["30"] = Node("30", "ImageToMask", "", {"image": Link("15", 0), "channel": "red"})
    nodes["31"] = Node("31", "InvertMask", "", {"mask": Link("30", 0)})
    nodes["8"] = nodes["8"].with_inputs({"mask": Link("31", 0)})
    assert headless.validate.validated(headless.graph.Graph(nodes), types)
