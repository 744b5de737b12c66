"""The strength of an edit: its text on the way from the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SHARE = 0.5
"""Share of the edit's text below which nothing is edited: measured on the built-in model, see docs/toy_model.md."""


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
    share = LEAST_SHARE + (1 - LEAST_SHARE) * strength if strength else 0.0
    return torch.cat([text[:-1], torch.lerp(start, text[-1], share)[None]])
