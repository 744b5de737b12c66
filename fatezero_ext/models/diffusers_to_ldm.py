"""Stable Diffusion's own names for the parts of a diffusers UNet, as single files and some LoRA files have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def ldm_names(net: UNet2DConditionModel, names: Iterable[str]) -> dict[str, str]:
    """Map diffusers' names of modules or tensors to Stable Diffusion's.

    `down_blocks.0.resnets.0.conv1` becomes `input_blocks.1.0.in_layers.2`; unknown names stay as they are.
    """
    blocks = {**OUTSIDE, **dict(_blocks(net))}
    return {name: _ldm_name(name, blocks) for name in names}


def _ldm_name(name: str, blocks: Mapping[str, str]) -> str:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        block, inner = blocks.get(".".join(parts[:count])), parts[count:]
        if block is None:
            continue
        if inner and "resnets" in parts[:count]:
            inner[0] = RESNET.get(inner[0], inner[0])
        return ".".join([block, *inner])
    return name


def _blocks(net: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    """Pair the blocks' names; Stable Diffusion counts each unit and each change of resolution."""
    block: Any  # diffusers' blocks of several classes
    number = 1
    for i, block in enumerate(net.down_blocks):
        for j in range(len(block.resnets)):
            yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0"
            yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for i, block in enumerate(net.up_blocks):
        for j in range(len(block.resnets)):
            yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{number}.0"
            yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            place = 2 if hasattr(block, "attentions") else 1
            yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{number - 1}.{place}.conv"
