"""Configs of single-file checkpoints, derived from the shapes of their tensors: files have none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...diffusion.schedule import STABLE_DIFFUSION_SCHEDULER
from ...errors import ModelError
from ...untrusted.config_rules import Config
from ..file_kinds import CONTEXT_KEY, UNET, Shapes

SD1_HEADS = 8  # Stable Diffusion 1.x has 8 heads at every width
SD2_HEAD_WIDTH = 64  # Stable Diffusion 2.x has heads of 64 at every width
TEXT_HEAD_WIDTH = 64
START, END = 49406, 49407  # of CLIP's vocabulary
PAD = {"sd1": END, "sd2": 0}
V_PREDICTION_SPREAD = 0.09
V_PREDICTION_KEY = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
"""Stable Diffusion 2.x files do not say what they predict; ComfyUI's rule: the spread of this bias is above .09 in
those that predict velocity."""


def unet_config(shapes: Shapes, family: str) -> Config:
    """Derive diffusers' config of the UNet of a checkpoint."""
    parts = {key.removeprefix(UNET): shape for key, shape in shapes.items() if key.startswith(UNET)}
    levels = _levels(parts)
    layers = {len(level) for level in levels}
    if len(layers) != 1 or not parts.get("middle_block.1.proj_in.weight"):
        raise _odd("the UNet's levels are not alike")
    widths = [parts[f"input_blocks.{level[-1]}.0.out_layers.3.weight"][0] for level in levels]
    attends = [f"input_blocks.{level[0]}.1.proj_in.weight" in parts for level in levels]
    context = next(shape[1] for key, shape in parts.items() if key.endswith(CONTEXT_KEY))
    return {
        "in_channels": parts["input_blocks.0.0.weight"][1],
        "out_channels": parts["out.2.weight"][0],
        "sample_size": 64 if family == "sd1" else 96,
        "block_out_channels": widths,
        "layers_per_block": layers.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attends)],
        "cross_attention_dim": context,
        "attention_head_dim": SD1_HEADS if family == "sd1" else [width // SD2_HEAD_WIDTH for width in widths],
        "use_linear_projection": len(parts["middle_block.1.proj_in.weight"]) == 2,
        "upcast_attention": family == "sd2",
    }


def _levels(parts: Mapping[str, tuple[int, ...]]) -> list[list[int]]:
    """List the numbers of the input blocks with a resnet, level by level."""
    numbers = sorted({int(key.split(".")[1]) for key in parts if key.startswith("input_blocks.")})
    levels: list[list[int]] = [[]]
    for number in numbers[1:]:
        if f"input_blocks.{number}.0.op.weight" in parts:
            levels.append([])
        else:
            levels[-1].append(number)
    return levels


def vae_config(shapes: Shapes, prefix: str) -> Config:
    """Derive diffusers' config of the VAE of a checkpoint."""
    parts = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    blocks = sorted(
        {tuple(map(int, found)) for key in parts for found in re.findall(r"^encoder\.down\.(\d+)\.block\.(\d+)\.", key)}
    )
    if not blocks or "quant_conv.weight" not in parts:
        raise _odd("the VAE is not Stable Diffusion's")
    depth = 1 + max(level for level, _ in blocks)
    return {
        "in_channels": parts["encoder.conv_in.weight"][1],
        "out_channels": parts["decoder.conv_out.weight"][0],
        "latent_channels": parts["post_quant_conv.weight"][1],
        "block_out_channels": [parts[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(depth)],
        "layers_per_block": 1 + max(block for _, block in blocks),
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
    }


def text_config(shapes: Shapes, family: str) -> Config:
    """Derive transformers' config of the text encoder from diffusers' names of its tensors."""
    layers = {int(key.split("layers.")[1].split(".")[0]) for key in shapes if "layers." in key}
    tokens, width = _shape(shapes, "token_embedding.weight")
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": _shape(shapes, "layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": 1 + max(layers),
        "num_attention_heads": max(1, width // TEXT_HEAD_WIDTH),
        "max_position_embeddings": _shape(shapes, "position_embedding.weight")[0],
        "hidden_act": "quick_gelu" if family == "sd1" else "gelu",
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PAD[family],
    }


def _shape(shapes: Shapes, ending: str) -> tuple[int, ...]:
    for key, shape in shapes.items():
        if key.endswith(ending):
            return shape
    raise _odd(f"the text encoder has no {ending}")


def scheduler_config(prediction: str, *, zero_terminal: bool) -> Config:
    """Return diffusers' config of the noise schedule."""
    overrides = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal}
    return {**STABLE_DIFFUSION_SCHEDULER, **overrides}


def _odd(what: str) -> ModelError:
    return ModelError(
        f"{what}; the layout of Stable Diffusion 1.x or 2.x is needed. Use a complete checkpoint of that kind."
    )
