"""Attention kernels: what every layer under control is computed with.

All functions take queries [(chunks frames), heads, cells, dim] and the keys and values as they were projected, one set
per frame, [(chunks frames), heads, tokens, dim]; the site says from which frames a frame takes its keys.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Site


class Attend(Protocol):
    """The one seam: how a layer turns queries, keys and values into its output.

    q: [(chunks frames), heads, cells, dim]
    k, v: [(chunks frames), heads, tokens, dim], not yet gathered over key frames
    Returns [(chunks frames), heads, cells, dim] in q's dtype.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor: ...


def gather_key_frames(x: Tensor, site: Site) -> Tensor:
    """Concatenate along the token axis the keys (or values) of the frames each frame attends to.

    x: [(chunks frames), heads, tokens, dim]
    Returns [(chunks frames), heads, (key_frames tokens), dim]; `x` itself where each frame attends to itself.
    """
    if not site.key_frames:
        return x
    per_frame = x.unflatten(0, (-1, site.frames))
    gathered = [per_frame.index_select(1, source) for source in site.key_frames]
    return torch.cat(gathered, dim=3).flatten(0, 1)


def plain(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Attention as the model was trained, on the fastest kernel PyTorch has for it."""
    return F.scaled_dot_product_attention(q, gather_key_frames(k, site), gather_key_frames(v, site))


def attention_probs(q: Tensor, k: Tensor, site: Site) -> Tensor:
    """The softmax probabilities themselves.

    Returns [(chunks frames), heads, cells, keys] in q's dtype; the softmax is taken in float32.
    """
    keys = gather_key_frames(k, site)
    queries, keys = (q.float(), keys.float()) if site.upcast else (q, keys)
    scores = (queries * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)


def apply_probs(probs: Tensor, v: Tensor, site: Site) -> Tensor:
    """Meet probabilities [.., cells, keys] with values; keys are gathered over key frames first."""
    return probs @ gather_key_frames(v, site)
