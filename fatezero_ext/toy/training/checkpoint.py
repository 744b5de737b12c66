"""State of a training run in a file: written whole or not at all, so that a killed run goes on from the last one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .averaging import WeightAverage


@dataclass(frozen=True)
class Progress:
    """Everything a training step changes, and the file that it is kept in."""

    path: Path
    parameters: list[Tensor]
    average: WeightAverage
    optimizer: torch.optim.Optimizer

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        partial = self.path.with_suffix(".partial")
        state = {"step": step, "parameters": [p.detach() for p in self.parameters]}
        torch.save(state | {"average": self.average.values, "optimizer": self.optimizer.state_dict()}, partial)
        partial.rename(self.path)

    def restore(self) -> int:
        """Read the state if there is one, and return the number of steps it has done; 0 without one."""
        if not self.path.exists():
            return 0
        device = self.parameters[0].device
        state = torch.load(self.path, weights_only=True, map_location=device)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        return int(state["step"])
