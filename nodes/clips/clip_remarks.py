"""Sentences about a clip that nodes show before their work: what is lost of it, and what makes poor results likely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from ...fatezero_ext.errors import VideoError
from ...fatezero_ext.media.audio import Sound, SoundFile, read_sound
from ..checking.graph_texts import Graph, link_of

if TYPE_CHECKING:
    from torch import Tensor

SHORT = 0.5
"""Seconds below which a clip is over before it is seen."""


def too_short(frames: int, seconds: float = SHORT) -> str:
    """Return a remark on a clip that is over at once; '' for others, and for those of which the length is not known."""
    if frames == 1:
        return "The clip is one frame, which has no motion to keep."
    return f"The clip lasts {seconds:.2g} seconds: take more frames, or a longer clip." if seconds < SHORT else ""


def plain_mask(mask: Iterable[Tensor]) -> str:
    """Return a remark on a mask that keeps all of an edit or nothing of it; '' for others.

    mask: its parts, above 0.5 where the edit stays; those behind the first that tells are not made
    """
    somewhere, everywhere = False, True
    for part in mask:
        edited = part > 0.5
        somewhere, everywhere = somewhere or bool(edited.any()), everywhere and bool(edited.all())
        if somewhere and not everywhere:
            return ""
    if not somewhere:
        return (
            "The mask is black everywhere: nothing of the edit is kept, the result is the source. Check what makes the "
            "mask."
        )
    return "The mask is white everywhere: all of the edit is kept, no pixel of the source comes back."


def lost_sound(sound: Sound | None, seconds: Fraction | float) -> str:
    """Return a remark on sound that cannot be decoded; '' for any other, and without any."""
    if isinstance(sound, SoundFile):
        try:
            read_sound(sound, Fraction(seconds))
        except VideoError as error:
            return f"The clip's sound is left out: {error}"
    return ""


def unheard_sound(graph: Graph, node_id: str | None) -> str:
    """Return a remark on sound in a graph none of whose nodes takes any; '' where one does, or may.

    graph:   the running prompt in the API's format
    node_id: of the node that gives the sound; one that another has put in its place is not in that graph
    """
    if node_id not in graph:
        return ""
    inputs = [node.get("inputs") for name, node in graph.items() if name != node_id]
    if any(isinstance(each, Mapping) and link_of(each.get("audio")) is not None for each in inputs):
        return ""
    return "The clip has sound, which goes nowhere: connect audio to Create Video, or the result is silent."
