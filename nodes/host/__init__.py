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
from .told import sentences

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


def tell(remarks: Iterable[str], choices: Iterable[str], node_id: str | None) -> None:
    """Show what a node has to say while the node of that id runs.

    remarks: what makes poor results likely, in order of weight; further lines of one, as lists of words, stand below it
    choices: what was chosen, and what is about to be done, a line each whatever prompt is in it
    Each line ends as a sentence does; texts that are '' are left out.
    """
    warned, chosen = sentences(remarks), sentences(" ".join(choice.split()) for choice in choices)
    if warned or chosen:
        current().say(warned, chosen, node_id)
