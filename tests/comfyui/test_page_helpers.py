"""What web/*.js puts on the nodes of ComfyUI's real page, on the classic canvas and on Nodes 2.0."""

import base64
import io
import json

import numpy as np
from PIL import Image

from tests.comfyui.page_graph import ADD_NODES, P2P
from tests.comfyui.page_graph import INVERT as INVERT_TYPE
from tests.comfyui.workflows import EDIT

EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
STEPS = {"classic": 4, "nodes_2": 5}
"""Not the same: what an older ComfyUI still has in its cache it does not show again on another page."""
HEAT, COMPARE = "FateZero_WordHeatMaps", "FateZero_CompareClips"
HOSTILE = '<img src=x onerror="window.hacked=1"> cat'


def widget(page, name, node=EDIT):
    """The value of a widget as the page would queue it."""
    return page.prompt()[node]["inputs"][name]


OWN_VALUE = """([type, name]) =>
    app.canvas.graph.nodes.find(node => node.type == type).widgets.find(widget => widget.name == name).value"""
"""Of a widget in the graph that is looked at, which may be a subgraph."""


def row(page, which):
    """The buttons for words of the source or edit prompt."""
    return page.page.locator(".fatezero-row").filter(has_text=f"From the {which} prompt:")


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
    assert row(graph, "source").locator(".fatezero-tab").all_inner_texts()[0] == "Words to blend"
    row(graph, "edit").get_by_text("Words with times of their own").click()
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
    graph.set_widget(P2P, "strength", 0.5)
    graph.page.wait_for_timeout(1000)
    assert graph.said("mistake") == [said]  # the cause is still there
    stale.click()
    assert widget(graph, "equalizer") == ""
    graph.page.locator(".fatezero-mistake:visible").wait_for(state="hidden")


def test_words_left_over_in_any_list_can_be_clicked_away_whichever_list_is_chosen(graph):
    lists = {
        "blend_words": "red, jeep",
        "subtract_words": "boat, +fog",
        "equalizer": "old: 2",
        "word_windows": "x: 0.5",
    }
    for name, text in lists.items():
        graph.set_widget(P2P, name, text)
    stale = graph.page.locator(".fatezero-stale")
    graph.page.wait_for_function("document.querySelectorAll('.fatezero-stale').length == 4")
    graph.picture(f"left_over_{graph.canvas}")
    assert stale.all_inner_texts() == ["jeep", "boat", "old", "x"]
    for left in (3, 2, 1, 0):
        stale.first.click()
        graph.page.wait_for_function(f"document.querySelectorAll('.fatezero-stale').length == {left}")
    assert [widget(graph, name) for name in lists] == ["red", "+fog", "", ""]


def test_words_in_lists_can_be_clicked_away_where_the_prompt_is_not_known(graph):
    graph.set_widget(P2P, "blend_words", "jeep")
    graph.page.evaluate(
        """type => {
            const node = app.graph.nodes.find(node => node.type == type);
            node.disconnectInput(node.inputs.findIndex(input => input.name == 'controller'));
        }""",
        P2P,
    )
    row(graph, "source").get_by_text("Connect DDIM Inversion").wait_for()
    chip(graph, "source", "jeep").click()
    assert graph.page.evaluate(OWN_VALUE, [P2P, "blend_words"]) == ""


def test_words_are_offered_only_where_the_kind_leaves_them_to_the_user(graph):
    chip(graph, "source", "red").wait_for()
    graph.set_widget(P2P, "kind", "colour")
    for which in ("source", "edit"):
        row(graph, which).wait_for(state="hidden")
    graph.set_widget(P2P, "kind", "style")
    chip(graph, "edit", "blue").wait_for()
    assert row(graph, "edit").locator(".fatezero-tab").first.inner_text() == "Words to strengthen"
    assert not row(graph, "source").is_visible()
    graph.set_widget(P2P, "kind", "auto")
    row(graph, "edit").wait_for(state="hidden")
    graph.set_widget(P2P, "edit_prompt", "a sketch of a red circle on the grass")  # words are added
    chip(graph, "edit", "sketch").wait_for()
    graph.set_widget(P2P, "edit_prompt", "a blue circle on the grass")
    graph.set_widget(P2P, "equalizer", "blue: 2")  # acts with every kind
    chip(graph, "edit", "blue: 2").wait_for()
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
KEPT = 100
"""Pixels of the prompt's height that a film leaves it."""
FIELD = """type => {
    const node = app.graph.nodes.find(node => node.type == type);
    const widget = node.widgets.find(widget => widget.name == 'edit_prompt');
    const shown = document.querySelector(`[data-node-id="${node.id}"]`);
    const rows = [...(shown?.querySelectorAll('.lg-node-widget') ?? [])];
    return shown ? rows.find(row => row.querySelector('textarea')).offsetHeight : widget.computedHeight;
}"""
"""Height of the edit prompt on a node."""
NEAR = 12
"""Levels of 255 that the page's scaling may differ by on average; pictures of other frames or clips differ more."""


def test_after_a_run_films_play_and_the_border_moves_between_frames_of_the_same_time(graph, page_server):
    graph.page.evaluate(ADD_NODES)
    graph.set_widget(P2P, "blend_words", "circle")
    graph.set_widget(HEAT, "words", "circle, grass")
    graph.set_widget(INVERT_TYPE, "steps", STEPS[graph.canvas])
    graph.drawn()
    before = graph.page.evaluate(FIELD, P2P)
    graph.queue()
    messages = graph.wait_for_end()
    assert messages[-1][0] == "execution_success", messages[-1]
    graph.page.wait_for_function("document.querySelectorAll('canvas.fatezero-film').length == 3")
    graph.drawn()
    assert graph.page.evaluate(FIELD, P2P) >= min(before, KEPT) - 1
    for node_type, labels in LABELS.items():
        film, told = film_of(graph, page_server, messages, node_type)
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
    page.errors[:] = [error for error in page.errors if "left out" not in error]  # this one was wanted


def test_the_page_reported_no_error_of_its_own(page):
    assert [error for error in page.errors if "fatezero" in error.lower()] == []
