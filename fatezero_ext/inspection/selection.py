"""Choice of the recorded maps that are averaged to be looked at."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    from ..prompts.prompt import Window


@dataclass(frozen=True)
class Reading:
    """Choice of the recorded maps that are averaged.

    window:    fraction of the steps, 0..1, from the noisiest on; at least one step is always read
    downscale: latent cells per map cell; None: a quarter of the latents, finer for small frames, as for blend masks
    """

    window: Window = (0.0, 1.0)
    downscale: int | None = None

    def __post_init__(self) -> None:
        window = self.window
        if not isinstance(window, (tuple, list)) or [isinstance(bound, Real) for bound in window] != [True, True]:
            raise SettingsError(
                f"the steps to read are {reprlib.repr(window)}; two fractions, a start and an end, are needed. Write "
                f"window=(0.0, 0.5) for the noisier half."
            )
        start, end = window
        if not 0 <= start <= end <= 1:
            raise SettingsError(
                f"the steps to read are {start} to {end}; fractions with 0 <= start <= end <= 1 are needed. "
                f"Use 0 to 1 for all of them."
            )

    def steps(self, count: int) -> range:
        """Return the steps to read of `count`: int(start * count) up to int(end * count), at least one."""
        start, end = self.window
        first = min(int(start * count), count - 1)
        return range(first, max(int(end * count), first + 1))
