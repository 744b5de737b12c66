"""Names of a model's layers in LoRA files.

Every trainer has its own spelling: dots or underscores, diffusers' blocks or those of the first Stable Diffusion
checkpoints, a prefix for the network and one for the trainer. All are reduced to one flat spelling, and looked up.
Sources: kohya-ss/sd-scripts networks/lora.py; huggingface/diffusers loaders and the PEFT layout; LyCORIS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from diffusers.models import UNet2DConditionModel
from torch import nn

from ..diffusers_to_ldm import ldm_names

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
WITH_WEIGHTS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def split_part(layer: str) -> tuple[str | None, str]:
    """Split a layer's name into its network ("unet", "text", or None if it names none) and the flat rest."""
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
    """Map every flat spelling of a UNet's layers with weights to the layer; temporal layers are left out."""
    own = [name for name in _layers(net) if "_temporal" not in name]
    spelt = {flattened(name): name for name in own}
    spelt |= {flattened(first): name for name, first in ldm_names(net, own).items()}
    old = {flat.removesuffix("_0"): name for flat, name in spelt.items() if flat.endswith("_to_out_0")}
    return spelt | old


def text_layers(net: nn.Module) -> Mapping[str, str]:
    """Map every flat spelling of a CLIP text model's layers, with and without `text_model` in front, to the layer."""
    spelt: dict[str, str] = {}
    for name in _layers(net):
        flat = flattened(name).removeprefix("text_model_")
        old = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", flat)
        spelt |= {f"{model}{layer}": name for model in ("", "text_model_") for layer in (flat, old)}
    return spelt


def _layers(net: nn.Module) -> Iterator[str]:
    return (name for name, module in net.named_modules() if isinstance(module, WITH_WEIGHTS))
