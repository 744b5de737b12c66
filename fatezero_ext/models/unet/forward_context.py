"""What one forward pass needs and diffusers' signatures have no room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ...attention.functional import Attend, plain
from ...attention.sites import LayerAddress, Site


@dataclass(frozen=True)
class Call:
    """One call of an inflated UNet, as its modules see it.

    frames: frames of the clip in this call
    attend: how the attention layers of this call are computed
    sites:  every layer's site in this call
    """

    frames: int = 1
    attend: Attend = plain
    sites: Mapping[LayerAddress, Site] = field(default_factory=dict)


_OUTSIDE = Call()
_RUNNING: ContextVar[Call] = ContextVar("fatezero_call", default=_OUTSIDE)


def current() -> Call:
    """The call that runs in this thread; of calls within calls, as when a controller asks a UNet, the innermost."""
    return _RUNNING.get()


@contextmanager
def running(call: Call) -> Iterator[None]:
    """Let the modules see `call` until the block ends. Threads that share a UNet see their own calls alone."""
    token = _RUNNING.set(call)
    try:
        yield
    finally:
        _RUNNING.reset(token)
