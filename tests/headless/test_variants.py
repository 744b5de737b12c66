import pytest


def chain(value=1, seed=0):
    """Two numbers, their sum, and two nodes that show the first number and the sum."""
    return {
        "1": {"class_type": "Number", "inputs": {"value": value, "mode": "plain"}},
        "2": {"class_type": "Number", "inputs": {"value": 5, "mode": "plain"}},
        "3": {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
        "4": {"class_type": "Show", "inputs": {"source": ["3", 0]}},
        "5": {"class_type": "Show", "inputs": {"source": ["2", 0]}},
    }


def test_second_variant_repeats_only_what_changed(run, calls):
    shown, reused = run(chain(1), chain(2))
    assert shown == [["6", "5"], ["7", "5"]]
    assert calls[-3:] == [("Number", 2), ("Sum", 7), ("Show", 7)] and calls.count(("Number", 5)) == 1
    assert reused == ["#2 A number", "#5 Show"]


def test_same_variant_again_runs_nothing(run, calls):
    run(chain(1), chain(1))
    assert len(calls) == 5


def test_result_is_kept_across_a_variant_in_between(run, calls):
    run(chain(1), chain(2), chain(1))
    assert calls.count(("Number", 1)) == 1


def test_equal_nodes_share_one_result(run, calls):
    document = chain()
    document["2"] = document["1"]
    run(document)
    assert calls.count(("Number", 1)) == 1


def test_value_written_as_text_is_the_same_variant(run, calls):
    run(chain(1), chain("1"))
    assert len(calls) == 5


def keys(headless, types, document):
    graph = headless.validate.validated(headless.workflow.graph_from(document, types), types)
    return headless.execute.run_order(graph, types).keys


@pytest.fixture
def state_nodes(headless, types):
    """The test nodes and two more, whose results depend on state outside the graph."""
    io = headless.api.io

    class Clock(io.ComfyNode):
        now = 0

        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Clock", inputs=[], outputs=[io.Int.Output()], not_idempotent=False)

        @classmethod
        def fingerprint_inputs(cls):
            if cls.now is None:
                raise RuntimeError("no clock")
            return cls.now

        @classmethod
        def execute(cls):
            return io.NodeOutput(cls.now)

    class Once(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Once", inputs=[], outputs=[io.Int.Output()], not_idempotent=True)

        @classmethod
        def execute(cls):
            return io.NodeOutput(0)

    return {**types, **headless.registry.node_types([Clock, Once])}, Clock


def clock_shown(class_type="Clock"):
    return {
        "1": {"class_type": class_type, "inputs": {}},
        "2": {"class_type": class_type, "inputs": {}},
        "3": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
        "4": {"class_type": "Show", "inputs": {"source": ["2", 0]}},
    }


def test_fingerprint_is_part_of_the_key_of_all_that_follows(headless, state_nodes):
    types, clock = state_nodes
    before = keys(headless, types, clock_shown())
    assert keys(headless, types, clock_shown()) == before
    clock.now = 1
    after = keys(headless, types, clock_shown())
    assert after["1"] != before["1"] and after["3"] != before["3"]


@pytest.mark.parametrize("now", [None, float("nan")], ids=["error", "nan"])
def test_failing_or_nan_fingerprint_means_never_the_same(headless, state_nodes, now):
    types, clock = state_nodes
    clock.now = now
    assert keys(headless, types, clock_shown())["3"] != keys(headless, types, clock_shown())["3"]


def test_node_that_is_not_idempotent_is_never_shared(headless, state_nodes):
    types, _ = state_nodes
    found = keys(headless, types, clock_shown("Once"))
    assert found["1"] != found["2"]
    shared = keys(headless, types, clock_shown("Clock"))
    assert shared["1"] == shared["2"]


def test_wiring_to_another_output_is_another_key(headless, types):
    document = chain()
    document["4"] = {"class_type": "Show", "inputs": {"source": ["3", 1]}}
    assert keys(headless, types, chain())["4"] != keys(headless, types, document)["4"]


def test_node_gets_the_hidden_facts_it_asks_for(headless, types):
    io = headless.api.io

    class WhoAmI(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="WhoAmI", inputs=[], outputs=[io.String.Output()], hidden=[io.Hidden.unique_id])

        @classmethod
        def execute(cls):
            return io.NodeOutput(cls.hidden.unique_id)

    known = {**types, **headless.registry.node_types([WhoAmI])}
    document = {
        "12": {"class_type": "WhoAmI", "inputs": {}},
        "3": {"class_type": "Show", "inputs": {"source": ["12", 0]}},
    }
    graph = headless.validate.validated(headless.workflow.graph_from(document, known), known)
    reporter = headless.report.Reporter(headless.command.Console(quiet=True))
    (results,) = headless.execute.run_graphs([graph], known, reporter)
    assert results["12"].outputs == ("12",)


def test_node_with_the_wrong_number_of_outputs_is_told(headless, types):
    io = headless.api.io

    class Empty(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Empty", inputs=[], outputs=[io.String.Output()], is_output_node=True)

        @classmethod
        def execute(cls):
            return None

    known = headless.registry.node_types([Empty])
    graph = headless.validate.validated(headless.workflow.graph_from({"1": {"class_type": "Empty"}}, known), known)
    reporter = headless.report.Reporter(headless.command.Console(quiet=True))
    with pytest.raises(headless.problems.NodeFailed, match="returned 0 outputs where its schema has 1"):
        list(headless.execute.run_graphs([graph], known, reporter))
