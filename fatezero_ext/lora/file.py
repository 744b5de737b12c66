"""A LoRA file's matrices, whatever trainer wrote them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import ModelError
from ..weight_files import SAFETENSORS, read_weights
from .kinds import check_kind
from .names import PEFT_PREFIX

SPELLINGS = (
    re.compile(r"^(?P<layer>.+)\.lora_(?P<part>down|up|mid)\.weight$"),
    re.compile(r"^(?P<layer>.+)\.lora_(?P<part>[AB])(\.\w+)?\.weight$"),
    re.compile(r"^(?P<layer>.+)(_lora|\.lora|\.lora_linear_layer)\.(?P<part>down|up)\.weight$"),
    re.compile(r"^(?P<layer>.+)\.(?P<part>alpha)$"),
)
PEFT_PARTS = {"A": "down", "B": "up"}
DIFFUSERS_METADATA = "lora_adapter_metadata"
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"


@dataclass(frozen=True)
class LowRank:
    """One layer's change: `scale * up @ down`.

    up:    [out, rank] or [out, rank, 1, 1]
    down:  [rank, in] or [rank, in, height, width]
    mid:   [rank, rank, height, width], where a convolution is decomposed in both channels and cells, or None
    scale: alpha / rank
    """

    up: Tensor
    down: Tensor
    mid: Tensor | None = None
    scale: float = 1.0

    def shape(self) -> list[int]:
        """Of the layer's weight that it was made for."""
        cells = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return [len(self.up), self.down.shape[1], *cells]

    def delta(self, like: Tensor) -> Tensor:
        """The change of a weight `like` at strength 1, in its shape and on its device, float32 or finer."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        up, down = (part.to(like.device, dtype).flatten(1) for part in (self.up, self.down))
        if self.mid is not None:
            down = torch.einsum("pqhw,qi->pihw", self.mid.to(like.device, dtype), down).flatten(1)
        return (up @ down).reshape(like.shape) * self.scale


@dataclass(frozen=True)
class LoraFile:
    """What a file holds.

    name:   what users know it by
    layers: its changes by the layers' names as the file has them
    unread: keys that belong to no change
    """

    name: str
    layers: Mapping[str, LowRank]
    unread: tuple[str, ...] = ()


def read_lora(source: str | Path | Mapping[str, Tensor], name: str | None = None) -> LoraFile:
    """Read a LoRA file, or its tensors by name.

    Raises ModelError for files that cannot be read, hold something else, or lack half of a layer.
    """
    if isinstance(source, Mapping):
        weights, alphas, name = source, {}, name or "LoRA"
    else:
        path = Path(source)
        name = name or path.stem
        weights, alphas = read_weights(path), _saved_alphas(path)
    spelt = {key: match for key in weights if (match := _spelling(key))}
    check_kind(weights, [key for key, match in spelt.items() if match["part"] != "alpha"], name)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, match in spelt.items():
        part = PEFT_PARTS.get(match["part"], match["part"])
        parts.setdefault(match["layer"].removesuffix("_lora"), {})[part] = weights[key]
    layers = {layer: _low_rank(name, layer, tensors, alphas) for layer, tensors in parts.items()}
    return LoraFile(name, layers, unread=tuple(weights.keys() - spelt.keys()))


def _spelling(key: str) -> re.Match[str] | None:
    return next((match for match in (spelling.match(key) for spelling in SPELLINGS) if match), None)


def _low_rank(name: str, layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> LowRank:
    if missing := {"up", "down"} - tensors.keys():
        raise ModelError(
            f"{name} has no {' and no '.join(sorted(missing))} matrix for {layer}; a LoRA has both for every layer. "
            f"Use a complete file."
        )
    up, down, mid = tensors["up"], tensors["down"], tensors.get("mid")
    rank = len(down) if down.ndim else 0
    shapes = [list(part.shape) for part in (up, down, mid) if part is not None]
    fits = up.ndim in (2, 4) and down.ndim in (2, 4) and rank and up.shape[1] == rank and up.shape[2:].numel() == 1
    if mid is not None:
        fits = fits and mid.ndim == 4 and list(mid.shape[:2]) == [rank, rank] and down.shape[2:].numel() == 1
    floats = all(part.is_floating_point() for part in tensors.values() if part is not tensors.get("alpha"))
    if not fits or not floats:
        raise ModelError(
            f"{name} has {shapes} in {up.dtype} for {layer}; floating-point matrices [out, rank] and [rank, in] are "
            f"needed. Use an undamaged LoRA file."
        )
    return LowRank(up, down, mid, _alpha(name, layer, tensors, alphas, rank) / rank)


def _alpha(name: str, layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float], rank: int) -> float:
    """The file's alpha for the layer; where it has none, the rank, which leaves the matrices as they are."""
    alpha = tensors.get("alpha")
    if alpha is None:
        return next((value for part, value in alphas.items() if layer.startswith(part)), float(rank))
    if alpha.numel() != 1 or not math.isfinite(alpha.item()):
        raise ModelError(f"{name} has the alpha {alpha.tolist()} for {layer}; one number is needed. Use another file.")
    return float(alpha.item())


def _saved_alphas(path: Path) -> dict[str, float]:
    """Alpha by the prefix of the layers' names, as diffusers and PEFT save it: in a header or in a file beside."""
    try:
        settings = _saved_settings(path)
        special = [key for key in settings if key.endswith((".alpha_pattern", ".use_rslora")) and settings[key]]
        alphas = {
            key.removesuffix("lora_alpha"): float(value)
            for key, value in settings.items()
            if key.endswith(".lora_alpha") and value is not None
        }
        if not all(math.isfinite(alpha) for alpha in alphas.values()):
            raise ValueError("lora_alpha is not finite")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"the settings saved with {path} cannot be read ({error}); lora_alpha is needed. Save the LoRA again."
        ) from error
    if special:
        raise ModelError(
            f"{path} scales its layers by {', '.join(special)}; one alpha for all layers is needed. Save it in kohya "
            f"format, which has an alpha for each layer."
        )
    return alphas


def _saved_settings(path: Path) -> dict[str, object]:
    beside = path.with_name(PEFT_CONFIG)
    if path.stem == PEFT_STEM and beside.is_file():
        return {f"{PEFT_PREFIX}{key}": value for key, value in json.loads(beside.read_text("utf-8")).items()}
    if path.suffix not in SAFETENSORS:
        return {}
    with safe_open(path, framework="pt") as opened:
        return json.loads((opened.metadata() or {}).get(DIFFUSERS_METADATA, "{}"))
