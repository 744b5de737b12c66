"""Widgets that a subgraph's box shows count as on the page, in both notations the page has used."""

import json
from pathlib import Path

import pytest

from fatezero_ext.cli.node_pack import load_pack

from .ui_documents import BOX, box, node, show, subgraph, workflow

CASES = Path(__file__).parents[1] / "cases"
NOISE_WIDGETS = ("seed", "scale", "text")


def promoted(slots=NOISE_WIDGETS, stored=(1, 0.5, "inner")):
    """A subgraph around one Noise node; these widgets of it are linked to the subgraph's inputs."""
    inner = node(7, "Noise", stored, [(name, slot + 1, "widget") for slot, name in enumerate(slots)], ("STRING",))
    links = [(slot + 1, -10, slot, 7, slot) for slot in range(len(slots))]
    return subgraph([inner], [*links, (90, 7, 0, -20, 0)], slots)


def one_box(values, definition=None, **more):
    definition = promoted() if definition is None else definition
    return workflow([box(2, values, **more), show(3, 1)], [(1, 2, 0, 3, 0)], [definition])


LISTED = [("-1", name) for name in NOISE_WIDGETS]
BY_NODE = [("7", name) for name in NOISE_WIDGETS]


@pytest.mark.parametrize("proxies", [None, LISTED, BY_NODE], ids=["by input", "listed", "listed by node"])
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((5, 2.0, "box"), "5 2.0 box"),
        ((5, "randomize", 2.0, "box"), "5 2.0 box"),
        ((5, None, "box"), "5 0.5 box"),
        ((5,), "5 0.5 inner"),
        ((), "1 0.5 inner"),
        (None, "1 0.5 inner"),
        ({"text": "box"}, "1 0.5 box"),
    ],
)
def test_a_box_gives_its_values_and_the_inside_what_it_lacks(run, proxies, values, text):
    inputs = [(name, None, "widget") for name in NOISE_WIDGETS]
    assert run(one_box(values, inputs=inputs, proxies=proxies))[0] == [[text]]


def test_the_page_may_leave_out_the_inputs_that_nothing_is_linked_to(run):
    assert run(one_box((5, 2.0, "box"), inputs=()))[0] == [["5 2.0 box"]]


def test_two_boxes_of_one_subgraph_have_their_own_values(run):
    nodes = [box(2, (5, 2.0, "green")), box(4, (6, 2.0, "purple")), show(3, 1), show(5, 2)]
    document = workflow(nodes, [(1, 2, 0, 3, 0), (2, 4, 0, 5, 0)], [promoted()])
    assert run(document)[0] == [["5 2.0 green", "6 2.0 purple"]]


def test_a_link_into_a_box_wins_over_its_value_and_is_found_by_its_name(run):
    """The page leaves out the inputs before it, so that it is not where the subgraph has it."""
    source = node(1, "Number", (4,))
    document = workflow(
        [source, box(2, (5, 2.0, "box"), [("text", 8, "widget")]), show(3, 1)],
        [(8, 1, 0, 2, 0), (1, 2, 0, 3, 0)],
        [promoted()],
    )
    document["nodes"][0] = node(1, "Noise", (9, 1.0, "outside"), outputs=("STRING",))
    assert run(document)[0] == [["5 2.0 9 1.0 outside"]]


@pytest.mark.parametrize("proxies", [[("7", "text")], [("7", "text"), ("7", "$$canvas-image-preview")]])
def test_a_widget_is_shown_without_an_input(run, proxies):
    assert run(one_box(("box",), promoted(()), proxies=proxies))[0] == [["1 0.5 box"]]


def test_a_promoted_control_after_generate_is_no_value(run):
    proxies = [("7", "seed"), ("7", "control_after_generate"), ("7", "text")]
    assert run(one_box((5, "randomize", "box"), promoted(()), proxies=proxies))[0] == [["5 0.5 box"]]


@pytest.mark.parametrize(
    ("names", "given", "wanted"),
    [
        (("resolution", "quirks", "seed"), ("auto", "fixed", 5, "randomize"), ["auto", "fixed", 5]),
        (("steps", "quirks", "seed"), (4, "fixed", 5, "randomize"), [4, "fixed", 5]),
        (("guidance", "quirks"), (7.5, "fixed", "left over"), [7.5, "fixed"]),
        (("noise_seed", "quirks"), (5, "fixed", "fixed"), [5, "fixed"]),
        (("Seed", "value"), (5, "fixed", 3, "increment"), [5, 3]),
        (("value", "text"), (3, "fixed", "hi"), [3, "hi"]),
    ],
)
def test_fixed_is_a_value_where_no_seed_is_before_it(names, given, wanted):
    inside = subgraph([], [], list(names))
    scopes, promoted_widgets = (
        load_pack("nodes.headless.formats.ui_links"),
        load_pack("nodes.headless.formats.promoted"),
    )
    wiring = scopes.Wiring(workflow([box(2, given, [(name, None, "widget") for name in names])], [], [inside]))
    found = promoted_widgets.box_widgets(wiring.root.level.nodes["2"], *wiring_level(wiring))
    assert [widget.value for widget in found] == wanted


def wiring_level(wiring):
    """The subgraph of a file, and all its subgraphs."""
    return wiring._definitions[BOX], wiring._definitions


def test_a_promoted_primitive_feeds_all_its_targets(run):
    inner = [
        node(6, "PrimitiveNode", (3, "fixed")),
        node(7, "Noise", (1, 0.5, "a"), [("seed", 1, "widget")], ("STRING",)),
    ]
    definition = subgraph(inner, [(1, 6, 0, 7, 0), (90, 7, 0, -20, 0)])
    assert run(one_box((8,), definition, proxies=[("6", "value")]))[0] == [["8 0.5 a"]]


OUTER = "outer-box"


def nested(inner_values, outer_values, *, linked, **outer):
    """A Noise node in a box in a box; linked: the seed of the inner box is an input of the outer one."""
    inputs = [("seed", 4, "widget")] if linked else []
    inner = box(5, inner_values, inputs)
    links = [(4, -10, 0, 5, 0)] if linked else []
    definition = subgraph([inner], [*links, (90, 5, 0, -20, 0)], ["seed"] if linked else [], OUTER, "Outer")
    nodes = [box(2, outer_values, type=OUTER, **outer), show(3, 1)]
    return workflow(nodes, [(1, 2, 0, 3, 0)], [promoted(), definition])


@pytest.mark.parametrize(
    ("inner", "outer", "seed"), [((5, 2.0, "x"), (9,), 9), ((5, 2.0, "x"), (), 5), ((None, 2.0, "x"), (), 1)]
)
def test_the_outermost_box_that_has_a_value_counts(run, inner, outer, seed):
    assert run(nested(inner, outer, linked=True))[0] == [[f"{seed} 2.0 x"]]


@pytest.mark.parametrize(
    "proxy", [("5", "seed"), ("5", "7: seed"), ("5:7", "seed"), ("5", "seed", "7")], ids=["plain", "old", "path", "new"]
)
@pytest.mark.parametrize("linked", [True, False])
def test_a_widget_of_a_box_inside_may_be_shown_outside(run, proxy, linked):
    assert run(nested((5, 2.0, "x"), (9,), linked=linked, proxies=[proxy]))[0] == [["9 2.0 x"]]


def test_proxy_widgets_may_be_json_in_a_text(run):
    document = one_box(("box",), promoted(()))
    document["nodes"][0]["properties"]["proxyWidgets"] = json.dumps([["7", "text"]])
    assert run(document)[0] == [["1 0.5 box"]]


@pytest.mark.parametrize("broken", [[["7"]], [[7.5, "text"]], [["7", 3]], {"7": "text"}, "[", 5])
def test_malformed_proxy_widgets_are_refused(refused, broken):
    document = one_box(("box",), promoted(()))
    document["nodes"][0]["properties"]["proxyWidgets"] = broken
    assert "#2: the file is malformed: its proxyWidgets are" in refused(document)


@pytest.fixture
def seeds(headless, types):
    """The seeds of all Noise nodes of a document after settings."""

    def read(document, *texts):
        graph = headless.workflow.graph_from(document, types)
        graph = headless.settings.apply_settings(
            graph, [headless.settings.parse_setting(text) for text in texts], types
        )
        return [
            node.inputs["seed"]
            for node in headless.validate.validated(graph, types).nodes.values()
            if "seed" in node.inputs
        ]

    return read


@pytest.mark.parametrize("name", ["2", "A box", "My title"])
def test_a_box_is_set_by_id_name_or_title(seeds, name):
    more = {"title": "My title"} if name == "My title" else {}
    assert seeds(one_box((5, 2.0, "x"), **more), f"{name}.seed=8") == [8]


def test_a_box_inside_and_a_node_inside_may_be_set_too(seeds):
    document = nested((5, 2.0, "x"), (9,), linked=True)
    assert [seeds(document, f"{name}.seed=8") for name in ("2", "2:5", "2:5:7", "Outer", "A box")] == [[8]] * 5


def test_a_widget_shown_without_an_input_is_set(seeds):
    assert seeds(nested((5, 2.0, "x"), (9,), linked=False, proxies=[("5", "seed")]), "2.seed=8") == [8]


def test_a_primitive_is_set_by_its_title(run, headless, types):
    primitive = node(1, "PrimitiveNode", (8, "fixed"), title="Steps")
    document = workflow(
        [primitive, node(2, "Number", (1,), [("value", 1)]), show(3, 2)], [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]
    )
    graph = headless.workflow.graph_from(document, types)
    setting = headless.settings.parse_setting("Steps.value=4")
    assert headless.settings.apply_settings(graph, [setting], types).nodes["2"].inputs["value"] == "4"


def test_a_setting_of_one_box_leaves_the_other(seeds):
    nodes = [box(2, (5, 2.0, "a")), box(4, (6, 2.0, "b")), show(3, 1), show(5, 2)]
    assert seeds(workflow(nodes, [(1, 2, 0, 3, 0), (2, 4, 0, 5, 0)], [promoted()]), "4.seed=7") == [5, 7]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "2.sead=1",
            "#2 A box input 'sead': there is no such widget; settable are: seed, scale, text. Did you mean seed?",
        ),
        ("A bxo.seed=1", "Did you mean A box?"),
        ("2.scale=9", "9.0 is out of range"),
    ],
)
def test_a_wrong_setting_of_a_box_says_so(headless, seeds, setting, words):
    with pytest.raises(headless.problems.InvalidWorkflow) as caught:
        seeds(one_box((5, 2.0, "x")), setting)
    assert words in str(caught.value)


def test_two_instances_of_an_edit_have_their_own_prompts(headless):
    """The file that users sent: Prompt-to-Prompt Edit in a subgraph, its prompt promoted in both notations at once."""
    types = headless.registry.pack_node_types()
    graph = headless.workflow.read_workflow(CASES / "two_instances.json", types)
    prompts = {name: node.inputs["edit_prompt"] for name, node in graph.nodes.items() if ":" in name}
    assert prompts == {"20:1": "a green circle on the grass", "23:1": "a purple circle on the grass"}
    assert BOX in json.loads((CASES / "two_instances.json").read_text())["definitions"]["subgraphs"][0]["id"]
