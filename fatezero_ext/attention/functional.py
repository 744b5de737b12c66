"""Attention as plain functions, and the seam through which every layer under control calls one.

All functions take queries [(chunks frames), heads, cells, dim] and the keys and values as they were projected, one set
per frame, [(chunks frames), heads, tokens, dim]; the site says from which frames a frame takes its keys. Where a call
computes a part of a clip, those of `site.before` frames of earlier parts stand in front of each chunk's.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from .sites import Site


class Attend(Protocol):
    """Turns a layer's queries, keys and values into its output: the one seam for every kind of control.

    q: [(chunks frames), heads, cells, dim]
    k, v: [(chunks (before frames)), heads, tokens, dim], not yet gathered over key frames
    Returns [(chunks frames), heads, cells, dim] in q's dtype.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor: ...


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape [batch, tokens, (heads dim)] to [batch, heads, tokens, dim], without a copy."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Reshape [batch, heads, tokens, dim] to [batch, tokens, (heads dim)]."""
    return x.transpose(1, 2).flatten(2)


def gather_key_frames(x: Tensor, site: Site) -> Tensor:
    """Concatenate along the token axis the keys (or values) of the frames each frame attends to.

    x: [(chunks (before frames)), heads, tokens, dim]
    Returns [(chunks frames), heads, (key_frames tokens), dim]; `x` itself where each frame attends to itself.
    """
    if not site.key_frames:
        return x
    per_frame = x.unflatten(0, (-1, site.key_sources))
    gathered = [per_frame.index_select(1, source) for source in site.key_frames]
    return torch.cat(gathered, dim=3).flatten(0, 1)


def plain(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Compute attention as the model was trained, on the fastest kernel PyTorch has for it."""
    bias = None if site.bias is None else site.bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, gather_key_frames(k, site), gather_key_frames(v, site), attn_mask=bias)


def explicit(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Compute the same attention through the probabilities: the reference for every faster way."""
    return apply_probs(attention_probs(q, k, site), v, site)


def sliced(heads_at_once: int) -> Attend:
    """Make attention with never more than `heads_at_once` maps in memory, for devices without a fused kernel.

    heads_at_once: maps of (frame, head) pairs computed together, 1 or more
    Source: diffusers' sliced attention, whose slice size counts the joint axis of batch and heads.
    """
    if heads_at_once < 1:
        raise SettingsError(f"heads_at_once is {heads_at_once}; at least one map has to be computed. Use 1 or more.")

    def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        batch, heads = q.shape[:2]
        queries, keys, values = (x.flatten(0, 1) for x in (q, gather_key_frames(k, site), gather_key_frames(v, site)))
        bias = None if site.bias is None else site.bias.expand(batch, heads, -1, -1).flatten(0, 1)
        out = torch.empty_like(queries)
        for start in range(0, len(queries), heads_at_once):
            at = slice(start, start + heads_at_once)
            added = None if bias is None else bias[at]
            out[at] = _softmax_scores(queries[at], keys[at], added, upcast=site.upcast) @ values[at]
        heads_apart: Tensor = out.unflatten(0, (batch, heads))
        return heads_apart

    return attend


def attention_probs(q: Tensor, k: Tensor, site: Site) -> Tensor:
    """Compute the softmax probabilities.

    Returns [(chunks frames), heads, cells, keys] in q's dtype; the softmax is taken in float32.
    """
    return _softmax_scores(q, gather_key_frames(k, site), site.bias, upcast=site.upcast)


def _softmax_scores(q: Tensor, k: Tensor, bias: Tensor | None, *, upcast: bool) -> Tensor:
    queries, keys = (q.float(), k.float()) if upcast else (q, k)
    scale: float = q.shape[-1] ** -0.5
    scores = (queries * scale) @ keys.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)


def apply_probs(probs: Tensor, v: Tensor, site: Site) -> Tensor:
    """Apply probabilities [.., cells, keys] to values, gathered over key frames first."""
    return probs @ gather_key_frames(v, site)
