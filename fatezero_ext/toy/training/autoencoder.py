"""The toy VAE: 64x64 pixels to 16x16x4 latents of unit variance at Stable Diffusion's scaling factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from ..world.render import object_mask, render
from ..world.world import SIZE, scene_at
from .averaging import WeightAverage
from .parallel import average_gradients, launch

SCALING = 0.18215
LATENT_NOISE = 0.07
"""Noise added while training, as a share of a channel's spread; a KL term instead destroys a latent this small."""
LATENT_DECAY = 5e-4
OBJECT_WEIGHT = 4.0
"""Pixels of the object against pixels of the background; an object covers about a tenth of a frame."""
BETAS = (0.9, 0.99)
AVERAGE_DECAY = 0.998
_HELD_OUT_SEED = 90_000
_MEASURED_FRAMES = 256


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of a VAE's training.

    start: folder of a VAE whose encoder, and so its latents, stay as they are; None trains all of a fresh one
    """

    steps: int
    rate: float
    batch: int = 8
    seed: int = 0
    start: Path | None = None


def build_autoencoder() -> AutoencoderKL:
    """Build an untrained VAE of the toy's layout."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=SCALING,
    )


def frames_and_masks(seed: int, indices: range) -> tuple[Tensor, Tensor]:
    """Draw scenes for training.

    Returns frames [n, 3, H, W] in -1..1 and object masks [n, 1, H, W] in 0..1.
    """
    scenes = [scene_at(seed, index) for index in indices]
    frames = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)
    return frames * 2 - 1, torch.from_numpy(np.stack([object_mask(scene) for scene in scenes]))[:, None]


def reconstruction_loss(decoded: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
    """Compute L1 + 2 MSE with more weight on the object. decoded, frames: [n, 3, H, W]; masks: [n, 1, H, W]."""
    error = decoded - frames
    weight = 1 + (OBJECT_WEIGHT - 1) * masks
    return (weight * (error.abs() + 2 * error**2)).mean() / weight.mean()


def train_autoencoder(folder: Path, training: AutoencoderTraining, workers: int, report: Callable[[str], None]) -> None:
    """Train a VAE, or the decoder of one, and save it in `folder`."""
    launch(_train, workers, folder, training, report)


def _train(rank: int, workers: int, folder: Path, training: AutoencoderTraining, report: Callable[[str], None]) -> None:
    torch.manual_seed(training.seed)
    vae: AutoencoderKL = (
        build_autoencoder() if training.start is None else AutoencoderKL.from_pretrained(training.start)
    )
    into, outof = _latent_convolutions(vae)
    trained: list[Tensor] = [*vae.decoder.parameters(), *outof.parameters()]
    if training.start is None:
        trained += [*vae.encoder.parameters(), *into.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=training.rate, betas=BETAS, weight_decay=1e-4, fused=True)
    average = WeightAverage(trained, AVERAGE_DECAY)
    share = training.batch // workers
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.rate * _rate(step, training.steps)
        start = step * training.batch + rank * share
        loss = _loss(vae, training, range(start, start + share))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(trained, step)
        if rank == 0 and step % 250 == 0:
            report(f"vae step {step}/{training.steps} loss {loss.item():.4f}")
    if rank == 0:
        average.copy_to(trained)
        if training.start is None:
            fold_normalisation(vae)
        report(f"vae held-out PSNR {held_out_psnr(vae):.2f} dB")
        vae.save_pretrained(folder)


def _loss(vae: AutoencoderKL, training: AutoencoderTraining, indices: range) -> Tensor:
    frames, masks = frames_and_masks(training.seed + (training.start is not None), indices)
    generator = torch.Generator().manual_seed((training.seed << 32) + indices.start)
    with torch.set_grad_enabled(training.start is None):
        mean = vae.encode(frames).latent_dist.mean
    spread = mean.detach().std(dim=(0, 2, 3), keepdim=True)
    noise = torch.randn(mean.shape, generator=generator) * spread * LATENT_NOISE
    loss = reconstruction_loss(vae.decode(mean + noise).sample, frames, masks)
    return loss + LATENT_DECAY * (mean**2).mean()


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, scenes: int = _MEASURED_FRAMES) -> None:
    """Give the scaled latents mean 0 and variance 1 per channel, without changing what the VAE reconstructs.

    The mean and the spread over that many held-out frames go into the 1x1 convolutions around the latent. The
    posterior's variance, which training never used, becomes a small constant.
    """
    frames, _ = frames_and_masks(_HELD_OUT_SEED + 1, range(scenes))
    mean = vae.encode(frames).latent_dist.mean
    centre, spread = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3)) * SCALING
    channels = len(centre)
    into, outof = _latent_convolutions(vae)
    assert into.bias is not None and outof.bias is not None
    into.weight[:channels] /= spread.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - centre) / spread
    into.weight[channels:] = 0
    into.bias[channels:] = -10
    outof.bias += outof.weight[:, :, 0, 0] @ centre
    outof.weight *= spread.view(1, -1, 1, 1)


def _latent_convolutions(vae: AutoencoderKL) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return the 1x1 convolutions in front of the latent and behind it."""
    assert vae.quant_conv is not None and vae.post_quant_conv is not None
    return vae.quant_conv, vae.post_quant_conv


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL) -> float:
    """Return the mean PSNR in dB of reconstructions of frames that training never saw."""
    frames, _ = frames_and_masks(_HELD_OUT_SEED, range(_MEASURED_FRAMES))
    decoded = vae.decode(vae.encode(frames).latent_dist.mean).sample.clamp(-1, 1)
    error = ((decoded - frames) / 2).pow(2).mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())
