"""LoRA files on a UNet and its text encoder: a new model that shares all weights the file does not touch.

The files' names differ by training program, and each is understood: kohya's (diffusers' or the original names of the
UNet), diffusers' older and newer ones, and PEFT's.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import ModelError, SettingsError
from .ldm_names import ldm_name
from .text import TextEncoder
from .unet import Pseudo3DUNet
from .weight_files import WeightFile, some

log = logging.getLogger(__name__)

PARTS = {"down": "down", "up": "up", "mid": "mid", "A": "down", "B": "up"}
KEY = re.compile(
    r"(?P<module>.+?)"
    r"(?:\.lora_(?P<kohya>down|up|mid)|\.lora_(?P<peft>A|B)(?:\.default)?|(?:[._]lora|\.lora_linear_layer)\.(?P<old>down|up))"
    r"\.weight"
)
OTHER_KINDS = {
    "hada_w1": "LoHa",
    "lokr_w": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "on_input": "IA3",
    ".diff_b": "a difference of whole weights",
}
OTHER_FAMILIES = {"lora_te1_": "SDXL", "lora_te2_": "SDXL", "text_encoder_2.": "SDXL", "double_blocks": "Flux"}
PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass
class _Factors:
    """Low-rank factors of one layer; the change is alpha / rank * up @ down (with `mid` between, of convolutions)."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None

    def change(self, shape: torch.Size) -> Tensor | None:
        """Shaped like the layer's weight, float32; None where it does not fit."""
        up, down = (self.parts[part].float() for part in ("up", "down"))
        scale = 1.0 if self.alpha is None else self.alpha / len(down)
        if "mid" in self.parts:
            mid = self.parts["mid"].float()
            change = torch.einsum("op,pqkl,qi->oikl", up.flatten(1), mid, down.flatten(1))
        elif up.flatten(1).shape[1] != len(down):
            return None
        else:
            change = up.flatten(1) @ down.flatten(1)
        fits = len(up) == shape[0] and change.numel() == math.prod(shape)
        return (change * scale).reshape(shape) if fits else None


def apply_lora(
    unet: Pseudo3DUNet,
    text: TextEncoder | None,
    file: str | Path,
    *,
    unet_strength: float = 1.0,
    text_strength: float = 1.0,
) -> tuple[Pseudo3DUNet, TextEncoder | None]:
    """A UNet and a text encoder with a LoRA's changes; those given stay as they are, and may have LoRAs already.

    text:     None: what the file has for a text encoder is left out
    file:     .safetensors, or a pickle of plain tensors
    strength: factors on the changes, any finite number; 0 leaves that part out
    Returns new objects that share the memory of every weight the file does not change.
    Raises ModelError for a file that cannot be read, is no LoRA, or does not fit, and SettingsError for a strength.
    Source: LoRA (arXiv 2106.09685); changes are computed in float32 and rounded once, to the weights' precision.
    """
    for strength in (unet_strength, text_strength):
        if not math.isfinite(strength):
            raise SettingsError(f"a LoRA's strength is {strength}; a finite number is needed. 1 is the usual one.")
    file, name = WeightFile(file), Path(file).name
    factors = _read(file)
    named_unet = _modules(unet.net, "lora_unet_", ldm=True)
    named_text = {} if text is None else _modules(text.net, "lora_te_", ldm=False)
    for_unet = {key: found for key, found in factors.items() if _is_unet(key, named_text)}
    for_text = {key: found for key, found in factors.items() if key not in for_unet}
    unet_changes, lost = _changes(name, unet.net, named_unet, for_unet, unet_strength)
    text_changes: dict[str, Tensor] = {}
    if text is not None:
        text_changes, more = _changes(name, text.net, named_text, for_text, text_strength)
        lost += more
    if len(lost) == len(for_unet) + (len(for_text) if text is not None else 0):
        raise ModelError(
            f"no layer of {name} is in {unet.name}: {some(sorted(lost) or sorted(factors))}; a LoRA of the same family "
            f"is needed. Use one for Stable Diffusion 1.x or 2.x, as the model is."
        )
    if lost:
        log.warning("%s: %s are not in %s and are left out.", name, some(sorted(lost)), unet.name)
    changed = unet.with_weights(unet_changes)
    changed.name = f"{unet.name} + {name} ({unet_strength:g})"
    return changed, None if text is None else text.with_weights(text_changes)


def _read(file: WeightFile) -> dict[str, _Factors]:
    """Factors by the name of their layer; raises ModelError for files that hold something else."""
    name = file.path.name
    for part, kind in OTHER_KINDS.items():
        if found := [key for key in file.shapes if part in key]:
            raise ModelError(
                f"{name} is {kind} ({some(found)}); plain LoRA (and LoCon) is understood. Merge it into a checkpoint, "
                f"or load it with Load LoRA of ComfyUI on a MODEL."
            )
    for part, family in OTHER_FAMILIES.items():
        if any(part in key for key in file.shapes):
            raise ModelError(
                f"{name} is a LoRA for {family}; one for Stable Diffusion 1.x or 2.x is needed. Use one of these."
            )
    matches = {key: KEY.fullmatch(key) for key in file.shapes}
    if not any(matches.values()):
        raise ModelError(
            f"{name} is no LoRA: {some(sorted(file.shapes))}; low-rank pairs (lora_down and lora_up) are needed. Whole "
            f"checkpoints belong into Load Pseudo-3D UNet."
        )
    factors: dict[str, _Factors] = {}
    for key, tensor in file.read(file.shapes).items():
        if match := matches[key]:
            part = PARTS[match["kohya"] or match["peft"] or match["old"]]
            factors.setdefault(match["module"], _Factors()).parts[part] = tensor
        elif key.endswith(".alpha"):
            factors.setdefault(key.removesuffix(".alpha").removesuffix(".lora"), _Factors()).alpha = float(tensor)
    if alone := sorted(module for module, found in factors.items() if not {"up", "down"} <= found.parts.keys()):
        raise ModelError(f"{name} has half of a pair: {some(alone)}; both are needed. Restore the file.")
    return factors


def _modules(net: nn.Module, prefix: str, *, ldm: bool) -> dict[str, str]:
    """Every name a file may have for a layer, to the name of its weight in `net`."""
    named = {}
    for name, module in net.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or "_temporal" in name:
            continue
        whole = name if ldm or name.startswith("text_model.") else f"text_model.{name}"
        names = {whole, prefix + whole.replace(".", "_")}
        if ldm:
            names.add(prefix + ldm_name(name, net).replace(".", "_"))
        named |= dict.fromkeys(names, f"{name}.weight")
    return named


def _plain(key: str) -> str:
    """A layer's name without what training programs put around it."""
    key = re.sub(r"^(base_model\.model\.|unet\.|text_encoder\.)+", "", key).replace(".processor.", ".")
    if "self_attn.to_" in key:
        key = re.sub(r"self_attn\.(to_\w+)$", lambda match: f"self_attn.{PROJECTIONS[match[1]]}", key)
    return f"{key}.0" if key.endswith(".to_out") else key


def _is_unet(key: str, named_text: Mapping[str, str]) -> bool:
    return not key.startswith(("lora_te_", "text_encoder.")) and _plain(key) not in named_text


def _changes(
    file: str, net: nn.Module, named: Mapping[str, str], factors: Mapping[str, _Factors], strength: float
) -> tuple[dict[str, Tensor], list[str]]:
    """Changed weights by their names in `net`, and the layers that are not there."""
    weights, changes, lost = dict(net.named_parameters()), {}, []
    for key, found in factors.items():
        target = named.get(_plain(key))
        if target is None:
            lost.append(key)
            continue
        weight = weights[target]
        change = found.change(weight.shape)
        if change is None:
            shapes = {part: list(tensor.shape) for part, tensor in found.parts.items()}
            raise ModelError(
                f"{file} does not fit: {key} has {shapes}, the layer {list(weight.shape)}; a LoRA of the same family "
                f"is needed. Use one for the model's own version."
            )
        if strength:
            changed = weight.float() + strength * change.to(weight.device)
            changes[target] = changed.to(weight.dtype)
    return changes, lost
