"""A LoRA applied to a model: a new model that shares all weights the LoRA leaves alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import ModelError, SettingsError
from ..text_encoder import OPEN_CLIP_LAYERS, ClipTextEncoder
from ..unet.model import Pseudo3DUNet
from ..weight_files import brief
from .file import Change, LoraFile, read_lora, two_changes
from .names import split_part, text_layers, unet_layers

log = logging.getLogger(__name__)

MADE_FOR = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
"""Width of the text embeddings that cross-attention reads."""


def apply_lora(
    unet: Pseudo3DUNet,
    text: ClipTextEncoder | None,
    lora: str | Path | Mapping[str, Tensor],
    *,
    unet_strength: float = 1.0,
    text_strength: float = 1.0,
    name: str | None = None,
    say: Callable[[str], None] = log.warning,
) -> tuple[Pseudo3DUNet, ClipTextEncoder | None]:
    """Add `strength * alpha / rank * up @ down` to the weight of every layer of a LoRA.

    lora: a file (kohya, diffusers, PEFT or ComfyUI layout), or its tensors by name
    name: shown behind the UNet's; None: the file's
    say:  called with a line about each part of the file that is left out, and why
    Returns new models that share all other weights; to take a LoRA off, go on with the old ones. A part that the LoRA
    does not change, or whose strength is 0, is returned as it is. Temporal layers stay as they are.
    Raises SettingsError for strengths that are no numbers; ModelError for files that are no LoRA of this model.
    Source: LoRA (arXiv 2106.09685); LyCORIS (arXiv 2309.14859) for convolutions.
    """
    for strength in (unet_strength, text_strength):
        if not math.isfinite(strength):
            raise SettingsError(
                f"a LoRA's strength is {strength}; a finite number is needed. 1 is what it was made for."
            )
    file = read_lora(lora, name)
    matched = _matched(file, unet, text)
    _say_left_out(matched, file.name, unet, say)
    changed_unet = _changes(file, unet.net, matched.of_unet, unet_strength)
    if changed_unet:
        unet = unet.with_weights(changed_unet, name=f"{unet.name} + {file.name} ({unet_strength:g})")
    if text is not None and (changed_text := _changes(file, text.net, matched.of_text, text_strength)):
        text = text.with_weights(changed_text)
    return unet, text


@dataclass
class _Matched:
    """A file's changes by the names of weights, and its layers that have no place.

    unused:   layers of Stable Diffusion's text encoder whose output is not read
    textless: layers of the text encoder, where there is none
    """

    of_unet: dict[str, Change] = field(default_factory=dict)
    of_text: dict[str, Change] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    textless: list[str] = field(default_factory=list)


def _matched(file: LoraFile, unet: Pseudo3DUNet, text: ClipTextEncoder | None) -> _Matched:
    """Match the file's changes with the weights of the UNet and of the text encoder."""
    places = _Places(
        unet_layers(unet.net),
        {} if text is None else text_layers(text.net),
        {name for name, _ in unet.net.named_parameters()},
        set() if text is None else {name for name, _ in text.net.named_parameters()},
    )
    matched = _Matched(foreign=list(file.unread))
    for kind, changes in (("weight", file.layers), ("bias", file.biases)):
        for layer, change in changes.items():
            part, flat = split_part(layer)
            if part == "text" and text is None:
                matched.textless.append(layer)
            elif part != "text" and (name := places.in_unet(flat, kind)):
                _add(matched.of_unet, name, change, file.name)
            elif part != "unet" and (name := places.in_text(flat, kind)):
                _add(matched.of_text, name, change, file.name)
            elif part == "text" and _is_unused(flat, text):
                matched.unused.append(layer)
            else:
                matched.foreign.append(layer if kind == "weight" else f"{layer}.bias")
    return matched


class _Places(NamedTuple):
    """Places of changes: layers by flat spelling, and names of weights."""

    unet: Mapping[str, str]
    text: Mapping[str, str]
    unet_weights: Collection[str]
    text_weights: Collection[str]

    def in_unet(self, flat: str, kind: str) -> str | None:
        return self._place(self.unet, self.unet_weights, flat, kind)

    def in_text(self, flat: str, kind: str) -> str | None:
        return self._place(self.text, self.text_weights, flat, kind)

    @staticmethod
    def _place(layers: Mapping[str, str], weights: Collection[str], flat: str, kind: str) -> str | None:
        name = f"{layers[flat]}.{kind}" if flat in layers else None
        return name if name in weights else None


def _is_unused(flat: str, text: ClipTextEncoder | None) -> bool:
    """Return whether this is a projection for other uses, or the last of 24 layers, which the UNet does not read."""
    name = flat.removeprefix("text_model_")
    layers = text.net.config.num_hidden_layers if text is not None else 0
    behind = layers == OPEN_CLIP_LAYERS and name.startswith(f"encoder_layers_{OPEN_CLIP_LAYERS}_")
    return name == "text_projection" or behind


def _say_left_out(matched: _Matched, name: str, unet: Pseudo3DUNet, say: Callable[[str], None]) -> None:
    """Raise ModelError if nothing of the file has a place; report what has none."""
    if not matched.of_unet and not matched.of_text:
        textless = f"{brief(matched.textless)} are for the text encoder: connect a clip"
        raise ModelError(
            f"{name} matches no layer of {unet.name}: it has {brief(matched.foreign)}; layers of a Stable Diffusion "
            f"1.x or 2.x UNet or text encoder are needed. "
            f"{textless if matched.textless else 'Use a LoRA made for this model'}."
        )
    if matched.foreign:
        say(f"{name}: left out {brief(matched.foreign)}, which match no layer of {unet.name}")
    if matched.textless:
        say(f"{name}: left out {brief(matched.textless)} of the text encoder, for no clip is given")
    if matched.unused:
        log.info("%s: left out %s, which the UNet does not read", name, brief(matched.unused))


def _add(changes: dict[str, Change], weight: str, change: Change, name: str) -> None:
    if weight in changes:
        raise two_changes(name, weight.removesuffix(".weight"))
    changes[weight] = change


@torch.no_grad()
def _changes(file: LoraFile, net: nn.Module, changes: Mapping[str, Change], strength: float) -> dict[str, Tensor]:
    """Compute the new weights by name; none at strength 0."""
    weights = {name: net.get_parameter(name) for name in changes}
    for name, change in changes.items():
        _check_shape(file.name, name.removesuffix(".weight"), change, weights[name])
    if strength == 0:
        return {}
    return {name: _changed(file.name, name, weights[name], changes[name], strength) for name in changes}


def _check_shape(name: str, layer: str, change: Change, weight: Tensor) -> None:
    wanted, got = list(weight.shape), change.shape()
    # A 1x1 convolution and a linear layer are the same: Stable Diffusion 1.x and 2.x differ in which they use.
    if _without_single_cells(wanted) == _without_single_cells(got):
        return
    known = MADE_FOR.get(got[1]) if len(got) > 1 and layer.endswith(("attn2.to_k", "attn2.to_v")) else None
    raise ModelError(
        f"{name} does not fit: layer {layer} is {wanted}, the LoRA's is {got}{f', as of {known}' if known else ''}. It "
        f"was made for another model; use one made for this one."
    )


def _without_single_cells(shape: list[int]) -> list[int]:
    return shape[:2] if shape[2:] in ([], [1, 1]) else shape


def _changed(name: str, layer: str, weight: Tensor, change: Change, strength: float) -> Tensor:
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
