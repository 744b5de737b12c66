"""Nodes that put others in their place: what runs, what is kept for later variants, and what is said of mistakes."""

import pytest
from rich.console import Console


@pytest.fixture
def expanding(headless, types, calls):
    """The test nodes and one that doubles a sum: two nodes in its place, the first fed by what feeds it."""
    io, builder = headless.api.io, headless.api.GraphBuilder

    class Doubled(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            first, plus = io.Int.Input("a", force_input=True), io.Int.Input("plus", default=0, min=0, max=9)
            return io.Schema(
                node_id="Doubled", inputs=[first, plus], outputs=[io.Int.Output(), io.Int.Output()],
                hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            )  # fmt: skip

        @classmethod
        def execute(cls, a, plus):
            calls.append(("Doubled", a))
            link = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]["a"]
            graph = builder()
            twice = graph.node("Sum", id="twice", a=link, b=link)
            more = graph.node("Number", id="more", value=plus, mode="plain")
            total = graph.node("Sum", id="total", a=twice.out(0), b=more.out(0))
            return io.NodeOutput(total.out(0), "a value", expand=graph.finalize())

    return {**types, **headless.registry.node_types([Doubled])}


def document(value=1, plus=0):
    return {
        "1": {"class_type": "Number", "inputs": {"value": value, "mode": "plain"}},
        "7": {"class_type": "Doubled", "inputs": {"a": ["1", 0], "plus": plus}},
        "8": {"class_type": "Show", "inputs": {"source": ["7", 0]}},
        "9": {"class_type": "Show", "inputs": {"source": ["7", 1]}},
    }


def results(headless, types, *documents):
    graphs = [headless.validate.validated(headless.workflow.graph_from(each, types), types) for each in documents]
    with headless.report.Reporter(Console(quiet=True)) as reporter:
        return [
            [found[node].shown["text"][0] for node in ("8", "9")]
            for found in headless.execute.run_graphs(graphs, types, reporter)
        ]


def test_nodes_in_a_nodes_place_give_its_outputs(headless, expanding):
    assert results(headless, expanding, document(3, 4)) == [["10", "a value"]]


def test_later_variants_run_only_what_changed_inside(headless, expanding, calls):
    found = results(headless, expanding, document(3, 4), document(3, 5), document(3, 5), document(2, 5))
    assert [numbers for numbers, _ in found] == ["10", "11", "11", "9"]
    assert calls.count(("Sum", 6)) == 1 and calls.count(("Doubled", 3)) == 2
    assert calls.count(("Number", 5)) == 1 and calls.count(("Sum", 4)) == 1


def test_what_is_inside_is_dropped_once_other_nodes_take_its_place(headless, expanding, calls):
    found = results(headless, expanding, document(3, 4), document(2, 4), document(3, 6))
    assert [numbers for numbers, _ in found] == ["10", "8", "12"]
    assert calls.count(("Sum", 6)) == 2


def test_a_list_gives_each_of_its_items_nodes_of_its_own(headless, expanding):
    io = headless.api.io

    class Three(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Three", inputs=[], outputs=[io.Int.Output(is_output_list=True)])

        @classmethod
        def execute(cls):
            return io.NodeOutput([1, 2, 3])

    graph = document()
    graph["2"] = {"class_type": "Three", "inputs": {}}
    graph["7"]["inputs"]["plus"] = ["2", 0]
    types = {**expanding, **headless.registry.node_types([Three])}
    (graph_,) = [headless.validate.validated(headless.workflow.graph_from(graph, types), types)]
    with headless.report.Reporter(Console(quiet=True)) as reporter:
        (found,) = headless.execute.run_graphs([graph_], types, reporter)
    assert found["7"].lists[0] == (3, 4, 5)


def test_a_node_of_the_workflow_with_the_id_of_one_inside_is_refused(headless, expanding):
    graph = document(3, 4)
    graph["7.0.more"] = {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}
    graph["8"]["inputs"]["source"] = ["7.0.more", 0]
    with pytest.raises(headless.problems.NodeFailed, match=r"'7\.0\.more' in its place, and the workflow has a node"):
        results(headless, expanding, graph)


def test_a_mistake_inside_is_told_of_the_node_on_the_page(headless, expanding, calls):
    io, builder = headless.api.io, headless.api.GraphBuilder

    class Wrong(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="Wrong", display_name="A wrong one", inputs=[io.Combo.Input("inner", options=["Fail", "None"])],
                outputs=[io.Int.Output()],
            )  # fmt: skip

        @classmethod
        def execute(cls, inner):
            graph = builder()
            return io.NodeOutput(graph.node(inner, id="inside", a=1).out(0), expand=graph.finalize())

    types = {**expanding, **headless.registry.node_types([Wrong])}
    for inner, told in (("Fail", "A wrong one > Fail: ZeroDivisionError"), ("None", "needs the node None")):
        wrong = {
            "1": {"class_type": "Wrong", "inputs": {"inner": inner}},
            "8": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
            "9": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
        }
        with pytest.raises(headless.problems.NodeFailed, match=told):
            results(headless, types, wrong)
