"""The bar of an inversion or an edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import host

if TYPE_CHECKING:
    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.inversion.guided_prediction import StepDone


class RunBar:
    """A bar that counts frames times steps, and moves after each call of the model.

    The user can stop the run there.
    """

    def __init__(self, frames: int, calls: Sequence[int], latents: LatentFormat) -> None:
        """calls: predictions of the whole clip in each step"""
        self._frames, self._calls = frames, calls
        self._step, self._computed = 0, 0
        self._bar = host.current().progress(len(calls) * frames, latents)

    def on_frames(self, frames: int) -> None:
        """Count frames of the step at hand."""
        if self._step == len(self._calls):  # another draft begins
            self._step = 0
        self._computed += frames
        of_step = min(self._computed // self._calls[self._step], self._frames - 1)  # a part may be computed again
        self._bar.update(self._step * self._frames + of_step)

    def on_step(self, step: StepDone) -> None:
        """Count a whole step."""
        self._step, self._computed = step.done, 0
        self._bar.update(self._step * self._frames, step.preview)
