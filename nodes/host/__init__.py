"""The program that nodes run in: ComfyUI, the headless runner (which installs itself), or a plain Python session.

Nodes ask it by `host.current().device()`; `protocol.Host` lists the questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..api import IN_COMFYUI
from .comfy import ComfyHost
from .protocol import Host
from .python import PythonHost

SENTENCE_ENDS = (".", "!", "?")
_INSTALLED: ContextVar[Host | None] = ContextVar("fatezero_host", default=None)


@contextmanager
def installed(host: Host) -> Iterator[None]:
    """Let nodes run in `host` until the block ends."""
    token = _INSTALLED.set(host)
    try:
        yield
    finally:
        _INSTALLED.reset(token)


def current() -> Host:
    """Return the program that nodes run in now."""
    return _INSTALLED.get() or (ComfyHost() if IN_COMFYUI else PythonHost())


def tell(lines: Iterable[str], node_id: str | None) -> None:
    """Show lines while the node of that id runs; they come in order of weight, remarks before choices.

    Each becomes one line that ends as a sentence does, whatever prompt is in it; those that are '' are left out.
    """
    whole = [" ".join(line.split()) for line in lines]
    if told := "\n".join(line if line.endswith(SENTENCE_ENDS) else f"{line}." for line in whole if line):
        current().say(told, node_id)
