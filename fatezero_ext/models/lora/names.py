"""How LoRA files call a model's layers.

Every trainer has its own spelling: dots or underscores, diffusers' blocks or those of the first Stable Diffusion
checkpoints, a prefix for the network and one for the trainer. All are reduced to one flat spelling, and looked up.
Sources: kohya-ss/sd-scripts networks/lora.py; huggingface/diffusers loaders and the PEFT layout; LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from diffusers import UNet2DConditionModel
from torch import nn

UNET_PREFIXES = ("lora_unet_", "lycoris_", "unet.", "model.diffusion_model.", "diffusion_model.")
TEXT_PREFIXES = (
    "lora_te_",
    "lora_te1_",  # kohya's and OneTrainer's newer versions number the only text encoder as well
    "text_encoder.",
    "text_encoders.clip_l.transformer.",  # ComfyUI's Extract and Save Lora, Stable Diffusion 1.x
    "text_encoders.clip_h.transformer.",  # 2.x
    "text_encoders.transformer.",
)
PEFT_PREFIX = "base_model.model."
RESNET_NAMES = {
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
WITH_WEIGHTS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
OUTER_NAMES = {
    "conv_in": "input_blocks_0_0",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
    "conv_norm_out": "out_0",
    "conv_out": "out_2",
}
"""Layers outside the blocks: diffusers' name, and that in the first checkpoints."""


def split_part(layer: str) -> tuple[str | None, str]:
    """Which network a layer's name says it is of ("unet", "text" or None), and the flat rest of the name."""
    part, layer = None, layer.removeprefix(PEFT_PREFIX)
    for name, prefixes in (("unet", UNET_PREFIXES), ("text", TEXT_PREFIXES)):
        found = next((prefix for prefix in prefixes if layer.startswith(prefix)), None)
        if found is not None:
            part, layer = name, layer.removeprefix(found)
            break
    flat = flattened(layer.removeprefix(PEFT_PREFIX))
    if part is None and flat.startswith("text_model_"):
        part = "text"
    return part, flat


def flattened(layer: str) -> str:
    """`down_blocks.0.attn1.processor.to_q_lora` -> `down_blocks_0_attn1_to_q`."""
    return layer.replace(".processor.", ".").removesuffix("_lora").replace(".", "_")


def unet_layers(net: UNet2DConditionModel) -> Mapping[str, str]:
    """A UNet's layers with weights by every flat spelling; temporal layers are left out."""
    own = {flattened(name): name for name in _layers(net) if "_temporal" not in name}
    spelt = dict(own)
    for prefix, first in [*OUTER_NAMES.items(), *_first_blocks(net)]:
        for flat, name in own.items():
            if flat == prefix or flat.startswith(f"{prefix}_"):
                spelt[first + _first_inner(flat.removeprefix(prefix))] = name
    old = {flat.removesuffix("_0"): name for flat, name in spelt.items() if flat.endswith("_to_out_0")}
    return spelt | old


def text_layers(net: nn.Module) -> Mapping[str, str]:
    """A CLIP text model's layers with weights by every flat spelling, with and without `text_model` in front."""
    spelt = {}
    for name in _layers(net):
        flat = flattened(name).removeprefix("text_model_")
        old = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", flat)
        spelt |= {f"{model}{layer}": name for model in ("", "text_model_") for layer in (flat, old)}
    return spelt


def _layers(net: nn.Module) -> Iterator[str]:
    return (name for name, module in net.named_modules() if isinstance(module, WITH_WEIGHTS))


def _first_inner(flat: str) -> str:
    """The rest of a resnet's layer in the first checkpoints' spelling; of other blocks it is the same."""
    return f"_{RESNET_NAMES[flat[1:]]}" if flat[1:] in RESNET_NAMES else flat


def _first_blocks(net: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    """Diffusers' blocks and what the first Stable Diffusion checkpoints call them: one number for each step down."""
    number = 1
    for i, block in enumerate(net.down_blocks):
        for j in range(len(block.resnets)):
            yield f"down_blocks_{i}_resnets_{j}", f"input_blocks_{number}_0"
            yield f"down_blocks_{i}_attentions_{j}", f"input_blocks_{number}_1"
            number += 1
        if block.downsamplers:
            yield f"down_blocks_{i}_downsamplers_0_conv", f"input_blocks_{number}_0_op"
            number += 1
    yield "mid_block_resnets_0", "middle_block_0"
    yield "mid_block_attentions_0", "middle_block_1"
    yield "mid_block_resnets_1", "middle_block_2"
    number = 0
    for i, block in enumerate(net.up_blocks):
        for j in range(len(block.resnets)):
            yield f"up_blocks_{i}_resnets_{j}", f"output_blocks_{number}_0"
            yield f"up_blocks_{i}_attentions_{j}", f"output_blocks_{number}_1"
            number += 1
        if block.upsamplers:
            place = 2 if hasattr(block, "attentions") else 1
            yield f"up_blocks_{i}_upsamplers_0_conv", f"output_blocks_{number - 1}_{place}_conv"
