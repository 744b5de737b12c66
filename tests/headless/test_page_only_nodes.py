"""What the page draws and does not send is left out; what an output needs must be known."""

import pytest

from .ui_documents import box, node, show, subgraph, workflow

NUMBER, SHOWN = node(1, "Number", (4,)), (7, 1, 0, 2, 0)
LABEL = node(9, "Label (rgthree)", None, outputs=(), title="My label")
BOOKMARK = node(10, "Bookmark (rgthree)", ("1", 1), outputs=())


def shown_with(*more, links=()):
    return workflow([NUMBER, show(2, 7), *more], [SHOWN, *links])


@pytest.mark.parametrize(
    ("strange", "links"),
    [
        (LABEL, ()),
        (BOOKMARK, ()),
        (node(9, "Fast Groups Muter (rgthree)", (True,), outputs=("OPT_CONNECTION",)), ()),
        (node(9, "Fast Muter (rgthree)", None, [("Number", 8)]), [(8, 1, 0, 9, 0)]),
        (node(9, "VHS_VideoCombine", {"frame_rate": 8}, [("images", 8)]), [(8, 1, 0, 9, 0)]),
        (node(9, "Note+", ("x",)), ()),
        *((node(9, kind, (), [("source", 8)], ()), [(8, 1, 0, 9, 0)]) for kind in ("LoadImages", "SaveImages")),
        (node(9, "ImageBatch2", (), [("image1", 8)]), [(8, 1, 0, 9, 0)]),
    ],
)
def test_unknown_nodes_that_no_output_needs_are_left_out(run, strange, links):
    assert run(shown_with(strange, links=links))[0] == [["4"]]


def test_two_inputs_of_one_name_are_the_business_of_nodes_that_run(run, refused):
    """rgthree's Fast Muter calls its inputs by the titles of the nodes that it mutes."""
    more, links = (
        [node(9, "Fast Muter (rgthree)", None, [("Number", 8), ("Number", 6)])],
        [(8, 1, 0, 9, 0), (6, 1, 0, 9, 1)],
    )
    assert run(shown_with(*more, links=links))[0] == [["4"]]
    more[0]["type"] = "Sum"
    assert "two inputs are called 'Number' and both are linked" in refused(shown_with(*more, links=links))


def test_a_remark_names_what_was_left_out(headless, types):
    graph = headless.workflow.graph_from(shown_with(LABEL, BOOKMARK), types)
    assert headless.validate.validated(graph, types).remarks == (
        "Left out, because the runner does not know them and no output needs them: "
        "#9 My label (Label (rgthree)), #10 Bookmark (rgthree)",
    )


def test_the_remark_reaches_the_terminal(headless, types, tmp_path, capsys):
    import json

    path = tmp_path / "labelled.json"
    path.write_text(json.dumps(shown_with(LABEL)))
    assert headless.command.run_command(headless.command.Command(path, check=True), types) == 0
    told = capsys.readouterr().err
    assert "#9 My label (Label (rgthree))" in told and "is valid" in told


def test_an_unknown_node_on_the_way_to_an_output_is_an_error(refused):
    document = workflow([NUMBER, node(3, "Other pack", (), [("a", 8)]), show(2, 7)], [(8, 1, 0, 3, 0), (7, 3, 0, 2, 0)])
    assert refused(document).startswith("#3 Other pack: the runner does not know nodes of class 'Other pack'.")


def test_an_unknown_node_on_the_way_in_a_subgraph_is_an_error(refused):
    inner = subgraph([node(7, "Other pack")], [(1, 7, 0, -20, 0)])
    document = workflow([box(5), show(2, 7)], [(7, 5, 0, 2, 0)], [inner])
    assert refused(document).startswith("#5:7 Other pack: the runner does not know")


@pytest.mark.parametrize("kind", ["Showw", "show", "SaveVidoe", "Save_Video", "PreviewImagse"])
def test_a_misspelt_output_node_is_not_taken_for_a_label(refused, kind):
    text = refused(shown_with(node(9, kind, (), [("source", 8)]), links=[(8, 1, 0, 9, 0)]))
    assert text.startswith(f"#9 {kind}: the runner does not know nodes of class '{kind}'. Did you mean")


def test_without_an_output_node_the_unknown_ones_are_told(refused):
    assert "does not know nodes of class 'Preview Bridge'" in refused(
        workflow([NUMBER, node(2, "Preview Bridge", (), [("a", 7)])], [SHOWN])
    )


def test_mistakes_of_nodes_that_no_output_needs_stop_nothing(run):
    ring = [node(5, "Sum", inputs=[("a", 8)]), node(6, "Sum", inputs=[("a", 9)])]
    lost = node(8, "Sum", inputs=[("a", None)])
    assert run(shown_with(*ring, lost, links=[(8, 6, 0, 5, 0), (9, 5, 0, 6, 0)]))[0] == [["4"]]
    dangling = {"class_type": "Sum", "inputs": {"a": ["77", 0]}}
    number = {"class_type": "Number", "inputs": {"value": 4, "mode": "plain"}}
    assert run({"1": number, "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}, "3": dangling})[0] == [["4"]]


def test_set_and_get_nodes_are_wires(run):
    setter = node(3, "SetNode", ("number",), [("INT", 8)])
    getter = node(4, "GetNode", ("number",))
    document = workflow([NUMBER, setter, getter, show(2, 7)], [(8, 1, 0, 3, 0), (7, 4, 0, 2, 0)])
    assert run(document)[0] == [["4"]]


def test_a_get_node_in_a_subgraph_reads_a_set_node_outside(run):
    setter = node(3, "SetNode", ("number",), [("INT", 8)])
    inner = subgraph(
        [node(4, "GetNode", ("number",)), node(6, "Sum", (), [("a", 1)])], [(1, 4, 0, 6, 0), (2, 6, 0, -20, 0)]
    )
    document = workflow([NUMBER, setter, box(5), show(2, 7)], [(8, 1, 0, 3, 0), (7, 5, 0, 2, 0)], [inner])
    assert run(document)[0] == [["4"]]


@pytest.mark.parametrize(
    ("setters", "words"),
    [
        ([], "no Set node is called 'number'"),
        ([node(3, "SetNode", ("number",), [("INT", 8)], mode=2)], "the Set node 'number' is muted"),
        ([node(i, "SetNode", ("number",), [("INT", 8)]) for i in (3, 5)], "several Set nodes are called 'number'"),
    ],
)
def test_a_get_node_without_its_set_node_says_so(refused, setters, words):
    document = workflow(
        [NUMBER, *setters, node(4, "GetNode", ("number",)), show(2, 7)], [(8, 1, 0, 3, 0), (7, 4, 0, 2, 0)]
    )
    assert words in refused(document)


def test_reroutes_of_another_pack_are_wires_and_long_rows_of_them_no_circle(run):
    rows = [node(i, "Reroute (rgthree)", (), [("", i - 1)]) for i in range(10, 3010)]
    links = [(9, 1, 0, 10, 0), *((i, i, 0, i + 1, 0) for i in range(10, 3009)), (3009, 3009, 0, 2, 0)]
    assert run(workflow([NUMBER, *rows, show(2, 3009)], links))[0] == [["4"]]
