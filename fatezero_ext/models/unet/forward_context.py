"""State of one forward pass for which diffusers' signatures have no room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import nn

from ...attention.functional import Attend, plain
from ...attention.sites import LayerAddress, Site


@dataclass(frozen=True)
class Call:
    """A call of an inflated UNet, as its modules see it.

    frames: frames of the clip in this call
    attend: how the attention layers of this call are computed
    sites:  every layer's site in this call
    pictures: the call computes single pictures, which layers over time leave as they are, and no clips of one frame
    apart: modules whose layers over time are computed outside the call, for all parts of a clip
    """

    frames: int = 1
    attend: Attend = plain
    sites: Mapping[LayerAddress, Site] = field(default_factory=dict)
    pictures: bool = False
    apart: frozenset[nn.Module] = frozenset()

    def leaves_out(self, module: nn.Module) -> bool:
        """Return whether a module does not compute its layer over time."""
        return self.pictures or module in self.apart


_OUTSIDE = Call()
_RUNNING: ContextVar[Call] = ContextVar("fatezero_call", default=_OUTSIDE)


def current() -> Call:
    """Return the call that runs in this thread; the innermost if a controller calls a UNet within a call."""
    return _RUNNING.get()


@contextmanager
def running(call: Call) -> Iterator[None]:
    """Let the modules see `call` until the block ends. Threads that share a UNet see only their own calls."""
    token = _RUNNING.set(call)
    try:
        yield
    finally:
        _RUNNING.reset(token)
