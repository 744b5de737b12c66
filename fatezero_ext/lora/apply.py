"""A LoRA applied to a model: a new model that shares all weights the LoRA leaves alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError, SettingsError
from ..text import TextEncoder
from ..unet import Pseudo3DUNet
from ..weight_files import some
from .file import LoraFile, LowRank, read_lora
from .names import split_part, text_layers, unet_layers

log = logging.getLogger(__name__)

MADE_FOR = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
"""Width of the text embeddings that cross-attention reads."""


def apply_lora(
    unet: Pseudo3DUNet,
    text: TextEncoder | None,
    lora: str | Path | Mapping[str, Tensor],
    *,
    unet_strength: float = 1.0,
    text_strength: float = 1.0,
    name: str | None = None,
) -> tuple[Pseudo3DUNet, TextEncoder | None]:
    """Models with `weight + strength * alpha / rank * up @ down` in every layer of a LoRA.

    lora: a file (kohya, diffusers or PEFT layout), or its tensors by name
    name: shown behind the UNet's; None: the file's
    The models given are not changed; to take a LoRA off, go on with them. A part that the LoRA does not change, or
    whose strength is 0, is returned as it is. Temporal layers are left alone.
    Raises SettingsError for strengths that are no numbers; ModelError for files that are no LoRA of this model.
    Source: LoRA (arXiv 2106.09685); LyCORIS (arXiv 2309.14859) for convolutions.
    """
    for strength in (unet_strength, text_strength):
        if not math.isfinite(strength):
            raise SettingsError(
                f"a LoRA's strength is {strength}; a finite number is needed. 1 is what it was made for."
            )
    file = read_lora(lora, name)
    of_unet, of_text = _matched(file, unet, text)
    changed_unet = _changes(file, unet.net, of_unet, unet_strength)
    if changed_unet:
        unet = unet.with_weights(changed_unet, name=f"{unet.name} + {file.name} ({unet_strength:g})")
    if text is not None and (changed_text := _changes(file, text.net, of_text, text_strength)):
        text = text.with_weights(changed_text)
    return unet, text


def _matched(
    file: LoraFile, unet: Pseudo3DUNet, text: TextEncoder | None
) -> tuple[dict[str, LowRank], dict[str, LowRank]]:
    """The file's changes by the names of the UNet's and of the text encoder's layers."""
    unet_names, text_names = unet_layers(unet.net), {} if text is None else text_layers(text.net)
    of_unet, of_text, foreign, idle = {}, {}, list(file.unread), []
    for layer, change in file.layers.items():
        part, flat = split_part(layer)
        if part == "text" and text is None:
            idle.append(layer)
        elif part != "text" and flat in unet_names:
            _add(of_unet, unet_names[flat], change, file.name)
        elif part != "unet" and flat in text_names:
            _add(of_text, text_names[flat], change, file.name)
        else:
            foreign.append(layer)
    if not of_unet and not of_text:
        hint = f"{some(idle)} are for the text encoder: connect a clip" if idle else "Use a LoRA made for this model"
        raise ModelError(
            f"{file.name} matches no layer of {unet.name}: it has {some(foreign)}; layers of a Stable Diffusion 1.x or "
            f"2.x UNet or text encoder are needed. {hint}."
        )
    if foreign:
        log.warning("%s: left out %s, which match no layer of %s", file.name, some(foreign), unet.name)
    if idle:
        log.info("%s: left out %s of the text encoder, for there is none", file.name, some(idle))
    return of_unet, of_text


def _add(changes: dict[str, LowRank], layer: str, change: LowRank, name: str) -> None:
    if layer in changes:
        raise ModelError(
            f"{name} has two changes for layer {layer}, by two of its names; one is needed. Use an undamaged LoRA file."
        )
    changes[layer] = change


@torch.no_grad()
def _changes(file: LoraFile, net: nn.Module, layers: Mapping[str, LowRank], strength: float) -> dict[str, Tensor]:
    """The new weights by name; none at strength 0."""
    weights = {layer: net.get_submodule(layer).weight for layer in layers}
    for layer, change in layers.items():
        _check_shape(file.name, layer, change, weights[layer])
    if strength == 0:
        return {}
    return {f"{layer}.weight": _changed(file.name, layer, weights[layer], layers[layer], strength) for layer in layers}


def _check_shape(name: str, layer: str, change: LowRank, weight: Tensor) -> None:
    wanted, got = list(weight.shape), change.shape()
    # A 1x1 convolution and a linear layer are the same: Stable Diffusion 1.x and 2.x differ in which they use.
    if _without_single_cells(wanted) == _without_single_cells(got):
        return
    known = MADE_FOR.get(got[1]) if layer.endswith(("attn2.to_k", "attn2.to_v")) else None
    raise ModelError(
        f"{name} does not fit: layer {layer} is {wanted}, the LoRA's is {got}{f', as of {known}' if known else ''}. It "
        f"was made for another model; use one made for this one."
    )


def _without_single_cells(shape: list[int]) -> list[int]:
    return shape[:2] if shape[2:] in ([], [1, 1]) else shape


def _changed(name: str, layer: str, weight: Tensor, change: LowRank, strength: float) -> Tensor:
    delta = change.delta(weight)
    if not delta.isfinite().all():
        raise ModelError(
            f"{name} has infinite or undefined numbers for {layer}; finite ones are needed. Restore the file."
        )
    changed = (weight.to(delta.dtype) + strength * delta).to(weight.dtype)
    if not changed.isfinite().all():
        raise ModelError(
            f"{name} at strength {strength:g} takes {layer} out of the range of {weight.dtype}; finite weights are "
            f"needed. Use a smaller strength, or load the model in float32."
        )
    return changed
