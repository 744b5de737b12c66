"""Matrices of a LoRA file, from any trainer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import ModelError
from ...untrusted.plain_files import read_json, shown
from ..file_kinds import Shapes, check_lora
from ..weight_files import WeightFile
from .names import PEFT_PREFIX

SPELLINGS = (
    re.compile(r"^(?P<layer>.+)\.lora_(?P<part>down|up|mid)\.weight$"),
    re.compile(r"^(?P<layer>.+)\.lora_(?P<part>[AB])(\.\w+)?\.weight$"),
    re.compile(r"^(?P<layer>.+)(_lora|\.lora|\.lora_linear_layer)\.(?P<part>down|up)\.weight$"),
    re.compile(r"^(?P<layer>.+)\.(?P<part>alpha|diff|diff_b|w_norm|b_norm)$"),
)
DIFFERENCES, BIASES = ("diff", "w_norm"), ("diff_b", "b_norm")
"""Whole differences of a layer's weight and bias, as ComfyUI's Extract and Save Lora and LyCORIS write them."""
PEFT_PARTS = {"A": "down", "B": "up"}
DIFFUSERS_METADATA = "lora_adapter_metadata"
LARGEST_ALPHA = 1e9
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"


class Change(Protocol):
    """Change of one weight or bias."""

    def shape(self) -> list[int]:
        """Shape of the weight that it was made for."""

    def delta(self, like: Tensor) -> Tensor:
        """Compute the change of a weight `like` at strength 1, in its shape, on its device, float32 or finer."""


@dataclass(frozen=True)
class Difference:
    """A change stored as a whole tensor."""

    difference: Tensor

    def shape(self) -> list[int]:
        """Shape of the weight that it was made for."""
        return list(self.difference.shape)

    def delta(self, like: Tensor) -> Tensor:
        """Compute the change of a weight `like` at strength 1, in its shape, on its device, float32 or finer."""
        return self.difference.to(like.device, torch.promote_types(like.dtype, torch.float32)).reshape(like.shape)


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
        """Shape of the weight that it was made for."""
        cells = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return [len(self.up), self.down.shape[1], *cells]

    def delta(self, like: Tensor) -> Tensor:
        """Compute the change of a weight `like` at strength 1, in its shape, on its device, float32 or finer."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        up, down = (part.to(like.device, dtype).flatten(1) for part in (self.up, self.down))
        if self.mid is not None:
            down = torch.einsum("pqhw,qi->pihw", self.mid.to(like.device, dtype), down).flatten(1)
        return (up @ down).reshape(like.shape) * self.scale


@dataclass(frozen=True)
class LoraFile:
    """Contents of a LoRA file.

    name:   what users know it by
    layers: its changes of weights by the layers' names as the file has them
    biases: its changes of biases, likewise
    unread: keys that belong to no change
    """

    name: str
    layers: Mapping[str, Change]
    biases: Mapping[str, Change] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read_lora(source: str | Path | Mapping[str, Tensor], name: str | None = None) -> LoraFile:
    """Read a LoRA file, or its tensors by name.

    Raises ModelError for files that cannot be read, hold something else, or lack half of a layer.
    """
    if isinstance(source, Mapping):
        weights, alphas, name = source, {}, name or "LoRA"
        spelt = _checked_spellings({key: tuple(x.shape) for key, x in source.items()}, name)
    else:
        path = Path(source)
        name = name or path.stem
        file = WeightFile(path)
        spelt = _checked_spellings(file.shapes, name)
        weights, alphas = file.read(spelt), _saved_alphas(path, file.metadata)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, match in spelt.items():
        part = PEFT_PARTS.get(match["part"], match["part"])
        parts.setdefault(_layer(match), {})[part] = weights[key]
    layers, biases = {}, {}
    for layer, tensors in parts.items():
        if (change := _weight_change(name, layer, tensors, alphas)) is not None:
            layers[layer] = change
        if (bias := _difference(name, layer, tensors, BIASES)) is not None:
            biases[layer] = bias
    keys = weights if isinstance(source, Mapping) else file.shapes
    lone = {key for key, match in spelt.items() if match["part"] == "alpha" and _layer(match) not in layers}
    return LoraFile(name, layers, biases, unread=tuple(sorted(lone | keys.keys() - spelt.keys())))


def _layer(match: re.Match[str]) -> str:
    return match["layer"].removesuffix("_lora")


def _checked_spellings(shapes: Shapes, name: str) -> dict[str, re.Match[str]]:
    """Match each key of a LoRA with its spelling; raises ModelError for other files."""
    spelt = {key: match for key in shapes if (match := _spelling(key))}
    check_lora(shapes, [key for key, match in spelt.items() if match["part"] != "alpha"], name)
    return spelt


def _weight_change(name: str, layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> Change | None:
    """Return a layer's change; None if only its bias changes, or nothing: some files have an alpha without matrices."""
    difference = _difference(name, layer, tensors, DIFFERENCES)
    if difference is None and tensors.keys() <= {*BIASES, "alpha"}:
        return None
    if difference is not None and tensors.keys() & {"up", "down", "mid"}:
        raise two_changes(name, layer)
    return difference or _low_rank(name, layer, tensors, alphas)


def _difference(name: str, layer: str, tensors: Mapping[str, Tensor], parts: tuple[str, ...]) -> Difference | None:
    found = [tensors[part] for part in parts if part in tensors]
    if len(found) > 1:
        raise two_changes(name, layer)
    if found and not found[0].is_floating_point():
        raise ModelError(
            f"{name} has a difference in {found[0].dtype} for {shown(layer)}; floating-point numbers are needed. Use "
            f"an undamaged LoRA file."
        )
    return Difference(found[0]) if found else None


def two_changes(name: str, layer: str) -> ModelError:
    """Error for a file that changes one weight twice."""
    return ModelError(
        f"{name} has two changes for layer {shown(layer)}, by two of its names; one is needed. Use an undamaged LoRA "
        f"file."
    )


def _spelling(key: str) -> re.Match[str] | None:
    return next((match for match in (spelling.match(key) for spelling in SPELLINGS) if match), None)


def _low_rank(name: str, layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> LowRank:
    if missing := {"up", "down"} - tensors.keys():
        raise ModelError(
            f"{name} has no {' and no '.join(sorted(missing))} matrix for {shown(layer)}; a LoRA has both for every "
            f"layer. Use a complete file."
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
            f"{name} has {shown(shapes)} in {up.dtype} for {shown(layer)}; floating-point matrices [out, rank] and "
            f"[rank, in] are needed. Use an undamaged LoRA file."
        )
    return LowRank(up, down, mid, _alpha(name, layer, tensors, alphas, rank) / rank)


def _alpha(name: str, layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, float], rank: int) -> float:
    """Return the file's alpha for the layer; if it has none, the rank, which leaves the matrices as they are."""
    alpha = tensors.get("alpha")
    if alpha is None:
        return next((value for part, value in alphas.items() if layer.startswith(part)), float(rank))
    if alpha.numel() != 1 or alpha.is_complex() or not math.isfinite(alpha.item()):
        value = shown(alpha.item()) if alpha.numel() == 1 else f"of shape {shown(list(alpha.shape))}"
        raise ModelError(f"{name} has the alpha {value} for {shown(layer)}; one number is needed. Use another file.")
    return float(alpha.item())


def _saved_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """Read alphas by prefix of the layers' names, as diffusers and PEFT save them: in a header or a file beside."""
    settings = _saved_settings(path, metadata)
    special = [key for key in settings if key.endswith((".alpha_pattern", ".use_rslora")) and settings[key]]
    alphas = {key: value for key, value in settings.items() if key.endswith(".lora_alpha") and value is not None}
    for key, value in alphas.items():
        if type(value) not in (int, float) or not abs(value) < LARGEST_ALPHA:
            raise _unread(path, f"{shown(key)} is {shown(value)}, not finite or no number")
    if special:
        raise ModelError(
            f"{path} scales its layers by {', '.join(map(shown, special[:3]))}; one alpha for all layers is needed. "
            f"Save it in kohya format, which has an alpha for each layer."
        )
    return {key.removesuffix("lora_alpha"): float(value) for key, value in alphas.items()}


def _saved_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    beside = path.with_name(PEFT_CONFIG)
    if path.stem == PEFT_STEM and beside.is_file():
        return {f"{PEFT_PREFIX}{key}": value for key, value in read_json(beside).items()}
    try:
        settings = json.loads(metadata.get(DIFFUSERS_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise _unread(path, "they are no JSON") from error
    if not isinstance(settings, dict):
        raise _unread(path, f"they are {type(settings).__name__}")
    return settings


def _unread(path: Path, why: str) -> ModelError:
    return ModelError(
        f"the settings saved with {path} cannot be read ({why}); lora_alpha is needed. Save the LoRA again."
    )
