"""Lists between nodes: the rules are those of ComfyUI's own executor."""

import pytest

from fatezero_ext.cli.node_pack import load_pack


@pytest.fixture
def types(headless, types, calls):
    """The test nodes, and some that make and take lists."""
    io = headless.api.io

    class Range(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            count = io.Int.Input("count", default=3, min=0, max=9)
            outputs = [io.Int.Output(is_output_list=True), io.Int.Output()]
            return io.Schema(node_id="Range", inputs=[count], outputs=outputs)

        @classmethod
        def execute(cls, count):
            calls.append(("Range", count))
            return io.NodeOutput(list(range(count)), count)

    class Gather(io.ComfyNode):
        seen = []

        @classmethod
        def define_schema(cls):
            a = io.Int.Input("a", force_input=True)
            b = io.Int.Input("b", force_input=True, optional=True)
            word = io.String.Input("word", default="x")
            return io.Schema(node_id="Gather", inputs=[a, b, word], outputs=[io.String.Output()], is_input_list=True)

        @classmethod
        def validate_inputs(cls, word):
            cls.seen.append(word)
            return True

        @classmethod
        def execute(cls, a, word, b=None):
            calls.append(("Gather", a))
            return io.NodeOutput(f"{a} {b} {word}")

    class Save(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            a = io.Int.Input("a", force_input=True)
            return io.Schema(node_id="Save", inputs=[a], outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, a):
            return io.NodeOutput(ui={"saved": (f"file {a}",)})

    return {**types, **headless.registry.node_types([Range, Gather, Save])}


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def show(source):
    return node("Show", source=source)


@pytest.fixture
def shown(headless, types):
    """Run one document; returns the texts of each output node in order."""

    def run_document(document):
        graph = headless.validate.validated(headless.workflow.graph_from(document, types), types)
        reporter = headless.report.Reporter(headless.command.Console(quiet=True))
        (results,) = headless.execute.run_graphs([graph], types, reporter)
        return [result.shown.get("text") for result in results.values() if "text" in result.shown]

    return run_document


def test_a_node_runs_once_per_item_and_gives_lists(shown, calls):
    document = {"1": node("Range", count=3), "2": node("Sum", a=["1", 0], b=["1", 1]), "3": show(["2", 0])}
    assert shown(document) == [("3", "4", "5")]
    assert [call for call in calls if call[0] == "Sum"] == [("Sum", 3), ("Sum", 4), ("Sum", 5)]


def test_the_longest_list_decides_and_shorter_ones_repeat_their_last_item(shown):
    document = {
        "1": node("Range", count=4),
        "2": node("Range", count=2),
        "3": node("Sum", a=["1", 0], b=["2", 0]),
        "4": show(["3", 0]),
    }
    assert shown(document) == [("0", "2", "3", "4")]


def test_a_list_that_ran_through_nodes_stays_a_list(shown):
    document = {
        "1": node("Range", count=2),
        "2": node("Sum", a=["1", 0], b=["1", 0]),
        "3": node("Sum", a=["2", 0], b=["1", 1]),
        "4": show(["3", 0]),
    }
    assert shown(document) == [("2", "4")]


def test_lists_made_by_repeated_calls_are_joined(shown):
    document = {"1": node("Range", count=4), "2": node("Range", count=["1", 0]), "3": show(["2", 0])}
    assert shown(document) == [("0", "0", "1", "0", "1", "2")]


def test_a_node_that_takes_lists_runs_once_with_every_input_as_one(shown, calls):
    document = {
        "1": node("Range", count=3),
        "2": node("Gather", a=["1", 0], b=["1", 1], word="hello"),
        "3": show(["2", 0]),
    }
    assert shown(document) == [("[0, 1, 2] [3] ['hello']",)]
    assert calls.count(("Gather", [0, 1, 2])) == 1


def test_an_optional_input_that_is_not_linked_is_not_a_list(shown):
    document = {
        "1": node("Number", value=5, mode="plain"),
        "2": node("Gather", a=["1", 0], word="x"),
        "3": show(["2", 0]),
    }
    assert shown(document) == [("[5] None ['x']",)]


def test_own_checks_of_a_node_that_takes_lists_see_lists(shown, types):
    document = {"1": node("Range", count=1), "2": node("Gather", a=["1", 0], word="hello"), "3": show(["2", 0])}
    shown(document)
    assert types["Gather"].node_class.seen[-1] == ["hello"]


def test_an_empty_list_is_an_error_that_names_the_input(shown, headless):
    document = {"1": node("Range", count=0), "2": node("Sum", a=["1", 0]), "3": show(["2", 0])}
    with pytest.raises(headless.problems.NodeFailed, match=r"#2 Sum input 'a': the list .* is empty"):
        shown(document)


def test_saved_paths_of_repeated_calls_are_all_reported(headless, types):
    document = {"1": node("Range", count=3), "2": node("Save", a=["1", 0])}
    graph = headless.validate.validated(headless.workflow.graph_from(document, types), types)
    reporter = headless.report.Reporter(headless.command.Console(quiet=True))
    (results,) = headless.execute.run_graphs([graph], types, reporter)
    assert results["2"].shown["saved"] == ("file 0", "file 1", "file 2")


def test_variants_reuse_lists(headless, types, calls):
    first = {"1": node("Range", count=2), "2": node("Sum", a=["1", 0], b=["1", 1]), "3": show(["2", 0])}
    second = {**first, "2": node("Sum", a=["1", 0])}
    graphs = [
        headless.validate.validated(headless.workflow.graph_from(document, types), types)
        for document in (first, second, first)
    ]
    reporter = headless.report.Reporter(headless.command.Console(quiet=True))
    texts = [results["3"].shown["text"] for results in headless.execute.run_graphs(graphs, types, reporter)]
    assert texts == [("2", "3"), ("0", "1"), ("2", "3")]
    assert calls.count(("Range", 2)) == 1 and len([call for call in calls if call[0] == "Sum"]) == 4


def test_the_rules_agree_with_a_plain_reading_of_them(headless, types):
    """Slices as ComfyUI's map_node_over_list takes them, for all small lengths."""
    lists = load_pack("nodes.headless.run.lists")
    for a in range(1, 4):
        for b in range(1, 4):
            inputs = {"a": list(range(a)), "b": list(range(10, 10 + b))}
            wanted = [
                {name: items[i] if i < len(items) else items[-1] for name, items in inputs.items()}
                for i in range(max(a, b))
            ]
            assert lists.calls_for(types["Sum"], inputs, "") == wanted
