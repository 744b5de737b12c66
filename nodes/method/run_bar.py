"""The bar of an inversion or an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import host

if TYPE_CHECKING:
    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.inversion.guided_prediction import StepDone


class RunBar:
    """A bar that counts steps; where a clip is computed in parts, frames times steps, and moves after each part.

    The user can stop the run after each call of the model.
    """

    def __init__(self, frames: int, steps: int, latents: LatentFormat, *, calls: int = 1, in_parts: bool) -> None:
        """calls: predictions of the whole clip in a step"""
        self._frames, self._calls, self._unit = frames, calls, frames if in_parts else 1
        self._done, self._computed = 0, 0
        self._bar = host.current().progress(steps * self._unit, latents)

    def on_frames(self, frames: int) -> None:
        """Count frames of the step at hand."""
        self._computed += frames
        share = self._computed / (self._frames * self._calls)
        self._bar.update(self._done + min(int(self._unit * share), self._unit - 1))

    def on_step(self, step: StepDone) -> None:
        """Count a whole step."""
        self._done, self._computed = step.done * self._unit, 0
        self._bar.update(self._done, step.preview)
