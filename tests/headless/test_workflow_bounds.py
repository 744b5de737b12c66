"""What a workflow file may have of anything is bounded before time or memory grow with its square."""

import json
from dataclasses import replace

import pytest

from fatezero_ext.cli.node_pack import load_pack

from .ui_documents import box, node, show, subgraph, workflow

NUMBER = node(1, "Number", (4,))


def test_more_nodes_than_are_run_are_refused_before_they_are_read(refused):
    assert "more than 20000 nodes" in refused({"nodes": [None] * 20_001, "links": []})


def test_keys_of_a_node_without_end_are_not_all_compared(headless, types, monkeypatch):
    registry, compared = load_pack("nodes.headless.schemas.registry"), []
    monkeypatch.setattr(registry, "close_names", lambda name, known, cutoff: compared.append(len(known)) or [])
    strange = node(1, "Number", (4,)) | {f"strange_{i}": 1 for i in range(1000)}
    headless.workflow.graph_from(workflow([strange, show(2, 7)], [(7, 1, 0, 2, 0)]), types)
    assert compared and max(compared) <= 100


@pytest.mark.parametrize("where", ["keys", "named values", "inputs"])
def test_names_of_a_file_are_compared_only_so_often(headless, types, monkeypatch, where):
    registry, compared = load_pack("nodes.headless.schemas.registry"), []
    monkeypatch.setattr(registry, "close_names", lambda name, known, cutoff: compared.append(len(known)) or [])
    monkeypatch.setattr(registry, "MOST_PAIRS", 500)
    strange = [{f"strange_{i}_{j}": 1 for j in range(10)} for i in range(300)]
    sums = [node(500 + i, "Sum", (), [("a", 500 + i - 1), ("b", 1000 + i)]) for i in range(1, 300)]
    numbers = [
        node(i, "Number", strange[i] if where == "named values" else (4,)) | (strange[i] if where == "keys" else {})
        for i in range(300)
    ]
    links = [(500, 0, 0, 501, 0), *((500 + i, 500 + i, 0, 501 + i, 0) for i in range(1, 299))]
    links += [*((1000 + i, i, 0, 500 + i, 1) for i in range(1, 300)), (7, 799, 0, 3000, 0)]
    graph = headless.workflow.graph_from(workflow([*numbers, *sums, show(3000, 7)], links), types)
    if where == "inputs":
        nodes = {key: each.with_inputs(strange[int(key) % 300]) for key, each in graph.nodes.items()}
        headless.validate.validated(replace(graph, nodes=nodes), types)
    assert compared and sum(compared) <= 1000


def test_two_inputs_of_one_name_in_boxes_inside_each_other_take_no_time_without_end(headless, types):
    """Each level asks for the same input twice: 2 to the power of the levels, where each is looked at anew."""
    inner = subgraph([node(7, "Sum", (), [("b", 1)])], [(1, -10, 0, 7, 0)], ["a"], "level-0")
    levels = [inner]
    for i in range(1, 60):
        around = box(5, (), [("a", 1), ("a", 2)], type=f"level-{i - 1}")
        levels.append(subgraph([around], [(1, -10, 0, 5, 0), (2, -10, 0, 5, 1)], ["a"], f"level-{i}"))
    document = workflow([box(9, (), [("a", None)], type="level-59"), NUMBER, show(2, 7)], [(7, 1, 0, 2, 0)], levels)
    assert "2" in headless.workflow.graph_from(document, types).nodes


def test_inputs_of_definitions_and_promoted_widgets_are_counted(refused, monkeypatch):
    monkeypatch.setattr(load_pack("nodes.headless.formats.subgraphs"), "MOST_INPUTS", 2000)
    wide = subgraph([], [], [f"i{i}" for i in range(100)])
    boxes = [box(i) for i in range(10, 40)]
    assert "more than 2000 inputs" in refused(workflow([NUMBER, show(2, 7), *boxes], [(7, 1, 0, 2, 0)], [wide]))
    listed = [box(i, proxies=[("1", "value")] * 100) for i in range(10, 40)]
    document = workflow([NUMBER, show(2, 7), *listed], [(7, 1, 0, 2, 0)], [subgraph([NUMBER], [])])
    assert "more than 2000 inputs" in refused(document)


@pytest.mark.parametrize("name", ["1:" * 1_000_000, "x" * 256])
def test_a_promoted_name_without_end_is_refused(refused, name):
    boxed = box(5, proxies=[("1", name)])
    assert "its proxyWidgets are" in refused(workflow([boxed, show(2, 7)], [(7, 5, 0, 2, 0)], [subgraph([NUMBER], [])]))


def test_proxy_widgets_nested_as_deep_as_json_may_be_are_refused(refused):
    boxed = box(5)
    depth = next(depth for depth in range(990, 0, -10) if _is_json("[" * depth + "]" * depth))
    boxed["properties"]["proxyWidgets"] = "[" * depth + "]" * depth
    assert "its proxyWidgets are" in refused(workflow([boxed, show(2, 7)], [(7, 5, 0, 2, 0)], [subgraph([NUMBER], [])]))


def _is_json(text):
    try:
        json.loads(text)
    except RecursionError:
        return False
    return True


def test_a_row_of_boxes_that_hand_their_input_on_is_remembered_in_part(headless, types):
    """All boxes for each input would be memory that grows with the square."""
    handed = subgraph([], [(1, -10, 0, -20, 0)], ["a"])
    boxes = [box(i, (), [("a", i - 1)]) for i in range(11, 511)]
    links = [(10, 1, 0, 11, 0), *((i, i, 0, i + 1, 0) for i in range(11, 510)), (510, 510, 0, 2, 0)]
    graph = headless.workflow.graph_from(workflow([NUMBER, *boxes, show(2, 510)], links, [handed]), types)
    assert graph.nodes["2"].links["source"].node == "1"
    assert sum(len(found) for each in graph.boxes.values() for found in each.widgets.values()) < 110


def test_a_problem_repeats_no_prompt_to_its_end(headless):
    assert len(str(headless.problems.Problem("the word " + "x" * 100_000))) < 2100
