"""The toy UNet and text encoder, and what they are trained for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .localisation import localisation_loss
from .pool import NO_ROLE, Pool
from .sizes import SMALL

WIDTH = 64
"""Width of the text features."""
TIMESTEPS = 1000
SNR_LIMIT = 5.0
NOISY_LIMIT = 8.0
OBJECT_WEIGHT = 3.5
OBJECT_UNTIL = 650
"""Highest timestep at which something of an object's outline is left to weigh."""
CAPTION_DROPOUT = 0.1
LOCALISED_LEVELS = ("down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3")
"""The 16x16 and the 8x8 cross-attentions."""


@dataclass(frozen=True)
class Batch:
    """Training samples: noisy, noise [n, 4, h, w]; timesteps [n]; tokens, roles [n, 77]; masks, second [n, h, w]."""

    noisy: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tensor
    roles: Tensor
    masks: Tensor
    second: Tensor


def build_unet(channels: tuple[int, int, int, int] = SMALL.unet) -> UNet2DConditionModel:
    """Build an untrained UNet of Stable Diffusion 1.x layout; as there, `attention_head_dim` counts heads."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=channels,
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build an untrained CLIP text encoder for that tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    """Build the scheduler of Stable Diffusion 1.x: its betas, its offset, epsilon."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def draw_batch(pool: Pool, alphas: Tensor, empty: Tensor, *, size: int, seed: int, step: int, styled: float) -> Batch:
    """Draw the batch of a step, a function of seed and step only.

    alphas: [TIMESTEPS], cumulative products of the schedule
    empty:  [77] tokens of the empty prompt, which takes the place of dropped captions
    styled: share of the batch that has a style
    """
    rng = np.random.default_rng((seed, step))
    with_style, without = (torch.nonzero(mask)[:, 0].numpy() for mask in (pool.styled, ~pool.styled))
    picks = np.where(rng.random(size) < styled, rng.choice(with_style, size), rng.choice(without, size))
    timesteps = torch.from_numpy((rng.permutation(size) + rng.random(size)) / size * TIMESTEPS).long()
    wording = rng.integers(pool.tokens.shape[1], size=size)
    dropped = torch.from_numpy(rng.random(size) < CAPTION_DROPOUT)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    latents = pool.latents[picks].float()
    noise = torch.randn(latents.shape, generator=generator)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    tokens = pool.tokens[picks, wording].long()
    roles = pool.roles[picks, wording]
    tokens[dropped] = empty
    roles[dropped] = NO_ROLE
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    masks, second = pool.masks[picks].float(), pool.second[picks].float()
    return Batch(noisy, noise, timesteps, tokens, roles, masks, second)


def denoising_loss(predicted: Tensor, batch: Batch, alphas: Tensor) -> Tensor:
    """Compute the epsilon loss, min-SNR weighted with more weight on high noise, and more on the object's cells.

    predicted: [n, 4, h, w]
    Source: min-SNR weighting, arXiv 2303.09556.
    """
    alpha = alphas[batch.timesteps]
    snr = alpha / (1 - alpha)
    weight = (SNR_LIMIT / snr).clamp(max=1) * alpha.rsqrt().clamp(max=NOISY_LIMIT)
    cells = 1 + (OBJECT_WEIGHT - 1) * batch.masks * (batch.timesteps < OBJECT_UNTIL).view(-1, 1, 1)
    cells = cells / cells.mean(dim=(1, 2), keepdim=True)
    error = (predicted - batch.noise).pow(2).mean(dim=1)
    return (weight.view(-1, 1, 1) * cells * error).mean()


def total_loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    maps: Mapping[str, Tensor],
    batch: Batch,
    alphas: Tensor,
    localisation: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise, and the share of attention outside its place."""
    text = text_encoder(batch.tokens).last_hidden_state
    predicted = unet(batch.noisy, batch.timesteps, text).sample
    stray = localisation_loss(dict(maps), batch.masks, batch.roles, alphas[batch.timesteps].sqrt(), batch.second)
    return denoising_loss(predicted, batch, alphas) + localisation * stray, stray
