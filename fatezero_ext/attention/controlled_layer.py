"""Description of a controlled attention layer, and the most compact exact form of its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .functional import split_heads
from .key_frames import KeyFrame
from .records import Form
from .sites import LayerAddress, Projection

WORTH_FUSING = 1.05  # queries may be this much larger than the map: a fused kernel reads them, no map is made


class _Projections(Protocol):
    """An attention module's projections to queries and keys."""

    to_q: Callable[[Tensor], Tensor]
    to_k: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ControlledLayer:
    """One layer under control.

    address:    its place in the UNet
    level:      resolution level; cells are `2**level` latent cells wide
    key_frames: frames whose keys it reads, () for its own (and for cross-attention)
    module:     has the projections `to_q` and `to_k`
    query_dim:  width of its input
    heads, dim_head: of its queries and keys
    upcast:     scores are computed in float32 wherever maps are made, as the layer was trained
    added_keys: its input's own keys follow the text's
    projects:   its queries and keys are `to_q` and `to_k` of its input, or of the text, and of nothing else
    text_norm:  applied to the text before `to_k`; None: nothing is
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
    """Choose the most compact exact form of a layer's attention.

    tokens: of the text; a cross-attention map is [heads, tokens] numbers a cell, the queries it comes from [width]
    Self-attention is recorded as the layer's input, half the size of its queries and keys.
    """
    if not layer.projects:
        return "map"
    if layer.address.kind == "self":
        return "features"
    return "features" if not layer.added_keys and layer.inner_dim <= WORTH_FUSING * layer.heads * tokens else "map"


def self_projection(layer: ControlledLayer, device: torch.device, dtype: torch.dtype) -> Projection | None:
    """Return what projects a self-attention layer's input [frames, cells, width] to queries and keys [frames, heads,
    cells, dim]; None if the input alone does not give them.

    device, dtype: of the layer's computation
    """
    return partial(_projected, layer, device, dtype) if layer.projects else None


def _projected(
    layer: ControlledLayer, device: torch.device, dtype: torch.dtype, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    x, module = inputs.to(device, dtype), cast("_Projections", layer.module)
    return split_heads(module.to_q(x), layer.heads), split_heads(module.to_k(x), layer.heads)


def cross_projection(layer: ControlledLayer, text: Tensor) -> Projection | None:
    """Return what joins a cross-attention layer's queries [frames, heads, cells, dim] with the keys of a text; None if
    keys come from more than the text.

    text: [1, tokens, width], in the layer's device and dtype; projected once, here
    """
    if layer.added_keys or not layer.projects:
        return None
    if layer.text_norm is not None:
        text = layer.text_norm(text)
    keys = split_heads(cast("_Projections", layer.module).to_k(text), layer.heads)
    return lambda queries: (queries.to(keys), keys.expand(len(queries), -1, -1, -1))
