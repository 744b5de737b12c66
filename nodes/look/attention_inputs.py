"""Widgets that the nodes of recorded attention share, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.inspection.selection import Reading
from ..api import advanced, io
from ..checking.verdicts import Found
from ..host import current as host
from ..method.edit_widgets import RESOLUTIONS, window

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.inspection.heat_maps import OnRead
    from ...fatezero_ext.inversion.trace import Trace


def step_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "from_step",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="From this share of the steps on; 0 is the noisiest step. At least one step is read.",
        ),
        io.Float.Input(
            "to_step",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Up to this share of the steps; 1 is the clean clip.",
        ),
    ]


def picture_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "picture_height", default=256, min=64, max=1024, step=2, tooltip="Height of each small picture in pixels."
        ),
        advanced(
            io.Combo.Input(
                "resolution",
                options=list(RESOLUTIONS),
                default="auto",
                tooltip="Resolution of the maps, relative to the latents. auto: the one P2P Edit reads its masks from, "
                "1/4, finer for small frames.",
            )
        ),
        io.Image.Input(
            "images", optional=True, tooltip="The clip's frames, to draw over. Without them heat is drawn alone."
        ),
    ]


def window_mistakes(start: float | None, end: float | None) -> Found:
    """What is wrong with a window; a widget fed by a link is None and is checked when it runs."""
    found = Found()
    inside = [bound is None or isinstance(bound, (int, float)) and 0 <= bound <= 1 for bound in (start, end)]
    found.of("to_step" if inside == [True, False] else "from_step", Reading, window(start, end))
    return found


def reading_of(start: float, end: float, resolution: str) -> Reading:
    return Reading((start, end), RESOLUTIONS[resolution])


def step_reporter(trace: Trace, reading: Reading) -> OnRead:
    """Moves the node's bar, step by step; ends the run there when the user stops it."""
    bar = host.current().progress(len(reading.steps(len(trace.schedule))))
    return lambda done, _total: bar.update(done)


def cells_of(trace: Trace) -> tuple[int, int]:
    height, width = trace.latents.shape[-2:]
    return height, width


def source_frames(trace: Trace, images: Tensor | None) -> Tensor | None:
    from ...fatezero_ext.pictures.attention_sheets import frames_like_latents

    return None if images is None else frames_like_latents(images.cpu(), trace.frames, cells_of(trace))
