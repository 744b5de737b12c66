"""Attention layers under control: what is known of one, and how its attention is kept small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .functional import split_heads
from .key_frames import KeyFrame
from .records import Form
from .sites import LayerAddress, Projection

WORTH_FUSING = 1.05  # queries may be this much larger than the map: a fused kernel reads them, no map is made


@dataclass(frozen=True)
class ControlledLayer:
    """One layer under control.

    address:    where it is
    level:      resolution level; cells are `2**level` latent cells wide
    key_frames: frames whose keys it reads, () for its own (and for cross-attention)
    module:     has the projections `to_q` and `to_k`
    query_dim:  width of its input
    heads, dim_head: of its queries and keys
    upcast:     scores are computed in float32 wherever maps are made, as the layer was trained
    added_keys: its input's own keys follow the text's
    projects:   its queries and keys are `to_q` and `to_k` of its input, or of the text, and of nothing else
    text_norm:  what the text goes through before `to_k`
    """

    address: LayerAddress
    level: int
    key_frames: tuple[KeyFrame, ...]
    module: nn.Module
    query_dim: int
    heads: int
    dim_head: int
    upcast: bool = False
    added_keys: bool = False
    projects: bool = True
    text_norm: Callable[[Tensor], Tensor] | None = None

    @property
    def inner_dim(self) -> int:
        """Width of the queries, all heads together."""
        return self.heads * self.dim_head


def kept_form(layer: ControlledLayer, tokens: int) -> Form:
    """The cheapest exact form of a layer's attention.

    tokens: of the text; a cross-attention map is [heads, tokens] numbers a cell, the queries it comes from [width]
    Self-attention is kept as the layer's input, half the size of its queries and keys.
    """
    if not layer.projects:
        return "map"
    if layer.address.kind == "self":
        return "features"
    return "features" if not layer.added_keys and layer.inner_dim <= WORTH_FUSING * layer.heads * tokens else "map"


def self_projection(layer: ControlledLayer, device: torch.device, dtype: torch.dtype) -> Projection | None:
    """From a self-attention layer's input [frames, cells, width] to queries and keys [frames, heads, cells, dim].

    device, dtype: that the layer computes in
    None where the input alone does not give them.
    """
    return partial(_projected, layer, device, dtype) if layer.projects else None


def _projected(
    layer: ControlledLayer, device: torch.device, dtype: torch.dtype, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x = inputs.to(device, dtype)
    return split_heads(layer.module.to_q(x), layer.heads), split_heads(layer.module.to_k(x), layer.heads)


def cross_projection(layer: ControlledLayer, text: Tensor, frames: int) -> Projection | None:
    """From a cross-attention layer's queries [frames, heads, cells, dim] to these and the keys of a text.

    text: [1, tokens, width], in the layer's device and dtype; projected once, here
    None where keys come from more than the text.
    """
    if layer.added_keys or not layer.projects:
        return None
    if layer.text_norm is not None:
        text = layer.text_norm(text)
    keys = split_heads(layer.module.to_k(text), layer.heads).expand(frames, -1, -1, -1)
    return lambda queries: (queries.to(keys), keys)
