"""What nodes say reaches ComfyUI's console as text that steers no terminal."""

import logging
import sys
from types import SimpleNamespace

import pytest

from fatezero_ext.cli.node_pack import load_pack


@pytest.fixture
def shown(monkeypatch):
    """Collect what a stand-in of ComfyUI's server shows on its page, where node 8.0 stands inside node 8."""
    texts = []
    instance = SimpleNamespace(send_progress_text=lambda text, node: texts.append((text, node)))
    kinds = {"8": "Edit", "8.0": "Inner", "9": "Edit", "9.loop.2": "Edit"}
    prompt = SimpleNamespace(
        get_display_node_id=lambda node: node.split(".")[0], get_node=lambda node: {"class_type": kinds[node]}
    )
    state = SimpleNamespace(get_progress_state=lambda: SimpleNamespace(dynprompt=prompt))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setitem(sys.modules, "comfy_execution", SimpleNamespace(progress=state))
    monkeypatch.setitem(sys.modules, "comfy_execution.progress", state)
    return texts


def test_a_prompt_steers_no_terminal_in_comfyuis_console(shown, caplog):
    said = "Edit, replace: a \x1b]0;owned\x07 cat, 100%s"
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say(said, "8")
    assert caplog.messages == ["Edit, replace: a \\x1b]0;owned\\x07 cat, 100%s"]
    assert shown == [(said, "8")]


def test_a_node_in_anothers_place_does_not_write_over_its_text(shown, caplog):
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say("8 frames", "8.0")
    assert caplog.messages == ["8 frames"]
    assert shown == []


def test_a_copy_of_a_node_in_a_loop_says_it_on_the_node_of_the_page(shown, caplog):
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say("8 frames", "9.loop.2")
    assert shown == [("8 frames", "9")]


def test_lines_end_as_sentences_do_each_on_its_own_whatever_is_in_a_prompt(shown):
    host = load_pack("nodes.host")
    with host.installed(load_pack("nodes.host.comfy").ComfyHost()):
        host.tell(["Both prompts say the same.", "", "Edit: a cat\n\nruns", "Is it? A cat!"], "8")
        host.tell(["", ""], "8")
    assert shown == [("Both prompts say the same.\nEdit: a cat runs.\nIs it? A cat!", "8")]
