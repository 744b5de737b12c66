"""Tests inside the real ComfyUI: `make test-comfyui COMFYUI_PATH=...`, with its requirements installed."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

COMFYUI = os.environ.get("COMFYUI_PATH")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def comfyui(tmp_path_factory):
    """ComfyUI's folder, importable and set to the CPU; what is saved goes into a temporary folder."""
    if not COMFYUI:
        pytest.skip("these tests run inside ComfyUI: set COMFYUI_PATH to its folder, and install its requirements")
    sys.path.insert(0, COMFYUI)
    kept = tmp_path_factory.mktemp("comfyui")
    folders = [f"--{name}-directory={kept}" for name in ("output", "temp", "user")]
    arguments, sys.argv = sys.argv, ["comfyui", "--cpu", *folders]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import utils.install_util  # noqa: F401 - before ComfyUI's `nodes` puts another module of that name in front
    finally:
        sys.argv = arguments
    return Path(COMFYUI)


@pytest.fixture(scope="session")
def pack_link(tmp_path_factory):
    """The pack in a folder of custom nodes, under another name than its own."""
    link = tmp_path_factory.mktemp("custom_nodes") / "some-video.editing"
    link.symlink_to(ROOT, target_is_directory=True)
    return link


@pytest.fixture(scope="session")
def loaded(comfyui, pack_link):
    """The pack as ComfyUI's own loader made it: its package's name in `sys.modules`."""
    from tests.comfyui.in_process import load_nodes

    return load_nodes(comfyui, pack_link)


@pytest.fixture(scope="session")
def headless(tmp_path_factory):
    """The headless runner's clips of the templates."""
    from tests.comfyui.headless_runs import HeadlessRuns

    return HeadlessRuns(tmp_path_factory.mktemp("headless"))


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """A ComfyUI of its own that answers over HTTP until the tests end."""
    from tests.comfyui.http_server import Server

    with Server(comfyui, tmp_path_factory.mktemp("base")) as started:
        yield started


CANVASES = {"classic": False, "nodes_2": True}
"""Whether Nodes 2.0 is switched on."""


@pytest.fixture(scope="session")
def page_server(comfyui, tmp_path_factory):
    """A ComfyUI of its own for the tests of what stands on nodes in the page."""
    from tests.comfyui.browser import CHROMIUM
    from tests.comfyui.http_server import Server

    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("these tests drive the page: install playwright, and name a Chromium in CHROMIUM")
    with Server(comfyui, tmp_path_factory.mktemp("base")) as started:
        started.post("/api/settings", {"Comfy.TutorialCompleted": True})
        yield started


@pytest.fixture(scope="module", params=CANVASES)
def page(request, page_server, pictures):
    """The page on the classic canvas, and on Nodes 2.0."""
    from tests.comfyui.browser import opened

    page_server.post("/api/settings", {"Comfy.VueNodes.Enabled": CANVASES[request.param]})
    with opened(page_server.url, pictures) as shown:
        shown.canvas = request.param
        yield shown


@pytest.fixture
def graph(page):
    """The colour edit in the page, its widgets in charge."""
    from tests.comfyui.page_graph import INVERT, P2P
    from tests.comfyui.workflows import TEMPLATES

    page.load(json.loads(TEMPLATES[0].read_text()))
    for name, value in {"kind": "custom", "blend_words": "", "blend_latents": False}.items():
        page.set_widget(P2P, name, value)
    page.set_widget(INVERT, "steps", 4)
    page.show_node(P2P)
    return page


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Where screenshots go; FATEZERO_SCREENSHOTS names a folder to look at them."""
    folder = Path(os.environ.get("FATEZERO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
