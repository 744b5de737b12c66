import pytest


def number(value=2, mode="plain"):
    return {"class_type": "Number", "inputs": {"value": value, "mode": mode}}


def show(source="1"):
    return {"class_type": "Show", "inputs": {"source": [source, 0]}}


def test_graph_runs_sources_first_whatever_the_order_in_the_file(run, calls):
    document = {
        "9": show("5"),
        "5": {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
        "1": number(2),
        "2": number(3),
    }
    assert run(document) == ([["5"]], [])
    assert calls == [("Number", 2), ("Number", 3), ("Sum", 5), ("Show", 5)]


def test_second_output_is_reached_by_its_number(run):
    document = {
        "1": number(5),
        "2": {"class_type": "Sum", "inputs": {"a": ["1", 0], "b": ["1", 0]}},
        "3": {"class_type": "Show", "inputs": {"source": ["2", 1]}},
    }
    assert run(document)[0] == [["0"]]


def test_request_body_with_the_graph_under_prompt_is_read(run):
    assert run({"prompt": {"1": number(4), "2": show()}, "client_id": "x"})[0] == [["4"]]


def test_wrapped_constant_is_unwrapped(run):
    document = {"1": {"class_type": "Number", "inputs": {"value": {"__value__": 7}, "mode": "plain"}}, "2": show()}
    assert run(document)[0] == [["7"]]


def test_numbers_given_as_text_are_converted(run):
    assert run({"1": number("7"), "2": show()})[0] == [["7"]]


def test_nodes_that_no_output_needs_do_not_run(run, calls):
    run({"1": number(1), "2": show(), "3": number(99)})
    assert calls == [("Number", 1), ("Show", 1)]


def test_diamond_of_many_levels_runs_each_node_once(run, calls):
    document = {"0": number(1)}
    for level in range(1, 40):
        document[str(level)] = {"class_type": "Sum", "inputs": {"a": [str(level - 1), 0], "b": [str(level - 1), 0]}}
    run({**document, "show": show("39")})
    assert len(calls) == 41 and calls[-1] == ("Show", 2**39)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"1": {"inputs": {}}}, "#1: the node has no class_type"),
        ({"1": {"class_type": "Number", "inputs": 3}}, "inputs are not an object"),
        ({"1": {"class_type": "Show", "inputs": {"source": [1, 2, 3]}}}, "is not a link"),
        ({}, "no nodes to run"),
        ([], "JSON list, not an object"),
        ({"version": 1, "name": "x"}, "so it is no workflow"),
    ],
)
def test_malformed_document_is_refused(refused, document, words):
    assert words in refused(document)


def test_title_is_shown_in_messages(refused):
    document = {"1": {**number(11), "_meta": {"title": "Steps"}}, "2": show()}
    assert refused(document).startswith("#1 Steps input 'value': 11 is out of range; allowed is 0 to 10")
