"""What the running ComfyUI tells of the nodes is what is recorded for tests without it.

`FATEZERO_RECORD=1 make test-comfyui ...` with ComfyUI 0.8.0 records it anew.
"""

import json
import os
import re

import pytest

from fatezero_ext.cli.node_pack import load_pack
from tests.schema_records import OWN, RECORDED, recorded, told

VERSION = "0.8.0"


@pytest.fixture(scope="module")
def running(loaded):
    """By node id, what /object_info tells."""
    import nodes

    own = {name: found for name, found in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith(OWN)}
    return {name: told(own[name].GET_NODE_INFO_V1()) for name in sorted(own)}


def test_the_recorded_schemas_are_comfyuis(comfyui, running):
    version = re.search(r'__version__ = "(.+)"', (comfyui / "comfyui_version.py").read_text())[1]
    if version != VERSION:
        pytest.skip(f"schemas are recorded with ComfyUI {VERSION}; this is {version}")
    if os.environ.get("FATEZERO_RECORD"):
        RECORDED.write_text(json.dumps(running, indent=1) + "\n")
    assert running == recorded()


def test_nodes_sockets_and_widgets_have_the_same_names_and_types_in_every_version(running):
    assert kinds(running) == kinds(recorded())


def test_the_node_api_is_comfyuis_at_the_version_the_pack_was_written_for(loaded):
    from comfy_api import v0_0_2

    api = load_pack("nodes.api")
    assert api.IN_COMFYUI and api.InputImpl is v0_0_2.InputImpl and api.io is v0_0_2.io


def kinds(schemas):
    """Of each node: type of every input and output."""
    return {
        name: ({group: {n: s[0] for n, s in found.items()} for group, found in node["input"].items()}, node["output"])
        for name, node in schemas.items()
    }
