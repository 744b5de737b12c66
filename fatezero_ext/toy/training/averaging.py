"""Exponential moving average of weights, the result of a training run."""

import torch
from torch import Tensor


class WeightAverage:
    """Running average of some parameters; `copy_to` puts it into other ones."""

    def __init__(self, parameters: list[Tensor], decay: float) -> None:
        self.values = [p.detach().clone() for p in parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, parameters: list[Tensor], step: int) -> None:
        """Move towards the parameters. step: 0-based; the first steps are averaged over a shorter time."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: list[Tensor]) -> None:
        torch._foreach_copy_(parameters, self.values)
