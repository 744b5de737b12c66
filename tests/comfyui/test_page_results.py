"""Lines and films in ComfyUI's real page stay on the nodes whose run they are of."""

import copy

from tests.comfyui.page_graph import P2P, VIDEO_EDIT, boxed_edit, whole_edit
from tests.comfyui.test_page_said import SET_PROMPT, run

OF_NODES = """type => app.canvas.graph.nodes.filter(node => type ? node.type == type : node.subgraph).map(node => {
    const of = name => node.widgets.find(widget => widget.name == name).element;
    const film = of('fatezero_film').querySelector('canvas');
    return {file: film?.dataset.file ?? null, seen: Boolean(film?.offsetParent),
            said: [...of('fatezero_text').querySelectorAll('.fatezero-said')].map(line => line.textContent)};
})"""
"""The file of the film, and the lines, of each node of a type; '': of each subgraph."""
TURN = "name => app.extensionManager.command.execute(`Workspace.${name}OpenedWorkflow`)"
CHANGE = """value => {
    const node = app.graph.nodes.find(node => node.type == 'FateZero_VideoEdit');
    const widget = node.widgets.find(widget => widget.name == 'strength');
    app.canvas.emitBeforeChange();
    widget.value = value;
    app.canvas.emitAfterChange();
}"""
UNDO = "async () => { await app.extensionManager.command.execute('Comfy.Undo') }"
STRENGTH = """value => app.graph.nodes.find(node => node.type == 'FateZero_VideoEdit')?.widgets
    .find(widget => widget.name == 'strength').value == value"""
COLOURS = {"classic": ("green", "purple"), "nodes_2": ("white", "orange")}
"""Not the same: what an older ComfyUI still has in its cache it does not show again on another page."""


def edited_to(colour):
    return f"a {colour} circle on the grass"


def of_node(page, node_type=VIDEO_EDIT):
    page.page.wait_for_timeout(1000)
    page.drawn()
    (found,) = page.page.evaluate(OF_NODES, node_type)
    return found


SHOWS = """([type, file]) => app.canvas.graph.nodes.find(node => node.type == type)?.widgets
    .find(widget => widget.name == 'fatezero_film')?.element.querySelector('canvas')?.dataset.file == file"""


def files_of(messages):
    """The files of the films that a run has shown."""
    outputs = [data.get("output") or {} for name, data in messages if name == "executed"]
    return [film["filename"] for output in outputs for film in output.get("fatezero_film", ())]


def run_one(page, known=None):
    """Run the graph with the one node; returns what stands on it when its last film has come, `known` if none comes."""
    files = files_of(run(page))
    page.page.wait_for_function(SHOWS, arg=[VIDEO_EDIT, files[-1] if files else known])
    return of_node(page)


def says(found, prompt):
    return bool(found["said"]) and found["said"][-1].endswith(f": {prompt}.")


def test_undo_the_cache_and_other_tabs_leave_each_run_on_its_own_node(page):
    first, second = (edited_to(colour) for colour in COLOURS[page.canvas])
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    page.page.evaluate(SET_PROMPT, first)
    made = run_one(page)
    assert says(made, first)
    page.page.evaluate(CHANGE, 0.4)
    page.page.evaluate(UNDO)
    page.page.wait_for_function(STRENGTH, arg=1)
    assert of_node(page) == made
    page.picture(f"film_after_undo_{page.canvas}")
    page.page.evaluate(SET_PROMPT, second)
    other = run_one(page)
    assert says(other, second) and other["file"] != made["file"]
    page.page.evaluate(SET_PROMPT, first)
    again = run_one(page, made["file"])  # which ComfyUI may have in its cache
    assert again["said"] == made["said"] and again["file"] != other["file"]
    # the same file in a second tab, run there and looked at in the first
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    page.page.evaluate(SET_PROMPT, second)
    assert of_node(page) == {"file": None, "seen": False, "said": []}
    page.page.evaluate(SET_STEPS, 12)  # there is time to turn to the other tab
    page.queue()
    page.page.wait_for_function("seen.some(([name]) => name == 'execution_start')")
    page.page.evaluate(TURN, "Previous")
    files = files_of(page.wait_for_end())
    page.page.wait_for_function(SHOWS, arg=[VIDEO_EDIT, again["file"]])
    assert of_node(page) == again
    page.page.evaluate(TURN, "Next")
    page.page.wait_for_function(SHOWS, arg=[VIDEO_EDIT, files[-1]])
    found = of_node(page)
    assert says(found, second) and found["seen"]
    page.picture(f"film_of_a_run_in_another_tab_{page.canvas}")


def test_an_edit_that_comes_from_the_cache_keeps_its_lines_and_its_film(graph):
    graph.set_widget(P2P, "strength", {"classic": 0.8, "nodes_2": 0.9}[graph.canvas])  # not the same: see COLOURS
    graph.show_node(P2P)
    run(graph)
    graph.page.wait_for_function(SHOWS_ANY, arg=P2P)
    made = of_node(graph, P2P)
    assert made["said"] and made["file"]
    run(graph)  # newer versions send the film again
    assert of_node(graph, P2P) == made


SHOWS_ANY = """type => app.canvas.graph.nodes.find(node => node.type == type)?.widgets
    .find(widget => widget.name == 'fatezero_film')?.element.querySelector('canvas')?.dataset.file"""


SET_STEPS = """value => {
    const node = app.graph.nodes.find(node => node.type == 'FateZero_VideoEdit');
    node.widgets.find(widget => widget.name == 'steps').value = value;
}"""


def two_boxes(frames):
    """A graph with two boxes of one subgraph, the second with the id 50; frames: how many are edited."""
    document = copy.deepcopy(boxed_edit())
    (edit,) = [node for node in document["definitions"]["subgraphs"][0]["nodes"] if node["type"] == VIDEO_EDIT]
    edit["widgets_values"][4] = frames
    box = next(node for node in document["nodes"] if "-" in node["type"])
    clip, preview = (node for node in document["nodes"] if node is not box)
    twins = copy.deepcopy([box, clip, preview])
    for number, node in enumerate(twins, 50):
        node["id"], node["pos"] = number, [node["pos"][0], node["pos"][1] + 1200]
        for socket in node["inputs"]:
            socket["link"] = None if socket["link"] is None else socket["link"] + 10
        for socket in node["outputs"]:
            socket["links"] = [link + 10 for link in socket.get("links") or []]
    of_twin = dict(zip((box["id"], clip["id"], preview["id"]), (50, 51, 52), strict=True))
    document["links"] += [
        [number + 10, of_twin[source], slot, of_twin[target], place, kind]
        for number, source, slot, target, place, kind in document["links"]
    ]
    document["nodes"] += twins
    return document | {"last_node_id": 60, "last_link_id": 20}


SET_CLIP = """name => {
    const widgets = app.graph.getNodeById(51).widgets;
    widgets.find(widget => widget.name == 'sample').value = name;
}"""
"""Of the second box."""


def test_two_boxes_of_one_subgraph_show_each_its_own_film_and_lines(page):
    count = {"classic": 3, "nodes_2": 4}[page.canvas]  # not the same: see COLOURS
    page.load(two_boxes(count))
    page.show_all()
    page.page.evaluate(SET_CLIP, "Big Buck Bunny")
    messages = run(page)
    films = {}
    for name, data in messages:
        if name == "executed" and (data["output"] or {}).get("fatezero_film"):
            films[str(data["display_node"]).split(":")[0]] = data["output"]["fatezero_film"][-1]["filename"]
    assert len(films) == 2
    page.show_all()
    for number, file in films.items():
        page.page.wait_for_function(SHOWS_BY_ID, arg=[number, file])
    found = page.page.evaluate(OF_NODES, "")
    assert {each["file"] for each in found} == {*films.values()}
    frames = {each["said"][0] for each in found}
    assert frames == {f"{count} of 8 frames: each, 8 fps.", f"{count} of 60 frames: every 3rd, 8.33 fps."}
    page.picture(f"two_boxes_{page.canvas}")


SHOWS_BY_ID = """([id, file]) => app.graph.getNodeById(id).widgets
    .find(widget => widget.name == 'fatezero_film').element.querySelector('canvas')?.dataset.file == file"""


def test_nodes_inside_a_subgraph_shape_no_field_of_others_of_their_number(page):
    document = boxed_edit()
    (inside,) = document["definitions"]["subgraphs"]
    (edit,) = [node for node in inside["nodes"] if node["type"] == VIDEO_EDIT]
    for link in inside["links"]:
        link |= {end: 42 for end in ("origin_id", "target_id") if link[end] == edit["id"]}
    edit["id"] = 42
    (alone,) = [copy.deepcopy(node) for node in whole_edit()["nodes"] if node["type"] == VIDEO_EDIT]
    for socket in alone["inputs"]:
        socket["link"] = None
    for socket in alone["outputs"]:
        socket["links"] = []
    document["nodes"].append(alone | {"id": 42, "pos": [0, 900]})
    page.load(document | {"last_node_id": 42})
    page.show_node(VIDEO_EDIT)
    page.page.wait_for_timeout(1500)
    page.picture(f"same_number_{page.canvas}")
    assert page.page.locator("[data-fatezero-linked]").count() == 0


WATCH_OLD = """() => {
    const inner = app.graph.nodes.find(node => node.subgraph).subgraph.nodes.find(n => n.type == 'FateZero_VideoEdit');
    const widgets = inner.widgets;
    window.looked = 0;
    Object.defineProperty(inner, 'widgets', {configurable: true, get() { window.looked++; return widgets; }});
}"""


def test_nodes_of_a_workflow_that_is_gone_are_not_followed(page):
    page.load(boxed_edit())
    page.show_all()
    page.page.evaluate(WATCH_OLD)
    page.page.wait_for_function("looked > 20")  # while it is there
    page.load(whole_edit())
    page.show_node(VIDEO_EDIT)
    page.page.evaluate("() => { window.looked = 0 }")
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate("looked") < 5  # the page itself may look


def test_the_page_reported_no_error_of_its_own(page):
    assert [error for error in page.errors if "fatezero" in error.lower()] == []
