import pytest


def node(id, type, values=(), inputs=(), outputs=("INT",), **more):
    """A raw node; `inputs` are (name, link) pairs."""
    return {
        "id": id,
        "type": type,
        "widgets_values": list(values) if isinstance(values, tuple) else values,
        "inputs": [{"name": name, "type": "INT", "link": link} for name, link in inputs],
        "outputs": [{"name": name, "type": name} for name in outputs],
        **more,
    }


def show(id, link):
    return node(id, "Show", inputs=[("source", link)], outputs=())


def workflow(nodes, links, **more):
    return {"nodes": nodes, "links": links, "version": 0.4, **more}


def test_widget_values_are_positional(run):
    document = workflow([node(1, "Number", (4, "double", False)), show(2, 7)], [[7, 1, 0, 2, 0, "INT"]])
    assert run(document)[0] == [["8"]]


def test_widget_values_may_be_named(run):
    document = workflow([node(1, "Number", {"value": 6, "extra": 1}), show(2, 7)], [[7, 1, 0, 2, 0, "INT"]])
    assert run(document)[0] == [["6"]]


def test_widget_appended_after_the_file_was_saved_takes_its_default(run):
    document = workflow([node(1, "Number", (4,)), show(2, 7)], [[7, 1, 0, 2, 0, "INT"]])
    assert run(document)[0] == [["4"]]


@pytest.mark.parametrize("values", [(5, "randomize", 0.5, "hi"), (5, 0.5, "hi")])
def test_control_after_generate_behind_a_seed_is_skipped(run, values):
    document = workflow([node(1, "Noise", values), show(2, 7)], [[7, 1, 0, 2, 0, "STRING"]])
    assert run(document)[0] == [["5 0.5 hi"]]


def test_links_may_be_objects(run):
    link = {"id": 7, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "INT"}
    assert run(workflow([node(1, "Number", (3,)), show(2, 7)], [link]))[0] == [["3"]]


def test_link_into_a_widget_wins_over_its_value(run):
    converted = node(2, "Number", (9,), inputs=[("value", 1)])
    document = workflow(
        [node(1, "Number", (3,)), converted, show(3, 2)], [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"]]
    )
    assert run(document)[0] == [["3"]]


def test_primitive_gives_its_value(run):
    primitive = node(1, "PrimitiveNode", (8, "fixed"))
    target = node(2, "Number", (1,), inputs=[("value", 1)])
    document = workflow([primitive, target, show(3, 2)], [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"]])
    assert run(document)[0] == [["8"]]


def test_reroutes_and_notes_vanish(run, headless, types):
    nodes = [node(1, "Number", (3,)), node(2, "Reroute", inputs=[("", 1)]), node(3, "Reroute", inputs=[("", 2)])]
    notes = [node(8, "Note", ("hello",)), node(9, "MarkdownNote", ("# hello",))]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 4, 0, "*"]]
    document = workflow([*nodes, *notes, show(4, 3)], links)
    assert run(document)[0] == [["3"]]
    assert list(headless.workflow.graph_from(document, types).nodes) == ["1", "4"]


def test_bypassed_node_hands_on_its_first_input_of_the_same_type(run, calls):
    bypassed = node(2, "Sum", inputs=[("a", 1), ("b", None)], outputs=("INT", "INT"), mode=4)
    document = workflow(
        [node(1, "Number", (3,)), bypassed, show(3, 2)], [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"]]
    )
    assert run(document)[0] == [["3"]]
    assert ("Sum", 3) not in calls


def test_required_input_behind_a_muted_node_is_missing_and_says_why(refused):
    document = workflow([node(1, "Number", (3,), mode=2), show(2, 7)], [[7, 1, 0, 2, 0, "INT"]])
    assert "#2 Show input 'source': its source #1 is muted, and a link of type * is required" in refused(document)


def test_optional_input_behind_a_muted_node_is_left_out(run):
    nodes = [
        node(1, "Number", (3,)),
        node(2, "Number", (4,), mode=2),
        node(3, "Sum", inputs=[("a", 1), ("b", 2)]),
        show(4, 3),
    ]
    links = [[1, 1, 0, 3, 0, "INT"], [2, 2, 0, 3, 1, "INT"], [3, 3, 0, 4, 0, "INT"]]
    assert run(workflow(nodes, links))[0] == [["3"]]


def test_muted_output_node_does_not_run(run):
    document = workflow(
        [node(1, "Number", (3,)), show(2, 1), {**show(3, 2), "mode": 2}],
        [[1, 1, 0, 2, 0, "INT"], [2, 1, 0, 3, 0, "INT"]],
    )
    assert run(document)[0] == [["3"]]


def test_link_that_the_file_lacks_is_named(refused):
    assert "its link 7 is not in the file" in refused(workflow([show(2, 7)], []))


def test_link_from_a_node_that_the_file_lacks_is_named(refused):
    assert "its source #5 is not in the file" in refused(workflow([show(2, 7)], [[7, 5, 0, 2, 0, "INT"]]))


def test_circle_of_reroutes_is_refused(refused):
    nodes = [node(1, "Reroute", inputs=[("", 2)]), node(2, "Reroute", inputs=[("", 1)]), show(3, 3)]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 1, 0, 3, 0, "*"]]
    assert "its link runs in a circle" in refused(workflow(nodes, links))


@pytest.mark.parametrize("broken", [{"nodes": [{"type": "Show"}]}, {"nodes": [3]}, {"nodes": [], "links": [[1]]}])
def test_malformed_nodes_or_links_are_refused(refused, broken):
    assert "malformed" in refused(broken)


def doubling_subgraph():
    """A definition with one input and one output: the input twice, plus the constant 5 of an inner node."""
    inner = [
        node(1, "Sum", inputs=[("a", 1), ("b", 2)]),
        node(2, "Number", (5,)),
        node(3, "Sum", inputs=[("a", 3), ("b", 4)]),
    ]
    ends = [(1, -10, 0, 1, 0), (2, -10, 0, 1, 1), (3, 1, 0, 3, 0), (4, 2, 0, 3, 1), (5, 3, 0, -20, 0)]
    links = [
        {"id": i, "origin_id": o, "origin_slot": s, "target_id": t, "target_slot": p, "type": "INT"}
        for i, o, s, t, p in ends
    ]
    return {"id": "double-it", "name": "Double", "nodes": inner, "links": links}


def test_subgraph_runs_as_if_its_nodes_stood_in_its_place(run, headless, types):
    nodes = [node(1, "Number", (3,)), node(2, "double-it", inputs=[("a", 1)]), node(3, "double-it", inputs=[("a", 2)])]
    links = [[1, 1, 0, 2, 0, "INT"], [2, 2, 0, 3, 0, "INT"], [3, 3, 0, 4, 0, "INT"]]
    document = workflow([*nodes, show(4, 3)], links, definitions={"subgraphs": [doubling_subgraph()]})
    assert run(document)[0] == [[str((3 * 2 + 5) * 2 + 5)]]
    assert "2:1" in headless.workflow.graph_from(document, types).nodes


def test_subgraph_that_contains_itself_is_refused(refused):
    definition = doubling_subgraph()
    definition["nodes"].append(node(9, "double-it"))
    document = workflow(
        [node(2, "double-it"), show(4, 3)], [[3, 2, 0, 4, 0, "INT"]], definitions={"subgraphs": [definition]}
    )
    assert "contains itself" in refused(document)


@pytest.mark.parametrize(
    "damage",
    [
        {"definitions": [1]},
        {"definitions": {"subgraphs": [{}]}},
        {"definitions": {"subgraphs": 3}},
        {"nodes": [{"id": 1, "type": "Show", "inputs": [1]}]},
        {"nodes": [{"id": 1, "type": "Show", "inputs": {"source": 1}}]},
        {"nodes": [{"id": 1, "type": "Show", "inputs": [{"name": "source", "link": [1]}]}]},
        {"nodes": [{"id": 1, "type": "Number", "widgets_values": 5}]},
        {"nodes": 4},
        {"links": [[1]]},
    ],
)
def test_malformed_files_are_refused_not_crashed_on(run, headless, damage):
    document = workflow([node(1, "Number", (4,)), show(2, 7)], [[7, 1, 0, 2, 0, "INT"]]) | damage
    with pytest.raises(headless.problems.InvalidWorkflow, match="malformed|no workflow"):
        run(document)


def test_negative_output_slots_are_refused(run, headless):
    document = workflow([node(1, "Number", (4,)), show(2, 7)], [[7, 1, -1, 2, 0, "INT"]])
    with pytest.raises(headless.problems.InvalidWorkflow, match="output -1"):
        run(document)
