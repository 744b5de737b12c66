"""The stand-in API describes the nodes as the real ComfyUI does; what that tells is recorded."""

import pytest

from fatezero_ext.cli.node_pack import load_pack

from ..schema_records import OWN, of_standin, recorded

NAMES = sorted(recorded())


@pytest.fixture(scope="module")
def types():
    return load_pack("nodes.headless.schemas.registry").pack_node_types()


def test_all_nodes_are_recorded(types):
    assert NAMES == sorted(name for name in types if name.startswith(OWN))


@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_what_comfyui_takes_it_for(types, name):
    assert of_standin(types[name].schema) == recorded()[name]
