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
    assert load_pack("nodes.headless.schemas.page_texts").dated(pattern, NOW) == text


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("a/%date:yyyy-MM-dd%/b", "a/2026-03-09/b"),
        ("v_%Noise.seed%_%Noise.scale%", "v_5_2"),
        ("%My title.mode%", "double"),
        ("%Noise.text%", "a_b_c_d__e_"),
        ("%date:yyyy.MM.dd%_%date:yy.M%_%Noise.text.x%", "2026_%date:yy.M%_%Noise.text.x%"),
        ("%width%_%Nobody.seed%_%Noise.nothing%_100%", "%width%_%Nobody.seed%_%Noise.nothing%_100%"),
        ("%Show.source%", "%Show.source%"),
    ],
)
def test_placeholders_become_values(headless, types, prefix, text):
    nodes = [
        node(1, "Number", (4, "double"), title="My title"),
        node(2, "Noise", (5, 2.0, 'a/b\\c:d\n"e?'), outputs=("STRING",)),
        show(3, 7),
        node(4, "SaveImage", (prefix,), [("images", None)]),
    ]
    types_alone = {kind: known for kind, known in types.items() if kind != "SaveImage"}
    graph = headless.workflow.graph_from(workflow(nodes, [(7, 1, 0, 3, 0)]), types_alone)
    saving = graph.nodes["4"].with_inputs({"filename_prefix": prefix})
    filled = load_pack("nodes.headless.schemas.page_texts").with_filled_prefixes([*graph.nodes.values(), saving], NOW)
    assert filled[-1].inputs["filename_prefix"] == text


@pytest.fixture
def saving(headless, types):
    """The name of a saved file, in a graph without pictures."""
    io = headless.api.io

    class SaveImage(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="SaveImage", inputs=[io.String.Input("filename_prefix")], outputs=[], is_output_node=True
            )

    known = {**types, **headless.registry.node_types([SaveImage])}

    def name(prefix, *settings, text=""):
        nodes = [node(4, "SaveImage", (prefix,)), node(2, "Noise", (5, 2.0, text))]
        graph = headless.workflow.graph_from(workflow(nodes, []), known)
        asked = [headless.settings.parse_setting(one) for one in settings]
        made = headless.settings.apply_settings(graph, asked, known)
        checked = headless.validate.validated(headless.validate.validated(made, known), known)
        return checked.nodes["4"].inputs["filename_prefix"]

    return name


def test_a_file_of_the_page_runs_with_its_prefix_filled_in(saving):
    found = saving("v_%date:yyyy%_%Noise.seed%")
    assert found.startswith("v_2") and found.endswith("_5") and "%" not in found


def test_a_name_holds_the_values_that_run(saving):
    assert saving("%Noise.seed%", "2.seed=6") == "6"
    assert saving("plain", "2.seed=7", "4.filename_prefix=%Noise.seed%") == "7"


def test_a_value_that_looks_like_a_placeholder_is_not_filled_in(saving):
    assert saving("%Noise.text%", text="%Noise.seed%") == "%Noise.seed%"


def test_a_name_grows_no_further_than_a_name_may(headless, types):
    nodes = [node(4, "SaveImage", ("%Noise.text%" * 5000,)), node(2, "Noise", (5, 2.0, "x" * 50_000))]
    graph = headless.workflow.graph_from(workflow(nodes, []), types)
    filled = load_pack("nodes.headless.schemas.page_texts").with_filled_prefixes(graph.nodes.values(), NOW)
    assert 1000 < len(filled[0].inputs["filename_prefix"]) < 200_000
