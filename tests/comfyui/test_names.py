"""Names in the real page: nodes are found by the words that users search for, and files with older names still run."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.comfyui.browser import CHROMIUM, opened
from tests.comfyui.workflows import LOAD, TEMPLATES, small_graph

WHOLE, INVERSION, EDIT = "Video Edit (FateZero vid2vid, prompt to prompt)", "DDIM Inversion", "Prompt-to-Prompt Edit"
FOUND_BY_NAME = {
    "video edit": WHOLE, "edit video": WHOLE, "vid2vid": WHOLE, "prompt to prompt": EDIT, "inversion": INVERSION,
}  # fmt: skip
"""Nodes that are found first of the pack's where names alone are searched, and only their first thirty letters."""
FOUND_BY_ALIAS = {**FOUND_BY_NAME, "prompt to prompt": WHOLE}


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    if CHROMIUM is None or find_spec("playwright") is None:
        pytest.skip("these tests drive the page: install the Python package playwright, and name a Chromium")
    pictures = Path(os.environ.get("FATEZERO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    pictures.mkdir(parents=True, exist_ok=True)
    server.post("/api/settings", {"Comfy.TutorialCompleted": True})
    with opened(server.url, pictures) as shown:
        yield shown


@pytest.mark.parametrize("words", FOUND_BY_NAME)
def test_nodes_are_found_by_the_words_that_users_search_for(page, words):
    from comfy_api.latest import io

    page.load({"nodes": [], "links": [], "version": 0.4})
    names = page.found_by(words, f"search_{words.replace(' ', '_')}")
    own = [name for name in names if name in (WHOLE, INVERSION, EDIT)]
    aliases = "search_aliases" in io.Schema.__dataclass_fields__
    assert own[0] == (FOUND_BY_ALIAS if aliases else FOUND_BY_NAME)[words]
    assert names.index(own[0]) < 3  # of all that is found
    assert not aliases or WHOLE in own


def test_a_workflow_file_with_the_older_name_of_the_norm_runs_as_it_is(page):
    text = TEMPLATES[0].read_text()
    older = text.replace('\n    "video",\n', '\n    "clip",\n')
    assert older != text
    page.load(json.loads(older))
    assert page.prompt()[LOAD]["inputs"]["norm"] == "clip"
    page.set_widget("FateZero_DDIMInvert", "steps", 5)
    page.queue()
    messages = page.wait_for_end()
    assert messages[-1][0] == "execution_success", messages[-1]


@pytest.mark.parametrize("norm, accepted", [("video", True), ("clip", True), ("frame", True), ("group", False)])
def test_the_server_takes_both_names_and_names_the_mistake_at_its_widget(server, norm, accepted):
    graph = small_graph(steps=1)
    graph[LOAD]["inputs"]["norm"] = norm
    done = server.run(graph)
    assert (done.status == 200) == accepted
    if not accepted:
        (error,) = done.answer["node_errors"][LOAD]["errors"]
        assert error["extra_info"]["input_name"] == "norm"
        assert "norm is 'group'; it is one of video, frame" in error["details"]
