"""State of a training run in a file: written whole or not at all, so that a killed run goes on from the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError, SettingsError
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
        state = read_checkpoint(self.path, self.parameters, map_location=device)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = state["average"]
        return int(state["step"])


def check_checkpoint(path: Path, parameters: Sequence[Tensor], steps: int) -> None:
    """Raise unless a run of `steps` steps can go on from the checkpoint at `path`.

    parameters: of the model that is trained, of which the shapes alone count
    Raises ModelError for weights of another model, SettingsError where more steps are done than are asked for.
    """
    done = read_checkpoint(path, parameters, map_location="cpu", mmap=True)["step"]
    if done > steps:
        raise SettingsError(
            f"{steps} steps are asked for; {path} has done {done}. Ask for more of them, or name another --work folder."
        )


def read_checkpoint(path: Path, parameters: Sequence[Tensor], **how: Any) -> dict[str, Any]:  # noqa: ANN401 - torch.load's
    """Read a checkpoint of a model with such parameters; raise ModelError if it has others, or cannot be read."""
    advice = "Give the options it was made with, or name another --work folder."
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, **how)
        shapes = [list(value.shape) for value in state["parameters"]]
    except Exception as error:  # torch names no errors of its own for damaged files
        raise ModelError(f"{path} is no checkpoint that can be read ({error}). Delete it, or restore it.") from error
    needed = [list(parameter.shape) for parameter in parameters]
    if len(shapes) != len(needed):
        raise ModelError(f"{path} has {len(shapes)} weights; the model has {len(needed)}. {advice}")
    for found, need in zip(shapes, needed, strict=True):
        if found != need:
            raise ModelError(
                f"{path} has a weight of shape {found}; the model needs {need} there: it is of another size, or knows "
                f"other words. {advice}"
            )
    return state
