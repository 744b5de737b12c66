"""Parts of a clip in which recorded attention is read."""

from __future__ import annotations

from ..attention.clip_parts import Parts, whole_clip
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError
from ..inversion.trace import Trace
from ..storage.record_store import Recomputed

FRAMES_AT_ONCE = 8
"""Frames whose maps are made together, so that a long clip needs no more room than a usual one."""


def parts_to_read(unet: NoiseModel, trace: Trace, *, runs_again: bool = False) -> Parts:
    """Return the parts of a clip in which its attention is read: small ones, also where it was inverted whole.

    runs_again: whether the source runs again even if its attention is stored; parts that would wait for each other
                then are those of the inversion
    """
    waits = (runs_again or isinstance(trace.store, Recomputed)) and unet.joins_parts
    at_once = trace.frames_at_once or (0 if waits else FRAMES_AT_ONCE)
    try:
        return unet.parts(trace.frames, at_once)
    except SettingsError:
        if trace.frames_at_once:  # a clip that was inverted in parts may be more than the device holds
            raise
        return whole_clip(trace.frames)
