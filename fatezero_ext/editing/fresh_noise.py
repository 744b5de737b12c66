"""Fresh noise for what an edit draws anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..diffusion.schedule import Schedule


@dataclass(frozen=True)
class FreshNoise:
    """Noise of a seed in place of what an inversion found, where an edit is free to differ.

    The noise that an inversion finds holds the source's layout, and of an even ground it is far from Gaussian: what is
    drawn from it comes out even too, or as what stood there. Fresh noise is one for all frames, so that they agree.

    schedule: of the inversion
    seed:     of the noise
    share:    of fresh noise in what is drawn from, 0..1
    begins:   step after which it is there: the first that knows what is free to differ
    """

    schedule: Schedule
    seed: int
    share: float
    begins: int

    def put_into(self, x: Tensor, step: int, clean: Callable[[], Tensor], free: Callable[[], Tensor | None]) -> Tensor:
        """Return an edit's latents after a step; after the last one it is too late, and they stay as they are.

        x:     [frames, channels, height, width]
        clean: makes the estimate of the clean latents, of the same shape
        free:  makes the bool [frames, height, width] of where the edit may differ; None: everywhere
        """
        if step != self.begins or step == len(self.schedule) - 1:
            return x
        # Made on the CPU, where a seed gives the same everywhere.
        generator = torch.Generator("cpu").manual_seed(self.seed)
        noise = torch.randn((1, *x.shape[1:]), generator=generator, device="cpu", dtype=torch.float32).to(x)
        renewed, may_differ = self.schedule.renew(x, clean(), noise, step, self.share), free()
        return renewed if may_differ is None else renewed.where(may_differ[:, None], x)
