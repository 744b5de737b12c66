"""AdamW on float32 masters of the trained weights, whatever the network computes in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .settings import TuningSettings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's numbers of each weight."""
SCALER = ("scale", "_growth_tracker")
"""Names of the loss scale's numbers in the state of torch's GradScaler."""


class MasterOptimizer:
    """Updates the trained weights of a network; half-precision ones by float32 copies of them, the masters.

    masters: by name; of a float32 network the very weights
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], settings: TuningSettings) -> None:
        self._weights, self._settings = weights, settings
        self.masters = {name: x if x.dtype == torch.float32 else _master(x) for name, x in weights.items()}
        self._adam = torch.optim.AdamW(
            self.masters.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        first = next(iter(weights.values()))
        # Gradients of float16 vanish below 6e-8: the loss is scaled up by what they bear.
        self._scaler = torch.amp.GradScaler(first.device.type, enabled=first.dtype == torch.float16)
        self.updates = 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the masters."""
        self._scaler.scale(loss / self._settings.accumulation).backward()
        for name, master in self.masters.items():
            weight = self._weights[name]
            if master is weight or weight.grad is None:
                continue
            grad = weight.grad.float()
            master.grad = grad if master.grad is None else master.grad.add_(grad)
            weight.grad = None

    @torch.no_grad()
    def update(self) -> bool:
        """Clip the gradients and update the weights; return whether the gradients can be used.

        Where float16 gradients overflow, nothing is updated and the loss is scaled less from then on; they cannot be
        used where even the loss as it is makes them overflow.
        """
        masters, scale = list(self.masters.values()), self._scaler.get_scale()
        self._scaler.unscale_(self._adam)
        norm = torch.nn.utils.clip_grad_norm_(masters, self._settings.max_grad_norm)
        if not (self._scaler.is_enabled() or norm.isfinite()):
            return False
        for group in self._adam.param_groups:
            group["lr"] = self._rate()
        self._scaler.step(self._adam)
        self._scaler.update()
        self._adam.zero_grad(set_to_none=True)
        if self._scaler.get_scale() < scale:
            return self._scaler.get_scale() >= 1
        self.updates += 1
        for name, master in self.masters.items():
            if master is not self._weights[name]:
                self._weights[name].copy_(master)
        return True

    def state(self) -> dict[str, Tensor]:
        """Return the masters and all that decides the next update, under names of their own."""
        tensors = {f"weight.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            known = self._adam.state.get(master)
            for moment in MOMENTS:
                none = torch.zeros(()) if moment == "step" else torch.zeros_like(master)
                tensors[f"{moment}.{name}"] = known[moment] if known else none
        scale = self._scaler.state_dict()
        tensors["updates"] = torch.tensor(self.updates)
        tensors["scaler"] = torch.tensor([float(scale[name]) for name in SCALER if scale], dtype=torch.float64)
        return tensors

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken; its tensors are copied."""
        self.put({name: state[f"weight.{name}"] for name in self.masters})
        for name, master in self.masters.items():
            # AdamW keeps its count of steps on the CPU, and the moments where the weight is.
            self._adam.state[master] = {
                moment: state[f"{moment}.{name}"].to("cpu" if moment == "step" else master.device, copy=True)
                for moment in MOMENTS
            }
        self.updates = int(state["updates"])
        if len(state["scaler"]):
            scale, growth = state["scaler"].tolist()
            self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights by name into the masters and into the network."""
        for name, master in self.masters.items():
            master.copy_(weights[name])
            if master is not self._weights[name]:
                self._weights[name].copy_(master)

    def finite(self) -> bool:
        """Return whether all trained weights are finite, also in the network's own type."""
        return all(bool(x.isfinite().all()) for x in (*self.masters.values(), *self._weights.values()))

    def _rate(self) -> float:
        """Rate of the next update. Source: diffusers, constant_with_warmup."""
        warm = self._settings.warmup_steps
        return self._settings.learning_rate * min(1.0, self.updates / warm if warm else 1.0)


def _master(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(weight.detach().float())
