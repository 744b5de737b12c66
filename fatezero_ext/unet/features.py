"""How a layer's attention is kept small: as what its queries and keys are projected from."""

from __future__ import annotations

from functools import partial

from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..layers import Projection
from ..records import Form
from .inflate import ControlledLayer
from .processors import split_heads

WORTH_FUSING = 1.05  # queries may be this much larger than the map: a fused kernel reads them, no map is made


def kept_form(layer: ControlledLayer, tokens: int) -> Form:
    """The cheapest exact form of a layer's attention.

    tokens: of the text; a cross-attention map is [heads, tokens] numbers a cell, the queries it comes from [width]
    Self-attention is kept as the layer's input, half the size of its queries and keys.
    """
    attn = layer.module
    if layer.address.kind == "self":
        return "features"
    plain_text = attn.added_kv_proj_dim is None
    return "features" if plain_text and attn.inner_dim <= WORTH_FUSING * attn.heads * tokens else "map"


def self_projection(attn: Attention) -> Projection:
    """From a self-attention layer's input [frames, cells, width] to queries and keys [frames, heads, cells, dim]."""
    return partial(_projected, attn)


def _projected(attn: Attention, inputs: Tensor) -> tuple[Tensor, Tensor]:
    x = inputs.to(attn.to_q.weight)
    return split_heads(attn.to_q(x), attn.heads), split_heads(attn.to_k(x), attn.heads)


def cross_projection(attn: Attention, text: Tensor, frames: int) -> Projection | None:
    """From a cross-attention layer's queries [frames, heads, cells, dim] to these and the keys of a text.

    text: [1, tokens, width], on the layer's device and dtype; projected once, here
    None for layers with added keys, which come from more than the text.
    """
    if attn.added_kv_proj_dim is not None:
        return None
    if attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    keys = split_heads(attn.to_k(text), attn.heads).expand(frames, -1, -1, -1)
    return lambda queries: (queries.to(keys), keys)
