"""What nodes say reaches ComfyUI's console as text that steers no terminal."""

import logging
import sys
from types import SimpleNamespace

from fatezero_ext.cli.node_pack import load_pack


def test_a_prompt_steers_no_terminal_in_comfyuis_console(monkeypatch, caplog):
    shown = []
    instance = SimpleNamespace(send_progress_text=lambda text, node: shown.append((text, node)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    said = "Edit, replace: a \x1b]0;owned\x07 cat, 100%s"
    with caplog.at_level(logging.INFO):
        load_pack("nodes.host.comfy").ComfyHost().say(said, "8")
    assert caplog.messages == ["Edit, replace: a \\x1b]0;owned\\x07 cat, 100%s"]
    assert shown == [(said, "8")]
