"""What web/*.js puts on the nodes of ComfyUI's real page, on the classic canvas and on Nodes 2.0."""

import base64
import io
import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.browser import CHROMIUM, opened
from tests.comfyui.http_server import Server
from tests.comfyui.page_graph import ADD_NODES, boxed_edit, whole_edit
from tests.comfyui.workflows import EDIT, TEMPLATES

CANVASES = {"classic": False, "nodes_2": True}
"""Whether Nodes 2.0 is switched on."""
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
STEPS = {"classic": 4, "nodes_2": 5}
"""Not the same: what an older ComfyUI still has in its cache it does not show again on another page."""
VIDEO_EDIT = "FateZero_VideoEdit"
HEAT, COMPARE = "FateZero_WordHeatMaps", "FateZero_CompareClips"
P2P, INVERT_TYPE = "FateZero_P2PEdit", "FateZero_DDIMInvert"
HOSTILE = '<img src=x onerror="window.hacked=1"> cat'


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("these tests drive the page: install playwright, and name a Chromium in CHROMIUM")
    with Server(comfyui, tmp_path_factory.mktemp("base")) as started:
        started.post("/api/settings", {"Comfy.TutorialCompleted": True})
        yield started


@pytest.fixture(scope="module", params=CANVASES)
def page(request, server, pictures):
    server.post("/api/settings", {"Comfy.VueNodes.Enabled": CANVASES[request.param]})
    with opened(server.url, pictures) as shown:
        shown.canvas = request.param
        yield shown


@pytest.fixture
def graph(page):
    """The colour edit, its widgets in charge."""
    page.load(json.loads(TEMPLATES[0].read_text()))
    for name, value in {"kind": "custom", "blend_words": "", "blend_latents": False}.items():
        page.set_widget(P2P, name, value)
    page.set_widget(INVERT_TYPE, "steps", 4)
    page.show_node(P2P)
    return page


def widget(page, name, node=EDIT):
    """The value of a widget as the page would queue it."""
    return page.prompt()[node]["inputs"][name]


def row(page, which):
    """The buttons for words of the source or edit prompt."""
    return page.page.locator(".fatezero-row").filter(has_text=f"{which} words in")


def chip(page, which, word):
    return row(page, which).locator(".fatezero-chip").get_by_text(word, exact=True)


def test_a_click_puts_a_word_into_the_list_and_another_takes_it_out(graph):
    chip(graph, "source", "red").click()
    chip(graph, "source", "circle").click()
    assert widget(graph, "blend_words") == "red, circle"
    graph.page.locator(".fatezero-chip[aria-pressed=true]").get_by_text("circle", exact=True).first.wait_for()
    graph.page.evaluate("async () => { await app.extensionManager.command.execute('Comfy.Undo') }")
    chip(graph, "source", "circle").and_(graph.page.locator("[aria-pressed=false]")).wait_for()
    assert widget(graph, "blend_words") == "red"
    chip(graph, "source", "circle").click()
    chip(graph, "source", "red").click()
    assert widget(graph, "blend_words") == "circle"
    chip(graph, "edit", "blue").click()
    assert widget(graph, "equalizer") == "blue: 10"
    row(graph, "edit").get_by_text("word_windows").click()
    chip(graph, "edit", "grass").click()
    assert widget(graph, "word_windows") == "grass: 0-0.5"
    graph.drawn()
    graph.picture(f"chips_{graph.canvas}")


def test_words_follow_what_is_typed_and_one_that_is_gone_is_struck_out_and_refused(graph):
    chip(graph, "edit", "blue").click()
    boxes = graph.page.locator("textarea:visible")
    (typed,) = [box for box in boxes.all() if box.input_value() == "a blue circle on the grass"]
    typed.fill("a purple circle on the grass")
    chip(graph, "edit", "purple").wait_for()
    stale = row(graph, "edit").locator(".fatezero-stale")
    stale.wait_for()
    assert stale.text_content() == "blue"
    graph.picture(f"stale_{graph.canvas}")
    graph.queue()
    graph.page.wait_for_function("Object.keys(app.lastNodeErrors ?? {}).length > 0")
    ((node, found),) = graph.page.evaluate("app.lastNodeErrors").items()
    (error,) = found["errors"]
    assert node == EDIT and error["extra_info"]["input_name"] == "equalizer"
    assert "'blue' is not in the prompt 'a purple circle" in error["details"]
    assert graph.page.evaluate("seen") == []  # nothing ran
    graph.page.keyboard.press("Escape")
    (said,) = graph.page.locator(".fatezero-mistake:visible").all_inner_texts()
    assert said.startswith("equalizer: 'blue' is not in the prompt 'a purple circle")
    stale.click()
    assert widget(graph, "equalizer") == ""


def test_words_of_the_mask_are_offered_only_where_the_kind_leaves_them_to_the_user(graph):
    chip(graph, "source", "red").wait_for()
    graph.set_widget(P2P, "kind", "colour")
    row(graph, "source").wait_for(state="hidden")
    assert not row(graph, "edit").get_by_text("blend_edit_words").count() and chip(graph, "edit", "blue").is_visible()
    graph.set_widget(P2P, "kind", "custom")
    chip(graph, "source", "red").wait_for()


def test_a_prompt_with_html_is_text(graph):
    graph.set_widget(INVERT_TYPE, "source_prompt", HOSTILE)
    graph.set_widget(P2P, "equalizer", "<b>x</b>: 2")
    chip(graph, "source", "<img").wait_for()
    assert row(graph, "edit").locator(".fatezero-stale").text_content() == "<b>x</b>"
    graph.drawn()
    inside = "[...document.querySelectorAll('.fatezero-widget img, .fatezero-widget b')].length"
    assert graph.page.evaluate(f"[{inside}, window.hacked ?? 0]") == [0, 0]


def test_a_workflow_is_saved_as_without_the_buttons_and_opens_again(graph):
    chip(graph, "source", "circle").click()
    before, saved = graph.prompt(), json.loads(graph.page.evaluate("JSON.stringify(app.graph.serialize())"))
    (node,) = [each for each in saved["nodes"] if each["type"] == P2P]
    own = graph.page.evaluate(
        f"app.graph.nodes.find(node => node.type == '{P2P}').widgets.filter(w => w.serialize !== false).length"
    )
    assert len(node["widgets_values"]) == own and None not in node["widgets_values"]
    graph.load(saved)
    assert graph.prompt() == before


def drawn_film(page, node_type):
    """What a node's film shows: (its canvas, the picture on it)."""
    index = page.page.evaluate(
        """type => {
            const box = app.graph.nodes.find(n => n.type == type).widgets.find(w => w.name == 'fatezero_film').element;
            return [...document.querySelectorAll('canvas.fatezero-film')].indexOf(box.querySelector('canvas'));
        }""",
        node_type,
    )
    canvas = page.page.locator("canvas.fatezero-film").nth(index)
    data = canvas.evaluate("canvas => canvas.toDataURL('image/png')").split(",")[1]
    return canvas, np.asarray(Image.open(io.BytesIO(base64.b64decode(data)), formats=["PNG"]).convert("RGB"))


def film_of(page, server, messages, node_type):
    """The film that the server sent: [frames, columns, height, width, 3], and its labels."""
    node = page.page.evaluate(f"String(app.graph.nodes.find(node => node.type == '{node_type}').id)")
    (shown,) = [
        data["output"]["fatezero_film"] for name, data in messages if name == "executed" and data["node"] == node
    ]
    (film,) = shown
    sheet = Image.open(io.BytesIO(server.file(film)), formats=["JPEG"]).convert("RGB")
    rows, columns = film["frames"], len(film["labels"])
    pixels = np.asarray(sheet).reshape(rows, sheet.height // rows, columns, sheet.width // columns, 3)
    return pixels.swapaxes(1, 2), film["labels"]


def drag(page, canvas, start, end):
    """Drag over a film between two shares of its width."""
    place = canvas.bounding_box()
    y = place["y"] + place["height"] / 2
    page.page.mouse.move(place["x"] + start * place["width"], y)
    page.page.mouse.down()
    page.page.mouse.move(place["x"] + (start + end) / 2 * place["width"], y)
    page.page.mouse.move(place["x"] + end * place["width"], y)
    page.page.mouse.up()


LABELS = {
    P2P: ["source", "mask"],
    HEAT: ["source", "circle", "grass"],
    COMPARE: ["source", "edit 1", "edit 2"],
}
NEAR = 12
"""Levels of 255 that the page's scaling may differ by on average; pictures of other frames or clips differ more."""


def test_after_a_run_films_play_and_the_border_moves_between_frames_of_the_same_time(graph, server):
    graph.page.evaluate(ADD_NODES)
    graph.set_widget(P2P, "blend_words", "circle")
    graph.set_widget(HEAT, "words", "circle, grass")
    graph.set_widget(INVERT_TYPE, "steps", STEPS[graph.canvas])
    graph.queue()
    messages = graph.wait_for_end()
    assert messages[-1][0] == "execution_success", messages[-1]
    for node_type, labels in LABELS.items():
        film, told = film_of(graph, server, messages, node_type)
        assert told == labels
        graph.page.evaluate("() => { app.canvas.ds.scale = 0.7 }")
        graph.show_node(node_type)
        graph.page.wait_for_function("document.querySelectorAll('canvas.fatezero-film[data-frame]').length == 3")
        canvas, _ = drawn_film(graph, node_type)
        beside = canvas.locator("xpath=../following-sibling::*")
        beside.get_by_text("❚❚").click()
        if len(labels) > 2:
            beside.get_by_text(labels[2], exact=True).click()
        moved = f"app.graph.nodes.find(node => node.type == '{node_type}').pos.join()"
        stood = graph.page.evaluate(moved)
        drag(graph, canvas, 0.5, 0.25)
        graph.picture(f"film_{node_type}_{graph.canvas}")
        canvas, shown = drawn_film(graph, node_type)
        assert graph.page.evaluate(moved) == stood
        frame, column = int(canvas.get_attribute("data-frame")), min(2, len(labels) - 1)
        height, width = shown.shape[:2]
        border = int((shown[height // 2].min(axis=-1) > 250).argmax())
        assert abs(border / width - 0.25) < 0.02
        wanted = [np.asarray(Image.fromarray(film[frame, side]).resize((width, height))) for side in (0, column)]
        seen = slice(0, height - 60)  # without the labels
        left, right = slice(0, border - 4), slice(border + 4, width)
        for half, picture in zip((left, right), wanted, strict=True):
            assert abs(shown[seen, half].astype(float) - picture[seen, half]).mean() < NEAR


def said_on(page, kind):
    """The lines on the nodes that are seen: "mistake" or "said"."""
    return page.page.locator(f".fatezero-{kind}:visible").all_inner_texts()


ROOM = """app.graph.nodes.every(node => (node.widgets ?? []).every(
    widget => (widget.y ?? 0) + (widget.computedHeight ?? 0) <= node.size[1] + 1
))"""
"""Whether every widget stands inside its node."""


def wrong_then_right(page, set_prompt):
    """Run with an empty prompt, and with another: what is wrong is on the node, and gone with the next Run."""
    page.page.evaluate(set_prompt, " ")
    page.queue()
    page.page.locator(".fatezero-mistake:visible").first.wait_for()
    assert said_on(page, "mistake") == [
        "edit_prompt is empty; words are needed. Describe what is wanted in plain words."
    ]
    page.picture(f"mistake_{page.canvas}")
    page.page.keyboard.press("Escape")
    page.page.evaluate(set_prompt, f"a {'green' if page.canvas == 'classic' else 'white'} circle on the grass")
    page.queue()
    messages = page.wait_for_end()
    assert messages[-1][0] == "execution_success", messages[-1]
    page.page.locator("canvas.fatezero-film[data-frame]").wait_for()
    if page.canvas == "classic":
        page.page.wait_for_function(ROOM)
    assert said_on(page, "mistake") == []
    lines = said_on(page, "said")
    assert lines[0] == "The clip lasts 0.38 seconds: take more frames, or a longer clip."
    assert lines[1] == "3 of 8 frames: each, 8 fps." and all(line.endswith(".") for line in lines)
    return messages


BOUNDS = """type => {
    const node = app.graph.nodes.find(node => node.type == type);
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const height = name => node.widgets.find(widget => widget.name == name).computedHeight;
    const row = [...document.querySelectorAll('.lg-node-widget[data-fatezero-linked]')].map(row => row.offsetHeight);
    return {height: shown ? shown.height / app.canvas.ds.scale : node.size[1],
            linked: shown ? row : [height('source_prompt')], names: node.widgets.map(widget => widget.name)};
}"""
SET_PROMPT = """text => {
    const node = app.graph.nodes.find(node => node.widgets?.some(widget => widget.name.endsWith('edit_prompt')));
    const widget = node.widgets.find(widget => widget.name.endsWith('edit_prompt'));
    widget.value = text;
    widget.callback?.(text);
}"""


def test_the_one_node_says_what_is_wrong_and_plays_source_and_edit_in_the_room_there_is(page, server):
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    before = page.page.evaluate(BOUNDS, VIDEO_EDIT)["height"]
    wrong_then_right(page, SET_PROMPT)
    page.drawn()
    page.picture(f"film_video_edit_{page.canvas}")
    shown = page.page.evaluate("type => app.nodeOutputs[app.graph.nodes.find(n => n.type == type).id]", VIDEO_EDIT)
    assert [film["labels"] for film in shown["fatezero_film"]] == [["source", "edit"]]
    assert shown["fatezero_film"][0]["frames"] == 3
    found = page.page.evaluate(BOUNDS, VIDEO_EDIT)
    assert found["linked"] and max(found["linked"]) <= 24  # a prompt from another node takes one line
    assert found["height"] < before + 60  # a node that is tall enough grows over no neighbour
    assert not [name for name in found["names"] if name.startswith("$$")]  # neither text nor pictures of the page's own


def test_a_subgraph_shows_what_is_wrong_in_it_and_the_film_and_saves_none_of_it(page):
    page.load(boxed_edit())
    page.drawn()
    page.show_all()
    wrong_then_right(page, SET_PROMPT)
    page.picture(f"film_subgraph_{page.canvas}")
    (box,) = [node for node in page.page.evaluate("app.graph.serialize().nodes") if "-" in node["type"]]
    assert "fatezero" not in json.dumps(box) and len(box["widgets_values"]) == 4


def test_a_page_without_the_means_shows_plain_nodes_and_one_warning(page):
    page.load(EMPTY)
    warnings = []
    page.page.on("console", lambda message: warnings.append(message.text) if "FateZero" in message.text else None)
    made = page.page.evaluate(
        """() => {
            const proto = LiteGraph.LGraphNode.prototype, had = proto.addDOMWidget;
            const own = LiteGraph.registered_node_types['FateZero_P2PEdit'].prototype;
            let calls = 0;
            own.addDOMWidget = function (name, ...given) {
                if (name.startsWith('fatezero')) { calls++; throw new Error('no such thing'); }
                return had.call(this, name, ...given);
            };
            const nodes = [0, 1].map(() => app.graph.add(LiteGraph.createNode('FateZero_P2PEdit')));
            delete own.addDOMWidget;
            return [calls, app.graph.nodes.map(node => node.widgets.length > 20)];
        }"""
    )
    page.drawn()
    assert made == [2, [True, True]]
    assert len(warnings) == 1 and "left out" in warnings[0]


def test_the_page_reported_no_error_of_its_own(page):
    assert [error for error in page.errors if "fatezero" in error.lower()] == []
