"""The strength of an edit: text and guidance on their way from the source's."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

TEXT_SHARES = ((0.0, 0.0), (0.25, 0.45), (0.5, 0.6), (0.75, 0.75), (1.0, 1.0))
"""Strengths, and shares of the edit's text that give them. Changes come suddenly, most of them between shares of 0.45
and 0.75: these points spread them over the whole range (measured on the built-in model, docs/toy_model.md)."""


def guidance_at_strength(guidance: float, strength: float) -> float:
    """Return the guidance at a strength: without any of the edit there is none, which keeps the source best."""
    return guidance if strength == 1 else 1 + (guidance - 1) * strength


def text_at_strength(text: Tensor, source: Tensor, token_map: Tensor | None, strength: float) -> Tensor:
    """Lead the edit's text back towards the source's.

    text:      [1 or 2, tokens, width], the edit prompt's embedding last
    source:    [1, tokens, width] embedding of the source prompt
    token_map: [source tokens, edit tokens] as in EditPlan: the source's tokens come to the places of the edit's, so
               that words which only moved stay what they are; a new word comes from the source's padding
    strength:  0 (the source) to 1 (`text` itself is returned)
    """
    if strength == 1 or token_map is None:
        return text
    shares = token_map.sum(0)
    moved = (token_map / shares.clamp_min(torch.finfo(token_map.dtype).tiny)).T @ source[0]
    start = torch.where(shares[:, None] > 0, moved, source[0, -1])
    return torch.cat([text[:-1], torch.lerp(start, text[-1], text_share(strength))[None]])


def text_share(strength: float) -> float:
    """Return the share of the edit's text at a strength, linear between the points of `TEXT_SHARES`."""
    (low, begin), (high, end) = next(pair for pair in pairwise(TEXT_SHARES) if strength <= pair[1][0])
    return begin + (end - begin) * (strength - low) / (high - low)
