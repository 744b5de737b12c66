"""Names of files are filled in as the page does when it queues a workflow."""

from datetime import datetime

import pytest

from fatezero_ext.cli.node_pack import load_pack

from .ui_documents import node, show, workflow

NOW = datetime(2026, 3, 9, 7, 5, 4)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy-MM-dd", "2026-03-09"),
        ("yy.M.d", "26.3.9"),
        ("hhmmss", "070504"),
        ("h_m_s", "7_5_4"),
        ("yyy", "yyy"),
        ("", ""),
    ],
)
def test_dates_are_written_as_on_the_page(headless, pattern, text):
    assert load_pack("nodes.headless.formats.page_texts").dated(pattern, NOW) == text


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("a/%date:yyyy-MM-dd%/b", "a/2026-03-09/b"),
        ("v_%Noise.seed%_%Noise.scale%", "v_5_2"),
        ("%My title.mode%", "double"),
        ("%Noise.text%", "a_b_c"),
        ("%width%_%Nobody.seed%_%Noise.nothing%_100%", "%width%_%Nobody.seed%_%Noise.nothing%_100%"),
        ("%Show.source%", "%Show.source%"),
    ],
)
def test_placeholders_become_values(headless, types, prefix, text):
    nodes = [
        node(1, "Number", (4, "double"), title="My title"),
        node(2, "Noise", (5, 2.0, "a/b\\c"), outputs=("STRING",)),
        show(3, 7),
        node(4, "SaveImage", (prefix,), [("images", None)]),
    ]
    types_alone = {kind: known for kind, known in types.items() if kind != "SaveImage"}
    graph = headless.workflow.graph_from(workflow(nodes, [(7, 1, 0, 3, 0)]), types_alone)
    saving = graph.nodes["4"].with_inputs({"filename_prefix": prefix})
    filled = load_pack("nodes.headless.formats.page_texts").with_filled_prefixes([*graph.nodes.values(), saving], NOW)
    assert filled[-1].inputs["filename_prefix"] == text


def test_a_file_of_the_page_is_read_with_its_prefix_filled_in(headless, types):
    nodes = [node(4, "SaveImage", ("v_%date:yyyy%_%Noise.seed%",)), node(2, "Noise", (5, 2.0, ""))]
    found = headless.workflow.graph_from(workflow(nodes, []), types).nodes["4"].inputs["filename_prefix"]
    assert found.startswith("v_2") and found.endswith("_5") and "%" not in found


def test_a_name_grows_no_further_than_a_name_may(headless, types):
    nodes = [node(4, "SaveImage", ("%Noise.text%" * 5000,)), node(2, "Noise", (5, 2.0, "x" * 50_000))]
    found = headless.workflow.graph_from(workflow(nodes, []), types).nodes["4"].inputs["filename_prefix"]
    assert len(found) < 200_000
