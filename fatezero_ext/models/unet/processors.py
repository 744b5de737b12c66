"""diffusers' attention processors that hand queries, keys and values to the call's `attend`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ...attention.functional import Attend, merge_heads, plain, split_heads
from ...attention.sites import LayerAddress, Site
from ...errors import ModelError
from . import forward_context as call


@dataclass
class SparseCausalAttention:
    """attn1: queries of a frame, keys and values of the key frames chosen for it.

    Source: Tune-A-Video (arXiv 2212.11565); FateZero (arXiv 2303.09535).
    """

    address: LayerAddress

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Map hidden states [(chunks frames), cells, width] to the same shape."""
        if encoder_hidden_states is not None or attention_mask is not None or attn.added_kv_proj_dim is not None:
            raise NotImplementedError(
                "sparse-causal attention takes no text, no mask and no added keys; use cross-attention for those"
            )
        x = _group_normed(attn, hidden_states)
        q, k, v = (split_heads(project(x), attn.heads) for project in (attn.to_q, attn.to_k, attn.to_v))
        attend, site = _in_call(self.address)
        return _out(attn, attend(q, k, v, replace(site, inputs=x)), attend)


@dataclass
class CrossAttention:
    """attn2: queries of a frame, keys and values of the text, projected once per chunk and shared by its frames."""

    address: LayerAddress

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Map hidden states [(chunks frames), cells, width] to the same shape.

        encoder_hidden_states: [chunks, tokens, text_width]; None: the layer attends to its own input
        attention_mask:        added to the scores, [chunks, 1 or cells, tokens]: 0 keeps, a large negative number drops

        A layer with added keys puts the text's in front of its input's own; a mask for the text alone then keeps all
        of the input's.
        """
        x = _group_normed(attn, hidden_states)
        text = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        q = split_heads(attn.to_q(x), attn.heads)
        if attn.added_kv_proj_dim is None:
            k, v = (self._of_text(project, attn, text, len(x)) for project in (attn.to_k, attn.to_v))
        else:
            pairs = ((attn.add_k_proj, attn.to_k), (attn.add_v_proj, attn.to_v))
            k, v = (
                torch.cat([self._of_text(added, attn, text, len(x)), split_heads(own(x), attn.heads)], dim=2)
                for added, own in pairs
            )
        attend, site = _in_call(self.address)
        if attention_mask is not None:
            site = replace(site, bias=_score_bias(attention_mask, len(x), cells=q.shape[2], keys=k.shape[2]))
        return _out(attn, attend(q, k, v, site), attend)

    @staticmethod
    def _of_text(project: nn.Linear, attn: Attention, text: Tensor, batch: int) -> Tensor:
        return _per_frame(split_heads(project(text), attn.heads), batch)


def _in_call(layer: LayerAddress) -> tuple[Attend, Site]:
    """Return what computes a layer in the running call, and the layer's site in it."""
    running = call.current()
    return running.attend, running.sites[layer]


def _per_frame(x: Tensor, batch: int) -> Tensor:
    """Repeat [chunks, ...] to [(chunks frames), ...]; a single chunk is broadcast without a copy."""
    return x if len(x) == batch else x[:, None].expand(-1, batch // len(x), *x.shape[1:]).flatten(0, 1)


def _score_bias(mask: Tensor, batch: int, *, cells: int, keys: int) -> Tensor:
    """Expand [chunks, 1 or cells, tokens] to [(chunks frames), 1, 1 or cells, keys], shared by the heads."""
    if mask.shape[-1] + cells == keys:
        mask = F.pad(mask, (0, cells))
    if mask.shape[-1] != keys:
        raise ModelError(
            f"the attention mask is for {mask.shape[-1]} keys; the layer has {keys}. Give a mask with one number for "
            f"each token of the text embeddings."
        )
    return _per_frame(mask, batch)[:, None]


def _group_normed(attn: Attention, x: Tensor) -> Tensor:
    return x if attn.group_norm is None else attn.group_norm(x.transpose(1, 2)).transpose(1, 2)


def _out(attn: Attention, x: Tensor, attend: Attend) -> Tensor:
    projected = attn.to_out[0](merge_heads(x))
    # A controlled layer skips the output dropout (it is the identity outside training).
    return attn.to_out[1](projected) if attend is plain else projected
