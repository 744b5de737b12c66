import pytest


def document(number=None, **more):
    """A number that is shown; `number` changes its inputs."""
    return {
        "1": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain", **(number or {})}},
        "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
        **more,
    }


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"value": 11}, "#1 A number input 'value': 11 is out of range; allowed is 0 to 10"),
        ({"value": -1}, "-1 is out of range"),
        ({"value": 1.5}, "1.5 is not a whole number"),
        ({"value": "many"}, "'many' is not a whole number"),
        ({"value": True}, "True is not a whole number"),
        ({"value": None}, "None is not a whole number"),
        (
            {"mode": "doubel"},
            "#1 A number input 'mode': 'doubel' is not in the list; there is plain, double. Did you mean",
        ),
        ({"mode": 3}, "'3' is not in the list"),
        ({"exact": "yes"}, "'yes' is neither true nor false"),
        ({"value": ["7", 0]}, "#1 A number input 'value': it is linked to node #7, which is not there"),
    ],
)
def test_wrong_value_names_node_and_input(refused, inputs, words):
    assert words in refused(document(inputs))


@pytest.mark.parametrize("scale", ["inf", "nan", 2.5, "wide"])
def test_float_out_of_range_or_not_finite_is_refused(refused, scale):
    noise = {"class_type": "Noise", "inputs": {"seed": 0, "scale": scale, "text": ""}}
    assert "#3 Noise input 'scale'" in refused(
        {"3": noise, "4": {"class_type": "Show", "inputs": {"source": ["3", 0]}}}
    )


def test_seed_of_64_bits_is_kept_exactly(run):
    noise = {"class_type": "Noise", "inputs": {"seed": 2**64 - 1, "scale": 1, "text": ""}}
    shown, _ = run({"3": noise, "4": {"class_type": "Show", "inputs": {"source": ["3", 0]}}})
    assert shown == [[f"{2**64 - 1} 1.0 "]]


def test_unknown_node_comes_with_the_nearest_known_one(refused):
    assert "#3 Numbr: the runner does not know nodes of class 'Numbr'. Did you mean Number?" in refused(
        document(**{"3": {"class_type": "Numbr", "inputs": {}}})
    )


def test_missing_required_input_is_named(refused):
    text = refused({"2": {"class_type": "Show", "inputs": {}}})
    assert text.startswith("#2 Show input 'source': a link of type * is required")


def test_wrong_socket_type_names_both_types(refused):
    sum_of_text = {
        "3": {"class_type": "Noise", "inputs": {"seed": 1, "scale": 1, "text": ""}},
        "4": {"class_type": "Sum", "inputs": {"a": ["3", 0]}},
        "5": {"class_type": "Show", "inputs": {"source": ["4", 0]}},
    }
    assert "#4 Sum input 'a': it gets STRING from #3 Noise, but needs INT" in refused(sum_of_text)


def test_value_on_a_socket_without_a_widget_is_refused(refused):
    wrong = {
        "4": {"class_type": "Sum", "inputs": {"a": 3}},
        "5": {"class_type": "Show", "inputs": {"source": ["4", 0]}},
    }
    assert "#4 Sum input 'a': it holds the value 3, but needs a link of type INT" in refused(wrong)


def test_output_number_that_does_not_exist_is_refused(refused):
    assert "linked to output 4 of #1 A number, which has 1" in refused(
        document(**{"2": {"class_type": "Show", "inputs": {"source": ["1", 4]}}})
    )


def test_cycle_is_told_by_its_nodes(refused):
    ring = {
        "3": {"class_type": "Sum", "inputs": {"a": ["4", 0]}},
        "4": {"class_type": "Sum", "inputs": {"a": ["3", 0]}},
        "5": {"class_type": "Show", "inputs": {"source": ["4", 0]}},
    }
    assert "#3 > #4 > #3 feed each other in a cycle" in refused(ring) or "#4 > #3 > #4" in refused(ring)


def test_a_cycle_is_told_from_source_to_target_without_the_nodes_beside_it(refused):
    ring = {
        "1": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}},
        "2": {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": ["4", 0]}},
        "3": {"class_type": "Sum", "inputs": {"a": ["2", 0]}},
        "4": {"class_type": "Sum", "inputs": {"a": ["3", 0]}},
        "5": {"class_type": "Show", "inputs": {"source": ["4", 0]}},
    }
    told = refused(ring)
    assert any(
        f"the nodes {walk} feed" in told for walk in ("#2 > #3 > #4 > #2", "#3 > #4 > #2 > #3", "#4 > #2 > #3 > #4")
    )


def test_workflow_without_output_node_is_refused(refused):
    assert "no output node" in refused({"1": {"class_type": "Number", "inputs": {"value": 1, "mode": "plain"}}})


def test_all_problems_are_told_at_once(refused):
    text = refused(document({"value": 99, "mode": "none"}, **{"3": {"class_type": "Show", "inputs": {}}}))
    assert text.startswith("3 problems:") and "'value'" in text and "'mode'" in text and "#3 Show" in text


def test_nothing_runs_before_the_last_problem_is_found(refused, calls):
    refused(document(**{"3": {"class_type": "Show", "inputs": {}}}))
    assert calls == []


def strict(value, other=1):
    return {
        "1": {"class_type": "Strict", "inputs": {"value": value, "other": other}},
        "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
    }


def test_validate_inputs_tells_its_own_reason(refused):
    assert "#1 Strict input 'value': 2 is even; an odd number is needed" in refused(strict(2))


def test_input_named_by_validate_inputs_is_left_to_it(run):
    assert run(strict(9))[0] == [["9"]]


def test_input_not_named_by_validate_inputs_keeps_its_range(refused):
    assert "#1 Strict input 'other': 9 is out of range" in refused(strict(9, other=9))


def test_a_mistake_is_not_told_with_its_input_twice(refused, monkeypatch, types):
    said = "value: 2 is even; an odd number is needed. Add one."
    monkeypatch.setattr(types["Strict"].node_class, "validate_inputs", classmethod(lambda cls, value: said))
    assert "#1 Strict input 'value': 2 is even" in refused(strict(2))


@pytest.mark.parametrize(("exact", "read"), [(0, False), (1, True)])
def test_a_truth_may_be_written_as_0_or_1(headless, types, exact, read):
    graph = headless.validate.validated(headless.workflow.graph_from(document({"exact": exact}), types), types)
    assert graph.nodes["1"].inputs["exact"] is read


@pytest.mark.parametrize("exact", [2, -1, 1.5, None])
def test_other_numbers_are_no_truths(refused, exact):
    assert "is neither true nor false" in refused(document({"exact": exact}))


def test_null_on_a_socket_that_may_stay_empty_is_handed_to_the_node(headless, types):
    """As in ComfyUI; a number is needed where the socket is one."""
    pictures = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    made = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8, "audio": None}}
    graph = headless.workflow.graph_from({"1": pictures, "2": made}, types)
    assert list(headless.validate._check_inputs(graph.nodes, graph.nodes["2"], types, {})) == []


def test_null_is_no_number(refused):
    added = {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": None}}
    assert "input 'b'" in refused(document(**{"3": added, "2": {"class_type": "Show", "inputs": {"source": ["3", 0]}}}))
