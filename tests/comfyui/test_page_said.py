"""What nodes say in ComfyUI's real page: mistakes and remarks above their widgets, choices below; and subgraphs."""

import json

from tests.comfyui.page_graph import P2P, VIDEO_EDIT, boxed_edit, whole_edit
from tests.comfyui.test_page_helpers import OWN_VALUE, chip

ROOM = """app.graph.nodes.every(node => (node.widgets ?? []).every(
    widget => (widget.y ?? 0) + (widget.computedHeight ?? 0) <= node.size[1] + 1
))"""
"""Whether every widget stands inside its node."""
SHORT = "\u26a0 The clip lasts 0.38 seconds: take more frames, or a longer clip."
COLOURS = {"mistake": "rgb(248, 113, 113)", "remark": "rgb(250, 204, 21)"}
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


def run(page):
    page.queue()
    messages = page.wait_for_end()
    assert messages[-1][0] == "execution_success", messages[-1]
    return messages


def colour(page, kind):
    shown = page.page.locator(f".fatezero-{kind}:visible").first
    return shown.evaluate("element => getComputedStyle(element).color")


def stands_above_the_prompts(page, kind):
    """Whether a line of a kind is above the text fields of its node."""
    line = page.page.locator(f".fatezero-{kind}:visible").last.bounding_box()
    middle = line["x"] + line["width"] / 2
    fields = [field.bounding_box() for field in page.page.locator("textarea:visible").all()]
    own = [field for field in fields if field["x"] < middle < field["x"] + field["width"]]
    return bool(own) and all(line["y"] + line["height"] <= field["y"] + 1 for field in own)


def wrong_then_right(page, name):
    """Run with an empty prompt, and with another: what is wrong is on the node, and gone when the prompt is edited."""
    page.page.evaluate(SET_PROMPT, " ")
    page.queue()
    page.page.locator(".fatezero-mistake:visible").first.wait_for()
    assert page.said("mistake") == ["edit_prompt is empty; words are needed. Describe what is wanted in plain words."]
    assert colour(page, "mistake") == COLOURS["mistake"] and stands_above_the_prompts(page, "mistake")
    page.picture(f"mistake_{name}_{page.canvas}")
    page.page.keyboard.press("Escape")
    prompt = f"a {'green' if page.canvas == 'classic' else 'white'} circle on the grass"
    page.page.evaluate(SET_PROMPT, prompt)
    page.page.locator(".fatezero-mistake:visible").first.wait_for(state="hidden")
    run(page)
    page.page.locator("canvas.fatezero-film[data-frame]").wait_for()
    if page.canvas == "classic":
        page.page.wait_for_function(ROOM)
    assert page.said("mistake") == [] and page.said("remark") == [SHORT]
    assert colour(page, "remark") == COLOURS["remark"] and stands_above_the_prompts(page, "remark")
    lines = page.said("said")
    assert lines[0] == "3 of 8 frames: each, 8 fps." and all(line.endswith(".") for line in lines)


def test_the_one_node_says_what_is_wrong_and_plays_source_and_edit_in_the_room_there_is(page):
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    before = page.page.evaluate(BOUNDS, VIDEO_EDIT)["height"]
    wrong_then_right(page, "video_edit")
    page.drawn()
    page.picture(f"film_video_edit_{page.canvas}")
    shown = page.page.evaluate("type => app.nodeOutputs[app.graph.nodes.find(n => n.type == type).id]", VIDEO_EDIT)
    assert [film["labels"] for film in shown["fatezero_film"]] == [["source", "edit"]]
    assert shown["fatezero_film"][0]["frames"] == 3
    found = page.page.evaluate(BOUNDS, VIDEO_EDIT)
    assert found["linked"] and max(found["linked"]) <= 24  # a prompt from another node takes one line
    assert found["height"] < before + 60  # a node that is tall enough grows over no neighbour
    assert not [name for name in found["names"] if name.startswith("$$")]  # neither text nor pictures of the page's own


UNKNOWN = "\u26a0 This built-in model does not know 'zebra', and can neither find nor draw it."


def test_an_unknown_word_is_remarked_above_the_prompt_once_and_again_after_a_reload(page, page_server):
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    prompt = f"a zebra on the {'grass' if page.canvas == 'classic' else 'sand'}"
    page.page.evaluate(SET_PROMPT, prompt)
    logged = len(page_server.lines)
    run(page)
    page.page.locator(".fatezero-remark:visible").first.wait_for()
    page.drawn()
    page.picture(f"remark_unknown_word_{page.canvas}")
    said, further, choices = page.said("remark"), page.said("further"), page.said("said")
    assert said[0] == UNKNOWN and SHORT in said
    assert [line.split(" ")[0] for line in further] == ["Colours", "Shapes", "Grounds", "Styles", "Sizes"]
    assert not [line for line in choices if "zebra" in line and "know" in line]
    assert stands_above_the_prompts(page, "remark")
    console = [line for line in page_server.lines[logged:] if "does not know" in line or "lasts 0.38" in line]
    assert len(console) == 2  # the nodes inside know both too
    saved = json.loads(page.page.evaluate("JSON.stringify(app.graph.serialize())"))
    assert "does not know" not in json.dumps(saved)
    page.page.reload()
    page.ready()
    page.load(saved)
    page.show_node(VIDEO_EDIT)
    page.page.locator(".fatezero-remark:visible").first.wait_for()
    assert [page.said(kind) for kind in ("remark", "further", "said")] == [said, further, choices]
    saved["nodes"][-2]["widgets_values"][1] = "a blue circle on the grass"
    page.load(saved)
    page.show_node(VIDEO_EDIT)
    page.page.wait_for_timeout(1000)
    assert page.said("remark") == page.said("said") == []  # they were about another prompt


def shown_number(page, node_type, name):
    """What the page shows in a number's field."""
    if page.canvas == "classic":
        found = "app.graph.nodes.find(node => node.type == type).widgets.find(widget => widget.name == name)"
        return page.page.evaluate(f"([type, name]) => {found}._displayValue", [node_type, name])
    field = f'[aria-label="{name}"]'
    page.page.locator(field).first.wait_for(state="attached")
    return page.page.evaluate(
        """field => {
            const labelled = document.querySelector(field);
            const input = labelled.matches('input') ? labelled : labelled.querySelector('input');
            const over = getComputedStyle(input.parentElement, '::after').content;
            const isOver = over.startsWith('"') && getComputedStyle(input).color == 'rgba(0, 0, 0, 0)';
            return isOver ? over.slice(1, -1) : input.value;
        }""",
        field,
    )


def test_a_zero_that_means_automatic_is_shown_as_a_word_and_stays_zero(graph):
    prepare = "FateZero_PrepareFrames"
    graph.set_widget(prepare, "count", 0)
    graph.show_node(prepare)
    graph.page.wait_for_timeout(500)
    graph.picture(f"zero_{graph.canvas}")
    assert shown_number(graph, prepare, "count") == "all"
    (inputs,) = [node["inputs"] for node in graph.prompt().values() if node["class_type"] == prepare]
    assert inputs["count"] == 0
    graph.set_widget(prepare, "count", 3)
    graph.page.wait_for_timeout(500)
    assert float(shown_number(graph, prepare, "count")) != 0  # a number again; Nodes 2.0 of 0.8.0 shows it later
    assert float(shown_number(graph, prepare, "start")) == 0  # the first frame, no choice of the program


def test_text_fields_of_the_classic_canvas_have_titles(graph):
    if graph.canvas != "classic":
        return  # Nodes 2.0 writes them itself
    assert {"edit_prompt", "negative_prompt"} <= set(written(graph))
    graph.load(boxed_edit())
    graph.show_all()
    assert {"source_prompt", "edit_prompt"} <= set(written(graph))


def written(page):
    """The texts that the canvas writes."""
    return page.page.evaluate(
        """async () => {
            const seen = new Set(), pen = CanvasRenderingContext2D.prototype, had = pen.fillText;
            pen.fillText = function (text, ...given) { seen.add(text); return had.call(this, text, ...given); };
            app.canvas.setDirty(true, true);
            for (let i = 0; i < 5; i++) await new Promise(requestAnimationFrame);
            pen.fillText = had;
            return [...seen];
        }"""
    )


def test_a_subgraph_shows_what_is_wrong_in_it_and_the_film_inside_too_and_saves_none_of_it(page):
    page.load(boxed_edit())
    page.drawn()
    page.show_all()
    wrong_then_right(page, "subgraph")
    page.picture(f"film_subgraph_{page.canvas}")
    (box,) = [node for node in page.page.evaluate("app.graph.serialize().nodes") if "-" in node["type"]]
    assert "fatezero" not in json.dumps(box) and len(box["widgets_values"]) == 4
    page.page.evaluate(OPEN)
    page.show_all()
    page.page.wait_for_function(FILM_INSIDE, arg=VIDEO_EDIT)
    page.picture(f"inside_the_blueprint_{page.canvas}")
    assert page.said("remark") == [SHORT] and page.said("said")


OPEN = """() => {
    const box = app.graph.nodes.find(node => node.subgraph);
    app.canvas.openSubgraph(box.subgraph, box);
}"""
FILM_INSIDE = """type => {
    const node = app.canvas.graph.nodes.find(node => node.type == type);
    const film = node?.widgets.find(widget => widget.name == 'fatezero_film')?.element.querySelector('canvas');
    return film?.offsetParent && film.dataset.frame !== undefined;
}"""
"""Whether a node of the graph that is looked at plays a film."""


def test_in_a_subgraph_words_can_be_clicked_and_the_film_plays(graph):
    """The inversion, with the source prompt, stands outside."""
    graph.page.evaluate(
        """type => {
            const edit = app.graph.nodes.find(node => node.type == type);
            const { node } = app.graph.convertToSubgraph(new Set([edit]));
            app.canvas.openSubgraph(node.subgraph, node);
        }""",
        P2P,
    )
    graph.show_all()
    word = "circle" if graph.canvas == "classic" else "red"
    chip(graph, "edit", "blue").wait_for()
    chip(graph, "source", word).click()
    assert graph.page.evaluate(OWN_VALUE, [P2P, "blend_words"]) == word
    assert [node["inputs"]["blend_words"] for node in graph.prompt().values() if node["class_type"] == P2P] == [word]
    run(graph)
    graph.page.wait_for_function(FILM_INSIDE, arg=P2P)
    graph.drawn()
    graph.picture(f"inside_a_subgraph_{graph.canvas}")


def test_the_page_reported_no_error_of_its_own(page):
    assert [error for error in page.errors if "fatezero" in error.lower()] == []
