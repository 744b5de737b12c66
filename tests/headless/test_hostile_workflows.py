"""Workflow files that nobody should trust: each is refused in one sentence, or checked in no time to speak of."""

import copy
import json
import re

import pytest

from fatezero_ext.atomic_files import whole_file
from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack

from .ui_documents import box, node, show, subgraph, workflow

EXAMPLE = load_pack("nodes.headless.command").EXAMPLES / "1_colour_edit_with_mask.json"


@pytest.fixture
def example():
    return json.loads(EXAMPLE.read_text())


@pytest.fixture
def api(headless, example):
    """The example in the API format."""
    return headless.workflow.graph_from(example, headless.registry.pack_node_types()).api_format()


@pytest.fixture
def told(tmp_path, capsys):
    """What `run --check` says of a document, which it must refuse with exit code 2."""

    def check(document):
        path = tmp_path / "hostile.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        assert main(["run", str(path), "--check", "--output", str(tmp_path / "out")]) == 2
        text = capsys.readouterr().err
        assert text.startswith("Error in hostile.json: ") and "Traceback" not in text and len(text) < 5000
        return text

    return check


def raw(document, id):
    return next(node for node in document["nodes"] if node["id"] == id)


def test_a_node_id_twice_is_refused(told, example):
    example["nodes"].append(copy.deepcopy(raw(example, 8)))
    assert "#8: two nodes have this id; each needs its own" in told(example)


def test_a_node_id_twice_is_refused_whether_number_or_text(told, example):
    example["nodes"].append(raw(example, 8) | {"id": "8"})
    assert "#8: two nodes have this id" in told(example)


def test_a_node_id_twice_in_the_api_format_is_a_key_twice(told, api):
    text = json.dumps(api)
    assert "the key '8' is there twice in one object" in told(f'{text[:-1]}, "8": {json.dumps(api["8"])}}}')


def test_a_key_twice_is_refused(told, api):
    text = json.dumps(api).replace('"edit_prompt":', '"edit_prompt": "a", "edit_prompt":')
    assert "the key 'edit_prompt' is there twice in one object" in told(text)


@pytest.mark.parametrize("kind", [None, 5, ["SaveVideo"], {}])
def test_a_node_whose_type_is_no_text_is_refused(told, example, kind):
    raw(example, 11)["type"] = kind
    assert "#11: the file is malformed: the node's type is" in told(example)


@pytest.mark.parametrize("id", [None, 1.5, True, [1], {}, "8" * 65])
def test_a_node_whose_id_is_no_id_is_refused(told, example, id):
    raw(example, 11)["id"] = id
    assert "the id of a node of type 'SaveVideo' is" in told(example)


def test_an_input_whose_name_is_a_list_is_refused(told, example):
    raw(example, 8)["inputs"][0]["name"] = ["controller"]
    assert "#8: the file is malformed: an input is" in told(example)


def test_a_link_whose_origin_is_a_list_is_refused(told, example):
    example["links"][0][1] = [1]
    assert "malformed: a link is [1, [1], 0, 2, 0, 'VIDEO'], not [id, source" in told(example)


def test_two_links_of_one_id_are_refused(told, example):
    example["links"].append([example["links"][0][0], 9, 0, 9, 0, "VIDEO"])
    assert "two links have the id 1" in told(example)


def test_two_linked_inputs_of_one_name_are_refused(told, example):
    sockets = raw(example, 8)["inputs"]
    sockets.append(dict(sockets[1], name="controller"))
    assert "two inputs are called 'controller' and both are linked" in told(example)


@pytest.mark.parametrize(
    ("key", "wrong"), [("widgets_values", "widget_values"), ("inputs", "input"), ("inputs", "Inputs")]
)
def test_a_misspelt_key_of_a_node_is_refused(told, example, key, wrong):
    raw(example, 8)[wrong] = raw(example, 8).pop(key)
    assert f"the node has '{wrong}' where '{key}' belongs" in told(example)


def test_a_node_without_widget_values_is_refused(told, example):
    raw(example, 8).pop("widgets_values")
    assert "input 'edit_prompt': the node has no widgets_values, and a value is required" in told(example)


@pytest.mark.parametrize("name", ["contoller", "controler"])
def test_a_misspelt_input_comes_with_the_nearest_one(told, example, name):
    raw(example, 8)["inputs"][0]["name"] = name
    assert f"input '{name}': the node has no such input" in told(example)


def test_a_misspelt_widget_of_the_api_format_comes_with_the_nearest_one(told, api):
    api["8"]["inputs"]["edit_promt"] = api["8"]["inputs"].pop("edit_prompt")
    text = told(api)
    assert "input 'edit_promt': the node has no such input" in text and "Did you mean edit_prompt?" in text


def test_misspelt_optional_inputs_are_refused(refused):
    number = {"class_type": "Number", "inputs": {"value": 1, "mode": "plain", "exakt": False}}
    document = {"1": number, "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}}
    assert (
        "#1 A number input 'exakt': the node has no such input; it has value, mode, exact. Did you mean exact?"
        in refused(document)
    )


def test_a_named_widget_value_that_is_misspelt_is_refused(refused):
    document = workflow([node(1, "Number", {"value": 6, "modee": "double"}), show(2, 7)], [(7, 1, 0, 2, 0)])
    assert "#1 A number input 'modee': the node has no such input" in refused(document)


def test_a_link_into_an_input_that_the_node_does_not_have_is_refused(refused):
    sums = {"class_type": "Sum", "inputs": {"a": ["1", 0], "zzz": ["1", 0]}}
    number = {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}
    document = {"1": number, "2": sums, "3": {"class_type": "Show", "inputs": {"source": ["2", 0]}}}
    assert "#2 Sum input 'zzz': the node has no such input; it has a, b." in refused(document)


def test_a_value_of_another_version_is_left_out_and_told(headless, types):
    number = {"class_type": "Number", "inputs": {"value": 1, "mode": "plain", "zzz": 4, "upload": "image"}}
    graph = headless.workflow.graph_from(
        {"1": number, "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}}, types
    )
    assert headless.validate.validated(graph, types).remarks == ("#1 A number: the node has no input 'zzz'; left out.",)


def doubled(levels, times):
    """Subgraphs of which each holds the next `times` times."""
    inner = [
        subgraph([box(i, type=f"s{level + 1}") for i in range(times)], [], id=f"s{level}") for level in range(levels)
    ]
    return [*inner, subgraph([node(1, "Number", (1,))], [], id=f"s{levels}")]


@pytest.mark.parametrize(
    ("levels", "times", "words"),
    [(25, 2, "more than 20000 nodes"), (3000, 1, "more than 100 subgraphs inside each other")],
)
def test_subgraphs_are_counted_before_they_are_opened(told, example, levels, times, words):
    example["nodes"].append(box(99, type="s0"))
    example["definitions"] = {"subgraphs": doubled(levels, times)}
    assert words in told(example)


def test_a_hundred_subgraphs_inside_each_other_are_read(run):
    levels = [subgraph([box(1, type=f"s{level + 1}")], [(1, 1, 0, -20, 0)], id=f"s{level}") for level in range(99)]
    levels.append(subgraph([node(1, "Number", (4,))], [(1, 1, 0, -20, 0)], id="s99"))
    assert run(workflow([box(5, type="s0"), show(2, 7)], [(7, 5, 0, 2, 0)], levels))[0] == [["4"]]


def test_many_inputs_of_many_boxes_are_counted_too(refused):
    wide = subgraph([node(1, "Sum", (), [(f"i{i}", None) for i in range(1000)])], [])
    document = workflow([NUMBER, show(2, 7), *(box(i) for i in range(10, 260))], [(7, 1, 0, 2, 0)], [wide])
    assert "more than 200000 inputs" in refused(document)


NUMBER = node(1, "Number", (4,))


def test_two_subgraphs_of_one_id_are_refused(refused):
    empty = subgraph([], [])
    assert "have the same id" in refused(workflow([NUMBER, show(2, 7)], [(7, 1, 0, 2, 0)], [empty, empty]))


def test_a_subgraph_defined_inside_another_is_found(run):
    inner = subgraph([node(1, "Number", (4,))], [(1, 1, 0, -20, 0)], id="inner")
    outer = subgraph([box(1, type="inner")], [(1, 1, 0, -20, 0)]) | {"definitions": {"subgraphs": [inner]}}
    assert run(workflow([box(5), show(2, 7)], [(7, 5, 0, 2, 0)], [outer]))[0] == [["4"]]


def test_a_flat_id_that_two_nodes_share_is_refused(refused):
    inner = subgraph([node(1, "Number", (4,))], [(1, 1, 0, -20, 0)])
    document = workflow([box(5), show(2, 7), node("5:1", "Number", (4,))], [(7, 5, 0, 2, 0)], [inner])
    assert "#5:1 A number: another node has the same id" in refused(document)


def test_checking_a_chain_copies_the_graph_for_no_node(headless, types, monkeypatch):
    """A copy of all nodes for each node took 21 s for a chain of 5,000."""
    chain = {"0": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}}
    chain |= {str(i): {"class_type": "Sum", "inputs": {"a": [str(i - 1), 0]}} for i in range(1, 5000)}
    chain["show"] = {"class_type": "Show", "inputs": {"source": ["4999", 0]}}
    copies = []
    monkeypatch.setattr(headless.graph.Graph, "with_inputs", lambda *_: copies.append(1))
    checked = headless.validate.validated(headless.workflow.graph_from(chain, types), types)
    assert not copies and len(headless.execute.run_order(checked, types).ids) == 5001


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        (f'{{"1": {"[" * 300}{"]" * 300}}}', "nested too deeply"),
        (f'{{"1": {"9" * 5000}}}', "a number has 5000 digits"),
        ('{"nodes": [' + " " * 2**24 + "]}", "more than 16 MB"),
        (
            '{"1": {"class_type": "PreviewAny", "inputs": {"source": {"__value__": "' + "x" * 10_000 + '"}}}}',
            "(10000 letters)",
        ),
    ],
)
def test_size_nesting_and_digits_have_bounds(told, text, words):
    assert words in told(text)


def test_a_text_longer_than_any_prompt_is_refused(told, api):
    api["8"]["inputs"]["edit_prompt"] = "a " * 100_000
    assert "the text has 200000 letters; at most 100000 are read" in told(api)


def test_half_a_character_is_refused(told, api):
    api["8"]["inputs"]["edit_prompt"] = "a \ud800 circle"
    assert "holds half a character" in told(json.dumps(api))


def test_many_problems_are_not_all_listed(refused):
    document = {str(i): {"class_type": f"Strange{i}", "inputs": {}} for i in range(5000)}
    text = refused(document)
    assert text.startswith("more than 20 problems; the first are:") and len(text.splitlines()) == 21


def test_a_name_of_a_thousand_letters_is_shown_in_part(refused):
    text = refused({"1": {"class_type": "Show", "inputs": {"source": ["x" * 1000, 0]}, "_meta": {"title": "y" * 1000}}})
    assert len(text) < 500 and "x" * 100 in text and "y" * 100 in text


@pytest.mark.parametrize("value", [{"a": 1}, [1], None, {}])
def test_a_primitive_of_any_value_is_no_crash(refused, value):
    target = node(2, "Number", (1,), [("value", 1)])
    document = workflow(
        [node(1, "PrimitiveNode", (value, "fixed")), target, show(3, 2)], [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]
    )
    if value is not None:
        assert "is not a whole number" in refused(document)


def test_a_primitive_with_named_values_gives_the_first(run):
    target = node(2, "Number", (1,), [("value", 1)])
    nodes = [node(1, "PrimitiveNode", {"value": 6, "control": "fixed"}), target, show(3, 2)]
    assert run(workflow(nodes, [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]))[0] == [["6"]]


def test_ten_thousand_key_frames_are_refused(told, api):
    api["3"]["inputs"]["key_frames"] = ",".join("0" * 10_000)
    assert "key_frames lists 10000 key frames; at most 64 are read" in told(api)


def test_a_check_that_fails_is_the_nodes_refusal(headless, run):
    """As in ComfyUI: a node's own `validate_inputs` may raise anything."""
    io = headless.api.io

    class Careless(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Careless", inputs=[io.Int.Input("value")], outputs=[], is_output_node=True)

        @classmethod
        def validate_inputs(cls, value):
            raise KeyError(value)

        @classmethod
        def execute(cls, value):
            return io.NodeOutput()

    types = headless.registry.node_types([Careless])
    graph = headless.workflow.graph_from({"1": {"class_type": "Careless", "inputs": {"value": 3}}}, types)
    with pytest.raises(headless.problems.InvalidWorkflow, match="'value': its own check failed .KeyError: 3."):
        headless.validate.validated(graph, types)


PREFIXES = {
    "300 letters": "x" * 300,
    "300 bytes": "é" * 120,
    "a long folder": f"{'x' * 256}/clip",
    "a long path": "/".join(["folder"] * 700),
    "nearly too long": "x" * 230,
    "long once it is filled in": "x" * 190 + "%width%" * 4,
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_a_prefix_too_long_for_the_file_system_is_refused(told, api, prefix):
    api["11"]["inputs"]["filename_prefix"] = prefix
    text = told(api)
    assert "input 'filename_prefix': filename_prefix" in text and "Shorten it" in text


def test_the_longest_prefix_that_is_let_through_can_be_saved(headless, tmp_path):
    naming = load_pack("nodes.headless.core_nodes.naming")
    longest = next(n for n in range(255, 0, -1) if naming.prefix_verdict(tmp_path, "x" * n) is True)
    path = naming.next_free(tmp_path, "x" * longest, "webp", width=16384, height=16384, start=10**6)
    with whole_file(path) as partial:
        partial.write_bytes(b"saved")
    assert longest > 200 and path.read_bytes() == b"saved"


def test_a_prefix_from_a_primitive_is_checked_too(told, api):
    api["50"] = {"class_type": "PrimitiveString", "inputs": {"value": "x" * 300}}
    api["11"]["inputs"]["filename_prefix"] = ["50", 0]
    assert "Shorten it" in told(api)


def test_a_prefix_below_a_link_loop_is_refused(tmp_path):
    naming = load_pack("nodes.headless.core_nodes.naming")
    (tmp_path / "loop").symlink_to("loop")
    assert "names no file below the output folder" in naming.prefix_verdict(tmp_path, "loop/clip")


CONTROLS = ["\x1b]0;title\x07", "\x9b2J", "a\rb", "a\nb", "\x00", "\u202etxt", "\x7f"]


@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_are_no_part_of_a_file_name(told, api, control):
    api["11"]["inputs"]["filename_prefix"] = f"video/{control}"
    assert "holds the control character" in told(api)


STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("control", [*CONTROLS, "\ud800"])
@pytest.mark.parametrize("place", ["title", "type", "id", "input", "value", "key", "option"])
def test_control_characters_never_reach_the_terminal(headless, types, tmp_path, capsys, control, place):
    number = {"class_type": "Number", "inputs": {"value": 99, "mode": "plain"}, "_meta": {"title": "x"}}
    document = {"1": number, "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}}
    if place == "title":
        number["_meta"]["title"] = control
    elif place == "type":
        number["class_type"], number["_meta"] = control, {}
    elif place == "id":
        document = {control: number, "2": {"class_type": "Show", "inputs": {"source": [control, 0]}}}
    elif place == "input":
        number["inputs"][control] = ["3", 0]
        document["3"] = {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}
    elif place == "value":
        number["inputs"]["value"] = control
    elif place == "option":
        number["inputs"]["mode"] = control
    text = json.dumps(document)
    if place == "key":
        text = text.replace('"2":', f'{json.dumps(control)}: 1, {json.dumps(control)}: 2, "2":')
    path = tmp_path / "steering.json"
    path.write_text(text)
    assert headless.command.run_command(headless.command.Command(path, check=True), types) == 2
    told = capsys.readouterr().err
    assert not STEERING.search(told) and repr(control)[1:-1] in told.replace("\\\\", "\\")


@pytest.mark.parametrize("verbose", [False, True])
def test_control_characters_of_a_running_node_do_not_either(headless, types, tmp_path, capsys, verbose):
    document = {
        "1": {
            "class_type": "Noise",
            "inputs": {"seed": 1, "scale": 1, "text": "\x1b[2J"},
            "_meta": {"title": "\x1b[1m"},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}},
        "4": {"class_type": "Fail", "inputs": {"a": ["3", 0]}, "_meta": {"title": "\x1b[2J"}},
        "5": {"class_type": "Show", "inputs": {"source": ["4", 0]}},
    }
    path = tmp_path / "steering.json"
    path.write_text(json.dumps(document))
    assert headless.command.run_command(headless.command.Command(path, verbose=verbose), types) == 1
    told = capsys.readouterr().err
    assert "\x1b" not in told and "\\x1b[2J" in told
