"""The steps of a training run: noise is predicted in a whole clip, and in single pictures of a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from ..attention.functional import plain
from ..attention.kernels import memory_efficient
from ..diffusion.schedule import STABLE_DIFFUSION_SCHEDULER
from ..diffusion.scheduler_config import checked_scheduler
from ..errors import ModelError
from ..models.unet.model import Pseudo3DUNet
from .draws import Draw, Draws
from .optimizer import MasterOptimizer
from .settings import TuningSettings
from .trainable import structure, trainable, trained_names

OF_CLIP, OF_PICTURES = "clip", "pictures"
"""Names of the lessons in a state."""
PREVIEW_SHARE = 0.6
"""Noise of previews, as a share of the training schedule: much is gone, and what the model knows shows."""


@dataclass(frozen=True)
class Lesson:
    """Latents and the text that describes them.

    latents: [frames, channels, height, width], scaled
    text:    [1, tokens, width]
    """

    latents: Tensor
    text: Tensor


class Training:
    """A run in progress: the network, its optimizer and its random choices.

    losses: of the clip, one a step
    """

    def __init__(
        self,
        unet: Pseudo3DUNet,
        settings: TuningSettings,
        draws: Draws,
        *,
        clip: Lesson,
        pictures: Lesson | None = None,
        name: str = "tuned",
    ) -> None:
        """Copy the UNet for training; call it, as all else here, outside of inference mode and with gradients on.

        pictures: of a class, each with the class's text
        name:     of the tuned UNet
        """
        self._source, self._settings, self._draws = unet, settings, draws
        self._name = name
        self._twin = trainable(unet, settings, name)
        self._scheduler = noise_scheduler(unet)
        self._clip, self._pictures = _on(unet, clip), None if pictures is None else _on(unet, pictures)
        parameters = dict(self._twin.net.named_parameters())
        self.trained = trained_names(self._twin, settings)
        weights = {name: parameters[name] for name in self.trained}
        assert all(isinstance(x, nn.Parameter) for x in weights.values())
        self.optimizer = MasterOptimizer(weights, settings)
        self.losses: list[float] = []

    def step(self) -> float:
        """Update the weights on pictures of the class, where there are any, and on the clip; return the clip's loss.

        Raises ModelError where the loss or its gradients are not finite; that update is then not made.
        """
        if self._pictures is not None:
            self._update(self._loss_of_pictures)
        self.losses.append(self._update(self._loss_of_clip))
        return self.losses[-1]

    def tuned(self) -> Pseudo3DUNet:
        """Return the UNet as trained so far. What is not trained shares the memory of the UNet that came in."""
        unet = structure(self._source, self._settings, self._name)
        weights = self._twin.net.state_dict(keep_vars=True)
        unet.net.load_state_dict(
            {key: x.detach().clone() if key in self.optimizer.masters else x.detach() for key, x in weights.items()},
            assign=True,
        )
        unet.net.requires_grad_(False)
        return unet

    def check(self) -> None:
        """Raise ModelError unless the weights, and what they predict of the clip, are finite."""
        if not (self.optimizer.finite() and self.preview().isfinite().all()):
            raise self._gone_astray(len(self.losses), "the weights give numbers that are not finite")

    @torch.no_grad()
    def preview(self) -> Tensor:
        """Return the clean latents [1, ..] that are seen in the middle frame under the same noise each time."""
        latents = self._clip.latents
        timesteps = torch.tensor([int(PREVIEW_SHARE * self._scheduler.config["num_train_timesteps"])])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        noisy, _target = self._noised(latents, Draw(timesteps, noise))
        predicted = self._predict(noisy, timesteps, self._clip.text, frames=len(latents))
        alpha = self._scheduler.alphas_cumprod[timesteps].to(noisy)
        middle = slice(len(latents) // 2, len(latents) // 2 + 1)
        x, said = noisy[middle], predicted[middle]
        if self._scheduler.config["prediction_type"] == "v_prediction":
            return alpha.sqrt() * x - (1 - alpha).sqrt() * said
        return (x - (1 - alpha).sqrt() * said) / alpha.sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return all that decides the steps to come, and the losses so far."""
        losses = torch.tensor(self.losses, dtype=torch.float64)
        return {**self.optimizer.state(), **self._draws.state(), **self.lessons(), "losses": losses}

    def lessons(self) -> dict[str, Tensor]:
        """Return what is learnt from, as in a state."""
        lessons = {OF_CLIP: self._clip} | ({OF_PICTURES: self._pictures} if self._pictures else {})
        named = ((f"{name}.{part}", x) for name, lesson in lessons.items() for part, x in vars(lesson).items())
        return dict(named)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where a state was taken, on its latents and texts: another device may compute theirs a little apart."""
        self.optimizer.restore(state)
        self._draws.restore(state)
        self._clip = self._lesson(state, OF_CLIP)
        self._pictures = self._pictures and self._lesson(state, OF_PICTURES)
        self.losses = state["losses"].tolist()

    def put(self, weights: Mapping[str, Tensor], losses: list[float]) -> None:
        """Take the trained weights, by name, and the losses of a finished run."""
        self.optimizer.put(weights)
        self.losses = list(losses)

    def _lesson(self, state: Mapping[str, Tensor], name: str) -> Lesson:
        return _on(self._source, Lesson(state[f"{name}.latents"], state[f"{name}.text"]))

    def _update(self, loss_of_draw: Callable[[], Tensor]) -> float:
        """Update the weights once; return the mean loss."""
        losses = []
        for _ in range(self._settings.accumulation):
            loss = loss_of_draw()
            losses.append(loss.item())
            if not loss.isfinite():
                raise self._gone_astray(len(self.losses) + 1, f"the loss is {losses[-1]}")
            self.optimizer.backward(loss)
        if not self.optimizer.update():
            raise self._gone_astray(len(self.losses) + 1, "the gradients are not finite")
        return sum(losses) / len(losses)

    def _loss_of_clip(self) -> Tensor:
        clip = self._clip
        draw = self._draws.clip(clip.latents.shape)
        noisy, target = self._noised(clip.latents, draw)
        predicted = self._predict(noisy, draw.timesteps, clip.text, frames=len(noisy))
        return F.mse_loss(predicted.float(), target.float())

    def _loss_of_pictures(self) -> Tensor:
        """Loss of as many pictures as the clip has frames, each at a timestep of its own, without layers over time."""
        pictures = self._pictures
        assert pictures is not None
        count = min(len(self._clip.latents), len(pictures.latents))
        draw = self._draws.pictures(len(pictures.latents), pictures.latents[:count].shape)
        noisy, target = self._noised(pictures.latents[draw.first : draw.first + count], draw)
        text = pictures.text.expand(count, -1, -1)
        predicted = self._predict(noisy, draw.timesteps, text, frames=1, pictures=True)
        return F.mse_loss(predicted.float(), target.float())

    def _noised(self, latents: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the noisy latents and what should be predicted of them."""
        noise, timesteps = draw.noise.to(latents), draw.timesteps.to(latents.device)
        noisy: Tensor = self._scheduler.add_noise(latents, noise, timesteps)
        if self._scheduler.config["prediction_type"] == "epsilon":
            return noisy, noise
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, timesteps)
        return noisy, velocity

    def _predict(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, *, frames: int, pictures: bool = False
    ) -> Tensor:
        # Other kernels would keep whole attention maps for the backward pass.
        kernel = self._source.kernel if self._source.kernel is memory_efficient else plain
        return self._twin(noisy, timesteps.to(noisy.device), text, frames=frames, attend=kernel, pictures=pictures)

    def _gone_astray(self, step: int, what: str) -> ModelError:
        return ModelError(
            f"step {step}: {what}; a finite number is needed. The weights have left what the model "
            f"knows: lower the learning rate ({self._settings.learning_rate:g}), or load the model in float32 if it "
            f"is in float16."
        )


def noise_scheduler(unet: Pseudo3DUNet) -> Any:  # noqa: ANN401 - diffusers types little of it
    """Return diffusers' scheduler with the noise schedule that the model was trained on."""
    config = checked_scheduler(unet.scheduler or STABLE_DIFFUSION_SCHEDULER, "the scheduler's config")
    return DDPMScheduler.from_config(config)


def _on(unet: Pseudo3DUNet, lesson: Lesson) -> Lesson:
    """Copy a lesson to the UNet's device, out of inference mode, in the order in which a saved state gives it back.

    Kernels round otherwise for tensors that lie otherwise: a run that goes on would not come to the same bits.
    """
    latents, text = (
        x.to(unet.device, torch.float32, copy=True, memory_format=torch.contiguous_format)
        for x in (lesson.latents, lesson.text)
    )
    return Lesson(latents, text.to(unet.dtype))
