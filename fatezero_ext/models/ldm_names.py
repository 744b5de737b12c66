"""The names that single files and some LoRA files have for the parts of a diffusers UNet."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diffusers import UNet2DConditionModel

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


def ldm_name(name: str, net: UNet2DConditionModel) -> str:
    """Of a module or tensor by diffusers' name: `down_blocks.0.resnets.0.conv1` is `input_blocks.1.0.in_layers.2`."""
    per_level = net.config.layers_per_block + 1
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.?(.*)", name):
        arm, level, kind, unit, rest = found.groups()
        number = int(level) * per_level + int(unit) + (arm == "down")
        block = "input_blocks" if arm == "down" else "output_blocks"
        rest = _renamed(rest, RESNET) if kind == "resnets" else rest
        return f"{block}.{number}.{int(kind == 'attentions')}.{rest}".rstrip(".")
    if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv(.*)", name):
        return f"input_blocks.{(int(found[1]) + 1) * per_level}.0.op{found[2]}"
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv(.*)", name):
        place = 2 if net.config.up_block_types[int(found[1])].startswith("Cross") else 1
        return f"output_blocks.{(int(found[1]) + 1) * per_level - 1}.{place}.conv{found[2]}"
    inner = _renamed(name, RESNET) if "resnets" in name else name
    return _renamed(inner, OUTSIDE)


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    """Whole parts of a dotted name replaced."""
    for ours, theirs in renames.items():
        name = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, name)
    return name
