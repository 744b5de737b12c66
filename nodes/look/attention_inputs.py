"""Widgets that the nodes of recorded attention share, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...fatezero_ext.inspection.selection import Reading
from .. import host
from ..api import io
from ..checking.verdicts import FirstMistakes
from ..first_use import importing
from ..method.edit_widgets import RESOLUTIONS, resolution_widget, share_widget, window, wrong_bound

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.inspection.heat_maps import OnRead
    from ...fatezero_ext.inversion.trace import Trace


def step_inputs() -> list[io.Input]:
    """Make the widgets for a window of steps."""
    return [
        share_widget(
            "from_step", 0.0, "From this share of the steps on; 0 is the noisiest step. At least one step is read."
        ),
        share_widget("to_step", 1.0, "Up to this share of the steps; 1 is the clean clip."),
    ]


def picture_inputs() -> list[io.Input]:
    """Make the inputs for the pictures that are drawn."""
    return [
        io.Int.Input(
            "picture_height", default=256, min=64, max=1024, step=2, tooltip="Height of each small picture in pixels."
        ),
        resolution_widget(
            "resolution",
            "Resolution of the maps, relative to the latents. auto: the one Prompt-to-Prompt Edit reads its masks "
            "from, 1/4, finer for small frames.",
        ),
        io.Image.Input(
            "images", optional=True, tooltip="The clip's frames, to draw over. Without them heat is drawn alone."
        ),
    ]


def window_mistakes(start: float | None, end: float | None) -> FirstMistakes:
    """Return the mistakes of a window; a widget fed by a link is None and is checked when it runs."""
    mistakes = FirstMistakes()
    mistakes.check({"start": "from_step", "end": "to_step"}[wrong_bound(start, end)], Reading, window(start, end))
    return mistakes


def reading_of(start: float, end: float, resolution: str) -> Reading:
    """Return the choice of steps and resolution that the widgets hold."""
    return Reading((start, end), RESOLUTIONS[resolution])


def step_reporter(trace: Trace, reading: Reading) -> OnRead:
    """Return a function that moves the node's bar, and raises there when the user stops the run."""
    bar = host.current().progress(len(reading.steps(len(trace.schedule))))
    return lambda done, _total: bar.update(done)


def cells_of(trace: Trace) -> tuple[int, int]:
    """Return height and width of the clip in cells of its latents."""
    height, width = trace.latents.shape[-2:]
    return height, width


def source_frames(trace: Trace, images: Tensor | None) -> Tensor | None:
    """Return the pictures to draw over, cropped like the latents; None if none are connected."""
    with importing():
        from ...fatezero_ext.pictures.attention_sheets import frames_like_latents

    return None if images is None else frames_like_latents(images.cpu(), trace.frames, cells_of(trace))
