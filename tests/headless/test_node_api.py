import importlib
import runpy
import sys
from types import ModuleType

import pytest

from fatezero_ext.cli.node_pack import load_pack


@pytest.fixture(scope="module")
def api():
    return load_pack("nodes.api")


def test_schema_drops_settings_that_the_running_version_does_not_know(api):
    made = api.schema(node_id="A", category="video", search_aliases=["x"])
    assert made.category == "video" and not hasattr(made, "search_aliases")


def test_advanced_marks_the_widget_and_returns_it(api):
    widget = api.io.Int.Input("steps", default=5)
    assert api.advanced(widget) is widget and widget.extra_dict == {"advanced": True}


def test_unknown_setting_of_an_input_is_an_error_as_in_comfyui(api):
    with pytest.raises(TypeError):
        api.io.Int.Input("steps", maximum=3)


def test_custom_sockets_carry_their_name(api):
    socket = api.io.Custom("FATEZERO_UNET")
    assert socket.Input("unet").io_type == socket.Output().io_type == "FATEZERO_UNET"


def test_socket_ids_used_twice_are_refused(api):
    twice = [api.io.Int.Input("a"), api.io.Float.Input("a")]
    with pytest.raises(ValueError, match=r"repeats \['a'\]"):
        api.io.Schema(node_id="A", inputs=twice).validate()


def test_host_is_plain_python_unless_one_is_installed():
    host = load_pack("nodes.host")
    host.current().progress(3).update(1)
    assert host.current().output_directory().name == "output" and host.current().diffusers_folders() == ()
    other = host.PythonHost()
    with host.installed(other):
        assert host.current() is other
    assert host.current() is not other


def test_pack_has_every_node_id_once_and_prefixed(headless):
    found = headless.registry.pack_node_types()
    core = {node.GET_SCHEMA().node_id for node in load_pack("nodes.headless.core_nodes").CORE_NODES}
    assert core < set(found) or core == set(found)
    assert all(name.startswith("FateZero_") for name in set(found) - core)


def test_every_widget_of_the_pack_has_a_default_and_a_tooltip(headless):
    core = {node.GET_SCHEMA().node_id for node in load_pack("nodes.headless.core_nodes").CORE_NODES}
    for name, node_type in headless.registry.pack_node_types().items():
        for widget in node_type.widgets if name not in core else ():
            assert widget.tooltip and widget.default is not None, f"{name}.{widget.id}"


def test_package_without_the_pack_says_that_workflows_need_the_checkout(tmp_path, monkeypatch):
    pack = importlib.import_module("fatezero_ext.cli.node_pack")
    monkeypatch.delitem(sys.modules, pack.PACK)
    monkeypatch.setattr(pack, "__file__", str(tmp_path / "site-packages" / "fatezero_ext" / "cli" / "node_pack.py"))
    with pytest.raises(ValueError, match="workflows need the project's checkout"):
        pack.load_pack()


def module(name, **contents):
    made = ModuleType(name)
    vars(made).update(contents)
    return made


@pytest.mark.parametrize("versions, wanted", [(("v0_0_2", "latest"), "v0_0_2"), (("latest",), "latest"), ((), None)])
def test_the_node_api_is_of_a_fixed_version_and_the_latest_only_where_that_is_missing(monkeypatch, versions, wanted):
    """ComfyUI advises packs to name a version: what is `latest` may change under them."""
    names = ("ComfyExtension", "InputImpl", "io")
    if versions:
        monkeypatch.setitem(sys.modules, "comfy_api", module("comfy_api", __path__=[]))
        for version in versions:
            offered = {name: f"{name} of {version}" for name in names}
            monkeypatch.setitem(sys.modules, f"comfy_api.{version}", module(version, **offered))
        monkeypatch.setitem(sys.modules, "comfy_execution", module("comfy_execution", __path__=[]))
        utils = module("graph_utils", GraphBuilder="GraphBuilder of ComfyUI")
        monkeypatch.setitem(sys.modules, "comfy_execution.graph_utils", utils)
    found = runpy.run_path(load_pack("nodes.api").__file__, run_name=f"{load_pack('nodes').__name__}.api_again")
    assert found["IN_COMFYUI"] == bool(versions)
    for name in names if versions else ():
        assert found[name] == f"{name} of {wanted}"
    assert versions or found["io"].__name__.endswith("api_fallback")
