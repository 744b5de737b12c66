"""The toy VAE: 64x64 pixels to 16x16x4 latents of unit variance at Stable Diffusion's scaling factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..world.render import render, thing_masks
from ..world.rich import rich_scene_at
from ..world.world import SIZE
from .averaging import WeightAverage
from .checkpoint import Progress, check_checkpoint
from .parallel import average_gradients, launch, wait_for_all
from .sizes import SMALL
from .widening import widen

SCALING = 0.18215
GROUPS = 8
"""Groups of channels that are normed together."""
LATENT_NOISE = 0.07
"""Noise added while training, as a share of a channel's spread; a KL term instead destroys a latent this small."""
LATENT_DECAY = 5e-4
OBJECT_WEIGHT = 4.0
"""Pixels of things against pixels of the background; a thing covers about a tenth of a frame."""
BETAS = (0.9, 0.99)
AVERAGE_DECAY = 0.998
REPORT_EVERY = 250
_HELD_OUT_SEED = 90_000


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of a VAE's training.

    start:         folder of a VAE to go on from; None begins with a fresh one
    decoder_alone: leave the encoder of `start`, and so its latents, as they are
    channels:      of its levels, the finest first; a VAE to go on from that has fewer is widened
    objects:       names that may occur in the scenes
    device:        "cpu" or "cuda"
    bfloat16:      compute in bfloat16 where autocast does; weights stay float32
    loaders:       processes that draw scenes while the device computes; 0 draws them in between
    stop_at:       stop at this step for now, to go on later; None goes to the end
    measured:      held-out frames that normalise the latents and that the result is measured on
    """

    steps: int
    rate: float
    batch: int = 8
    seed: int = 0
    start: Path | None = None
    decoder_alone: bool = False
    channels: tuple[int, int, int] = SMALL.vae
    objects: tuple[str, ...] = ()
    device: str = "cpu"
    bfloat16: bool = False
    loaders: int = 0
    checkpoint_every: int = 250
    stop_at: int | None = None
    measured: int = 256


def build_autoencoder(channels: tuple[int, int, int] = SMALL.vae) -> AutoencoderKL:
    """Build an untrained VAE of the toy's layout."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        sample_size=SIZE,
        scaling_factor=SCALING,
    )


def frames_and_masks(seed: int, indices: range, objects: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
    """Draw scenes for training.

    Returns frames [n, 3, H, W] in -1..1 and masks [n, 2, H, W] in 0..1, of the first and of the second thing.
    """
    scenes = [rich_scene_at(seed, index, objects) for index in indices]
    frames = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)
    masks = np.zeros((len(scenes), 2, SIZE, SIZE), np.float32)
    for mask, scene in zip(masks, scenes, strict=True):
        found = thing_masks(scene)
        mask[: len(found)] = found
    return frames * 2 - 1, torch.from_numpy(masks)


def reconstruction_loss(decoded: Tensor, frames: Tensor, masks: Tensor) -> Tensor:
    """Compute L1 + 2 MSE with more weight on things. decoded, frames: [n, 3, H, W]; masks: [n, 1, H, W]."""
    error = decoded - frames
    weight = 1 + (OBJECT_WEIGHT - 1) * masks
    return (weight * (error.abs() + 2 * error**2)).mean() / weight.mean()


def train_autoencoder(folder: Path, training: AutoencoderTraining, workers: int, report: Callable[[str], None]) -> None:
    """Train a VAE, or the decoder of one, and save it in `folder`.

    A checkpoint beside the folder, of the same name, lets a stopped run go on. Raises what `check_checkpoint` does.
    """
    checkpoint = folder.with_suffix(".pt")
    if checkpoint.exists():
        check_checkpoint(checkpoint, _trained_parts(training)[1], training.steps)
    launch(_train, workers, folder, training, report)


@dataclass(frozen=True)
class _Drawings(Dataset[tuple[Tensor, Tensor]]):
    """Frames and masks by step: one process's share of each batch."""

    training: AutoencoderTraining
    rank: int
    workers: int

    def first(self, step: int) -> int:
        """Return the index of the step's first scene."""
        return step * self.training.batch + self.rank * (self.training.batch // self.workers)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        start, training = self.first(step), self.training
        seed = training.seed + training.decoder_alone
        return frames_and_masks(seed, range(start, start + training.batch // self.workers), training.objects)


def _train(rank: int, workers: int, folder: Path, training: AutoencoderTraining, report: Callable[[str], None]) -> None:
    torch.manual_seed(training.seed)
    vae, trained = _trained_parts(training)
    optimizer = torch.optim.AdamW(trained, lr=training.rate, betas=BETAS, weight_decay=1e-4, fused=True)
    average = WeightAverage(trained, AVERAGE_DECAY)
    progress = Progress(folder.with_suffix(".pt"), trained, average, optimizer)
    drawings, first = _Drawings(training, rank, workers), progress.restore()
    end = training.steps if training.stop_at is None else training.stop_at
    batches = DataLoader(drawings, batch_size=None, sampler=range(first, end), num_workers=training.loaders)
    for step, (frames, masks) in zip(range(first, end), batches, strict=True):
        optimizer.param_groups[0]["lr"] = training.rate * _rate(step, training.steps)
        loss = _loss(vae, training, frames, masks, drawings.first(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(trained, step)
        if rank == 0 and step % REPORT_EVERY == 0:
            report(f"{folder.name} step {step}/{training.steps} loss {loss.item():.4f}")
        if (step + 1) % training.checkpoint_every == 0 or step + 1 == end:
            if rank == 0:
                progress.save(step + 1)
            wait_for_all()
    if rank == 0 and end == training.steps:
        average.copy_to(trained)
        _finish(vae, folder, training, report)


def _trained_parts(training: AutoencoderTraining) -> tuple[AutoencoderKL, list[Tensor]]:
    """Return the VAE, and the weights of it that are to change."""
    vae = build_autoencoder(training.channels)
    if training.start is not None:
        widen(AutoencoderKL.from_pretrained(training.start, torch_dtype=torch.float32, local_files_only=True), vae)
    nn.Module.to(vae, training.device)
    into, outof = _latent_convolutions(vae)
    trained: list[Tensor] = [*vae.decoder.parameters(), *outof.parameters()]
    return vae, trained + ([] if training.decoder_alone else [*vae.encoder.parameters(), *into.parameters()])


def _finish(vae: AutoencoderKL, folder: Path, training: AutoencoderTraining, report: Callable[[str], None]) -> None:
    """Normalise, measure and save a trained VAE; the folder is there when it is complete."""
    nn.Module.to(vae, "cpu")
    if not training.decoder_alone:
        fold_normalisation(vae, training.measured, training.objects)
    frame, things = held_out_psnr(vae, training.measured, training.objects)
    report(f"{folder.name} held-out PSNR {frame:.2f} dB, of things alone {things:.2f} dB")
    partial = folder.with_name(f"{folder.name}.unfinished")
    vae.save_pretrained(partial)
    partial.rename(folder)


def _loss(vae: AutoencoderKL, training: AutoencoderTraining, frames: Tensor, masks: Tensor, first: int) -> Tensor:
    """Compute the loss of some frames; first: index of the first, which seeds the noise."""
    generator = torch.Generator().manual_seed((training.seed << 32) + first)
    frames, masks = frames.to(training.device), masks.sum(dim=1, keepdim=True).to(training.device)
    with torch.autocast(training.device, torch.bfloat16, enabled=training.bfloat16):
        with torch.set_grad_enabled(not training.decoder_alone):
            mean = vae.encode(frames).latent_dist.mean
        spread = mean.detach().std(dim=(0, 2, 3), keepdim=True)
        noise = torch.randn(mean.shape, generator=generator).to(training.device) * spread * LATENT_NOISE
        decoded = vae.decode(mean + noise).sample
    return reconstruction_loss(decoded.float(), frames, masks) + LATENT_DECAY * (mean.float() ** 2).mean()


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, scenes: int, objects: tuple[str, ...] = ()) -> None:
    """Give the scaled latents mean 0 and variance 1 per channel, without changing what the VAE reconstructs.

    The mean and the spread over that many held-out frames go into the 1x1 convolutions around the latent. The
    posterior's variance, which training never used, becomes a small constant.
    """
    frames, _ = frames_and_masks(_HELD_OUT_SEED + 1, range(scenes), objects)
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
def held_out_psnr(vae: AutoencoderKL, scenes: int, objects: tuple[str, ...] = ()) -> tuple[float, float]:
    """Return the mean PSNR in dB of reconstructions of frames that training never saw, and of their things alone."""
    frames, masks = frames_and_masks(_HELD_OUT_SEED, range(scenes), objects)
    decoded = vae.decode(vae.encode(frames).latent_dist.mean).sample.clamp(-1, 1)
    error, things = ((decoded - frames) / 2).pow(2).mean(dim=1), masks.sum(dim=1)
    alone = (error * things).sum(dim=(1, 2)) / things.sum(dim=(1, 2))
    whole, inside = (float((-10 * one.log10()).mean()) for one in (error.mean(dim=(1, 2)), alone))
    return whole, inside
