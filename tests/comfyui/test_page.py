"""ComfyUI's real page in a headless Chromium: templates open and run there as they do without it."""

import json
from importlib.util import find_spec

import pytest
import torch

from fatezero_ext.media.video import read_video
from tests.comfyui.browser import CHROMIUM, NODE_INFO, opened
from tests.comfyui.headless_runs import ENCODERS_APART
from tests.comfyui.http_server import PACK, ROOT, Server
from tests.comfyui.workflows import EDIT, INVERT, TEMPLATES, api_graph, with_frames

SAVE = "11"
LONG = 60
"""Steps of a run that is long enough to be looked at."""
BY_NAME = {"argvalues": TEMPLATES, "ids": lambda path: path.stem}


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    """A ComfyUI that has run nothing before."""
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip(
            "these tests drive the page: install the Python package playwright, and name a Chromium in CHROMIUM"
        )
    with Server(comfyui, tmp_path_factory.mktemp("base"), "--preview-method", "latent2rgb") as started:
        started.post("/api/settings", {"Comfy.TutorialCompleted": True})
        yield started


@pytest.fixture(scope="module")
def page(server, pictures):
    with opened(server.url, pictures) as shown:
        yield shown


def run_on_page(page, template, **widgets):
    page.load(json.loads(template.read_text()))
    for name, value in widgets.items():
        page.set_widget("FateZero_DDIMInvert", name, value)
    page.queue()
    return page.wait_for_end()


def test_the_templates_are_listed_with_their_pictures_and_open(page):
    page.open_templates(PACK)
    for path in TEMPLATES:
        page.card(path.stem)
    page.picture("templates")
    page.template(TEMPLATES[0].stem).click()
    page.page.wait_for_function("app.graph.nodes.some(node => node.type == 'FateZero_P2PEdit')")
    page.template(TEMPLATES[0].stem).wait_for(state="detached")
    page.show_all()
    page.picture("graph")


NEWER = {"bit_depth", "format.codec", "format.codec.encoding"}
"""Widgets of core nodes that the runner knows and older versions of ComfyUI lack; the runner fills in the default."""


@pytest.mark.parametrize("template", **BY_NAME)
def test_a_template_opens_without_missing_nodes_and_as_the_headless_runner_reads_it(page, template):
    page.load(json.loads(template.read_text()))
    assert page.missing() == []
    found, wanted = page.prompt(), api_graph(template)
    assert {name: node["class_type"] for name, node in found.items()} == {n: w["class_type"] for n, w in wanted.items()}
    for name, node in wanted.items():
        inputs = found[name]["inputs"]
        assert set(node["inputs"]) - set(inputs) <= NEWER
        assert {key: value for key, value in node["inputs"].items() if key in inputs} == {
            key: value for key, value in inputs.items() if key in node["inputs"]
        }


@pytest.mark.parametrize("template", **BY_NAME)
def test_a_template_run_from_the_page_gives_the_headless_runners_frames(page, server, headless, template, tmp_path):
    messages = run_on_page(page, template)
    assert messages[-1][0] == "execution_success", messages[-1]
    kept = server.run(with_frames(api_graph(template)))
    assert not {INVERT, EDIT} & set(kept.executed)  # the page's own frames are looked at
    source, frames = server.frames(kept)
    assert torch.equal(frames, headless.frames(template, source))
    (shown,) = [data["output"]["images"] for name, data in messages if name == "executed" and data["node"] == SAVE]
    (tmp_path / "clip.mp4").write_bytes(server.file(shown[0]))
    saved, wanted = read_video(tmp_path / "clip.mp4"), read_video(headless.clip(template, source))
    assert saved.fps == wanted.fps
    assert (saved.frames - wanted.frames).abs().mean() < ENCODERS_APART
    page.drawn()
    page.picture(f"finished_{template.stem}")


def test_previews_arrive_while_inversion_and_edit_run(page):
    page.load(json.loads(TEMPLATES[0].read_text()))
    page.set_widget("FateZero_DDIMInvert", "steps", LONG)
    page.show_all()
    page.queue()
    page.wait_for_preview()
    page.picture("running_preview_inversion")
    messages = page.wait_for_end()
    previews, nodes = 0, []
    for name, data in messages:
        previews += name == "b_preview"
        if name == "progress":
            nodes.append(data["node"])
    assert previews >= LONG  # steps may come faster than previews are sent
    assert set(nodes) == {INVERT, EDIT}


MISTAKES = {
    "missing_checkpoint": ("FateZero_LoadPseudo3DUNet", "model", "gone.safetensors", "'gone.safetensors' is not there"),
    "wrong_equalizer": ("FateZero_P2PEdit", "equalizer", "circle", "equalizer has 'circle'"),
    "wrong_word": ("FateZero_P2PEdit", "word_windows", "cat: 0.5", "'cat' is not in the prompt"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_shown_once_on_the_page_at_its_node_and_input(page, name):
    node_type, widget, value, said = MISTAKES[name]
    page.load(json.loads(TEMPLATES[0].read_text()))
    page.set_widget(node_type, widget, value)
    page.page.evaluate("() => { seen.length = 0; app.queuePrompt(0, 1) }")
    page.page.wait_for_function("Object.keys(app.lastNodeErrors ?? {}).length > 0")
    page.show_all()
    page.picture(f"mistake_{name}")
    ((node, found),) = page.page.evaluate("app.lastNodeErrors").items()
    assert api_graph(TEMPLATES[0])[node]["class_type"] == node_type
    (error,) = found["errors"]
    assert error["extra_info"]["input_name"] == widget and said in error["details"]
    assert page.page.evaluate("seen") == []  # nothing ran
    page.page.keyboard.press("Escape")
    page.picture(f"mistake_{name}_on_the_graph")


@pytest.mark.skipif(not (ROOT / "web" / "docs").is_dir(), reason="there are no node pages")
def test_a_nodes_page_opens_in_the_info_tab(page):
    page.load(json.loads(TEMPLATES[0].read_text()))
    page.show_node("FateZero_P2PEdit")
    page.page.locator(NODE_INFO).click()
    first = next(
        line.strip("# ") for line in (ROOT / "web" / "docs" / "FateZero_P2PEdit.md").read_text().splitlines()
        if line.strip() and not line.startswith(("#", "!", "|", "<"))
    )  # fmt: skip
    page.page.get_by_text(first[:30]).first.wait_for()
    shown = "image => image.src.includes('/docs/pictures/') && image.complete && image.naturalWidth > 1"
    page.page.wait_for_function(f"[...document.images].some({shown})")
    page.drawn()
    page.picture("node_page")


def test_the_page_reported_no_error_of_its_own(page):
    assert [error for error in page.errors if "FateZero" in error or PACK in error] == []
