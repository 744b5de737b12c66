"""What nodes say reaches ComfyUI's console as text that steers no terminal."""

import logging
import sys
from contextvars import copy_context
from types import SimpleNamespace

import pytest

from fatezero_ext.cli.node_pack import load_pack


@pytest.fixture
def server():
    """A stand-in of ComfyUI's server, to which pages are connected; `pages` collects which of them are told."""

    def send(text, node, page):
        server.shown.append((text, node))
        server.pages.append(page)

    server = SimpleNamespace(client_id="who queued", send_progress_text=send, shown=[], pages=[])
    return server


@pytest.fixture
def shown(server, monkeypatch):
    """Collect what is shown on the page, where node 8.0 stands inside node 8."""
    instance, texts = server, server.shown
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
        load_pack("nodes.host.comfy").ComfyHost().say([], [said], "8")
    assert caplog.messages == ["Edit, replace: a \\x1b]0;owned\\x07 cat, 100%s"]
    assert shown == [(said, "8")]


def test_a_node_in_anothers_place_does_not_write_over_its_text(shown, caplog):
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say([], ["8 frames"], "8.0")
    assert caplog.messages == ["8 frames"]
    assert shown == []


def test_a_copy_of_a_node_in_a_loop_says_it_on_the_node_of_the_page(shown, caplog):
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say([], ["8 frames"], "9.loop.2")
    assert shown == [("8 frames", "9")]


@pytest.fixture
def tell(shown):
    """Let a node tell something in ComfyUI, in a prompt of its own."""
    host = load_pack("nodes.host")
    run = copy_context()

    def told(*given):
        with host.installed(load_pack("nodes.host.comfy").ComfyHost()):
            host.tell(*given)

    return lambda *given: run.run(told, *given)


def test_lines_end_as_sentences_do_each_on_its_own_whatever_is_in_a_prompt(shown, tell):
    tell([], ["Both prompts say the same.", "", "Edit: a cat\n\nruns", "Is it? A cat!"], "8")
    tell(["", " \n"], ["", ""], "8")
    assert shown == [("Both prompts say the same.\nEdit: a cat runs.\nIs it? A cat!", "8")]


def test_remarks_come_first_and_are_marked_for_the_page_and_not_in_the_console(shown, tell, caplog):
    with caplog.at_level(logging.INFO):
        tell(["No 'zebra'\nColours: red", "No 'yak'\nColours: red"], ["8 frames"], "8")
    lines = ["\u26a0 No 'zebra'.", "\u00b7 Colours: red.", "\u26a0 No 'yak'.", "8 frames."]
    assert shown == [("\n".join(lines), "8")]  # a line that two remarks share is there once
    assert caplog.messages == ["No 'zebra'.\nColours: red.\nNo 'yak'.\nColours: red.\n8 frames."]


def test_the_console_has_a_remark_once_that_nodes_inside_each_other_make(shown, tell, caplog):
    with caplog.at_level(logging.INFO):
        tell(["The clip is short: leave size at 0", "Prompts differ"], ["3 of 8 frames"], "8")
        tell(["The clip is short: scale it"], ["Inversion of 3 frames: features"], "8.0")
        tell(["Prompts differ"], [], "8.0")
        tell(["Prompts differ"], [], "9")  # another node's own
    assert [message.splitlines() for message in caplog.messages] == [
        ["The clip is short: leave size at 0.", "Prompts differ.", "3 of 8 frames."],
        ["Inversion of 3 frames: features."],
        ["Prompts differ."],
    ]
    copy_context().run(tell, ["Prompts differ"], [], "8")
    assert caplog.messages[-1] == "Prompts differ."


def test_remarks_of_nodes_in_anothers_place_join_its_own_and_leave_its_choices(shown, tell):
    tell(["The clip is short: leave size at 0"], ["3 of 8 frames"], "8")
    tell(["The clip is short: scale it"], ["Inversion of 3 frames"], "8.0")
    assert len(shown) == 1  # neither a choice of the node inside, nor a remark in other words
    tell(["The mask is black: check it\nMore of it"], ["Edit"], "8.0")
    tell(["The mask is black: check it\nMore of it"], [], "8.0")
    tell([], ["5 of 8 frames"], "9")
    lines = ["\u26a0 The clip is short: leave size at 0.", "\u26a0 The mask is black: check it.", "\u00b7 More of it."]
    assert set(shown[1:-1]) == {("\n".join([*lines, "3 of 8 frames."]), "8")}
    assert shown[-1] == ("5 of 8 frames.", "9")


def test_only_the_page_that_queued_a_run_is_told_and_none_of_a_run_without_a_page(server, shown, tell):
    tell([], ["8 frames"], "8")
    assert server.pages == ["who queued"]
    server.client_id = None
    tell([], ["8 frames"], "8")
    assert len(shown) == 1
