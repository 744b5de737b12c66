"""The DDIM schedule that inversion and editing share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from ..errors import ModelError, SettingsError, is_whole
from .scheduler_config import checked_scheduler

STABLE_DIFFUSION_SCHEDULER: Mapping[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
ALMOST_NOISE = 1e-6  # lower bound of alpha: at zero terminal SNR the clean estimate would divide by zero
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Schedule:
    """T DDIM steps, eta 0; step 0 is the noisiest, level k is the latent after k inversion steps.

    timesteps:       [T] training timesteps, descending
    alphas:          cumulative alphas of the training schedule
    final_alpha:     the cumulative alpha below timestep 0
    prediction_type: what the UNet predicts, "epsilon" or "v_prediction"

    Inversion and editing meet at a timestep: edit step j runs the UNet where inversion step T - 1 - j ran it, on the
    latent one level cleaner. Everything is indexed by the edit's step, so no other formula joins the two.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    final_alpha: float
    prediction_type: str = "epsilon"

    @classmethod
    def from_config(cls, config: Mapping[str, object] | None, steps: int) -> Schedule:
        """Read a diffusers scheduler config; None or an empty one: Stable Diffusion 1.x.

        steps: number of DDIM steps, 1 .. num_train_timesteps - steps_offset
        Raises SettingsError for a step count outside the schedule, ModelError for a config that DDIM cannot use.
        """
        given = checked_scheduler(config or STABLE_DIFFUSION_SCHEDULER, "the scheduler's config")
        scheduler: Any = DDIMScheduler(**given)  # diffusers types little of it
        # The offset moves the noisiest timestep up by that many; a full set of steps would leave the schedule.
        training = scheduler.config
        most = training.num_train_timesteps - training.steps_offset
        if not is_whole(steps, 1, most):
            raise SettingsError(f"steps is {steps}; it must be 1 to {most}, a whole number. 20 to 50 suit most clips.")
        prediction = training.prediction_type
        if prediction not in PREDICTION_TYPES:
            raise ModelError(
                f"the model predicts {prediction!r}; {' or '.join(PREDICTION_TYPES)} is needed. Use another checkpoint."
            )
        scheduler.set_timesteps(steps)
        alphas = tuple(scheduler.alphas_cumprod.double().tolist())
        timesteps = tuple(scheduler.timesteps.tolist())
        if prediction == "epsilon" and not alphas[timesteps[0]]:
            raise ModelError(
                "the model predicts noise on a schedule that ends in pure noise; its first step cannot be computed. "
                "Set the scheduler's prediction_type to v_prediction, or rescale_betas_zero_snr to false."
            )
        return cls(
            timesteps=timesteps,
            alphas=alphas,
            final_alpha=float(scheduler.final_alpha_cumprod),
            prediction_type=prediction,
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    def __repr__(self) -> str:
        return f"Schedule({len(self)} steps, {self.timesteps[0]}..{self.timesteps[-1]}, {self.prediction_type})"

    def denoise(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Take one DDIM step towards the clean latent, from the level of `step` to the next.

        x, prediction: same shape; returns a new tensor of that shape.
        Source: DDIM (arXiv 2010.02502), equation 12 with eta 0.
        """
        here, cleaner = self._alphas_around(step)
        if self.prediction_type == "epsilon":
            return self._move(x, prediction, origin=here, target=cleaner, predicted_at=here)
        kept, turned = _rotation(here, cleaner)
        return (x * kept).add_(prediction, alpha=turned)

    def invert(self, x: Tensor, prediction: Tensor, step: int, *, exactly: bool = False) -> Tensor:
        """Take the same step backwards: x is one level cleaner than `step`, whose timestep made the prediction.

        exactly: undo `denoise` with this very prediction, as fixed-point passes need; otherwise a predicted velocity is
                 read at x, as the DDIM inversion of libraries does. Predicted noise gives the same either way.
        """
        here, cleaner = self._alphas_around(step)
        if exactly and self.prediction_type != "epsilon":
            kept, turned = _rotation(here, cleaner)
            return (x / kept).add_(prediction, alpha=-turned / kept)
        return self._move(x, prediction, origin=cleaner, target=here, predicted_at=here)

    def clean(self, x: Tensor, prediction: Tensor, step: int) -> Tensor:
        """Estimate the clean latent implied by a prediction; x, prediction: same shape."""
        alpha = max(self.alphas[self.timesteps[step]], ALMOST_NOISE)
        signal, noise = _root(alpha), _root(1 - alpha)
        if self.prediction_type == "epsilon":
            return (x - prediction * noise) / signal
        return x * signal - prediction * noise

    def renew(self, x: Tensor, clean: Tensor, noise: Tensor, step: int, share: float) -> Tensor:
        """Make a share of the noise new in what `denoise` gave: DDIM with a sigma, whose noise is given.

        x:     scaled latents one level cleaner than `step`
        clean: the estimate of `clean` at that step
        noise: of unit variance, of the same shape as they or of one that broadcasts to it
        share: 0 (none is new) to 1 (all is)
        Source: DDIM (arXiv 2010.02502), equation 12 with sigma = share * sqrt(1 - alpha).
        """
        _, alpha = self._alphas_around(step)
        signal = clean * _root(alpha)
        return (x - signal) * _root(1 - share**2) + signal + noise * (share * _root(1 - alpha))

    @cached_property
    def _stride(self) -> int:
        return len(self.alphas) // len(self)

    def _alphas_around(self, step: int) -> tuple[float, float]:
        """Return the cumulative alphas at the step's timestep and one stride below it."""
        timestep = self.timesteps[step]
        below = min(timestep - self._stride, len(self.alphas) - 1)
        return self.alphas[timestep], self.alphas[below] if below >= 0 else self.final_alpha

    def _move(self, x: Tensor, prediction: Tensor, *, origin: float, target: float, predicted_at: float) -> Tensor:
        """Estimate the clean latent at the origin's alpha, add noise up to the target's; linear in both tensors."""
        if self.prediction_type == "epsilon":
            noise_of_x, noise_of_prediction = 0.0, 1.0
        else:  # v = sqrt(a) eps - sqrt(1 - a) x0, so eps = sqrt(1 - a) x + sqrt(a) v
            noise_of_x, noise_of_prediction = _root(1 - predicted_at), _root(predicted_at)
        rescale = _root(target / origin)
        noise = _root(1 - target) - rescale * _root(1 - origin)
        return (x * (rescale + noise * noise_of_x)).add_(prediction, alpha=noise * noise_of_prediction)


def _rotation(here: float, cleaner: float) -> tuple[float, float]:
    """Return the factors of x and of a velocity in the step between two alphas.

    A rotation between the two levels; unlike the general form it holds where the origin is pure noise.
    """
    kept = _root(here * cleaner) + _root((1 - here) * (1 - cleaner))
    return kept, _root((1 - cleaner) * here) - _root(cleaner * (1 - here))


def _root(x: float) -> float:
    root: float = x**0.5  # not math.sqrt: the very bits that the reference runs were computed with
    return root
