"""The random choices of a training run: timesteps, noise, and the order of class pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import StoreError


@dataclass(frozen=True)
class Draw:
    """Random start of one prediction of a training step.

    timesteps: of the training schedule, [1] for a clip, [pictures] for pictures
    noise:     shaped like the latents
    first:     of consecutive class pictures, their number; 0 for a clip
    """

    timesteps: Tensor
    noise: Tensor
    first: int = 0


class Draws(Protocol):
    """Source of the random choices of training."""

    def clip(self, shape: torch.Size) -> Draw:
        """Draw a timestep and the noise for a clip's latents."""

    def pictures(self, available: int, shape: torch.Size) -> Draw:
        """Draw which of the available class pictures are next, their timesteps and noise; shape: of their latents."""

    def state(self) -> dict[str, Tensor]:
        """Return all that decides what is drawn next."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where a state was taken."""


class RandomDraws:
    """Choices of one seeded generator on the CPU, the same on every device.

    Class pictures come in runs of consecutive ones, whose beginnings are shuffled anew once all have come.
    Source: FateZero's ImageSequenceDataset under a shuffling DataLoader.
    """

    def __init__(self, seed: int, training_steps: int) -> None:
        """training_steps: timesteps of the noise schedule."""
        self._generator = torch.Generator().manual_seed(seed)
        self._training_steps = training_steps
        self._order = torch.zeros(0, dtype=torch.int64)

    def clip(self, shape: torch.Size) -> Draw:
        return self._draw(1, shape)

    def pictures(self, available: int, shape: torch.Size) -> Draw:
        if not len(self._order):
            self._order = torch.randperm(available, generator=self._generator)
        index, self._order = int(self._order[0]), self._order[1:]
        return self._draw(shape[0], shape, index % max(1, available - shape[0]))

    def state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state(), "order": self._order.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        try:
            self._generator.set_state(state["generator"])
        except RuntimeError as error:
            raise StoreError(
                f"the run's random numbers cannot be restored ({error}): its state is damaged. Remove it to begin anew."
            ) from error
        self._order = state["order"]

    def _draw(self, timesteps: int, shape: torch.Size, first: int = 0) -> Draw:
        noise = torch.randn(shape, generator=self._generator)
        return Draw(torch.randint(0, self._training_steps, (timesteps,), generator=self._generator), noise, first)
