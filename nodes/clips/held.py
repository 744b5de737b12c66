"""Pixels as they go from node to node: whole, or of a long clip made where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.media.streamed import StreamedFrames
from .. import host

if TYPE_CHECKING:
    from torch import Tensor


def held(frames: StreamedFrames) -> Tensor | StreamedFrames:
    """Return pixels as the program takes them: whole, unless they are many and it can take them in parts."""
    most = host.current().most_held_bytes()
    return frames.all() if most is None or frames.nbytes <= most else frames


def is_streamed(*clips: object) -> bool:
    """Return whether any of these is made where it is used."""
    return any(isinstance(clip, StreamedFrames) for clip in clips)
