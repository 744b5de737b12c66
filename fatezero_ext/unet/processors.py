"""diffusers attention processors that ask the call's `attend` and know nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..attention import plain
from ..layers import LayerAddress
from .call import Call


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, (heads dim)] -> [batch, heads, tokens, dim], without a copy."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, dim] -> [batch, tokens, (heads dim)]."""
    return x.transpose(1, 2).flatten(2)


@dataclass
class SparseCausalAttention:
    """attn1: queries of a frame, keys and values of the key frames chosen for it.

    Source: Tune-A-Video (arXiv 2212.11565); FateZero (arXiv 2303.09535).
    """

    address: LayerAddress
    call: Call

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: [(chunks frames), cells, width] -> the same shape."""
        if encoder_hidden_states is not None or attention_mask is not None or attn.added_kv_proj_dim is not None:
            raise NotImplementedError(
                "sparse-causal attention takes no text, no mask and no added keys; use cross-attention for those"
            )
        x = _group_normed(attn, hidden_states)
        q, k, v = (split_heads(project(x), attn.heads) for project in (attn.to_q, attn.to_k, attn.to_v))
        return _out(attn, self.call.attend(q, k, v, self.call.sites[self.address]), self.call)


@dataclass
class CrossAttention:
    """attn2: queries of a frame, keys and values of the text, projected once per chunk and shared by its frames."""

    address: LayerAddress
    call: Call

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states: [(chunks frames), cells, width]; encoder_hidden_states: [chunks, tokens, text_width]."""
        if attention_mask is not None:
            raise NotImplementedError("cross-attention under control takes no mask; leave it out")
        x = _group_normed(attn, hidden_states)
        text = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        q = split_heads(attn.to_q(x), attn.heads)
        k, v = (self._per_frame(split_heads(project(text), attn.heads), len(x)) for project in (attn.to_k, attn.to_v))
        return _out(attn, self.call.attend(q, k, v, self.call.sites[self.address]), self.call)

    @staticmethod
    def _per_frame(x: Tensor, batch: int) -> Tensor:
        """[chunks, ...] -> [(chunks frames), ...]; a single chunk is broadcast without a copy."""
        return x if len(x) == batch else x[:, None].expand(-1, batch // len(x), *x.shape[1:]).flatten(0, 1)


def _group_normed(attn: Attention, x: Tensor) -> Tensor:
    return x if attn.group_norm is None else attn.group_norm(x.transpose(1, 2)).transpose(1, 2)


def _out(attn: Attention, x: Tensor, call: Call) -> Tensor:
    projected = attn.to_out[0](merge_heads(x))
    # A controlled layer skips the output dropout (it is the identity outside training).
    return attn.to_out[1](projected) if call.attend is plain else projected
