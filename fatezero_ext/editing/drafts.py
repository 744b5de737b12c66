"""Drafts of an edit: frames that hardly show its words are drawn again, and of each the best draft is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from ..diffusion.noise_model import NoiseModel
from .loop import EditedLatents

log = logging.getLogger(__name__)

WEAK = 0.5
"""Share of the words' highest attention in the clip below which a frame hardly shows them. Frames in which nothing new
was drawn had 0 to 0.3 of it, others 0.6 and more, see docs/toy_model.md."""

Draw = Callable[[int], EditedLatents]
"""Draws a draft by its number; the first is 0."""


def best_drafts(draw: Draw, drafts: int, *, together: bool) -> tuple[EditedLatents, Tensor]:
    """Draw an edit, and again while some frames hardly show its words; of these the best draft is kept.

    drafts:   most of them
    together: the frames depend on each other, so that a draft takes the place of another as a whole or not at all
    Returns the edit, and the number of each frame's draft, int64 [frames] on the CPU.
    """
    best = draw(0)
    numbers = torch.zeros(len(best.latents), dtype=torch.int64)
    for number in range(1, drafts):
        if best.shown is None or not (weak := weak_frames(best.shown)).any():
            break
        log.info("Frames %s hardly show the edit's words and are drawn again.", weak.nonzero()[:, 0].tolist())
        other = draw(number)
        assert other.shown is not None
        if together:
            better = (other.shown.min() > best.shown.min()).expand_as(weak)
        else:
            better = weak & (other.shown > best.shown)
        best = _merged(better, other, best)
        numbers[better.cpu()] = number
    return best, numbers


def weak_frames(shown: Tensor) -> Tensor:
    """Return which frames hardly show the edit's words, bool [frames]; shown: see `EditedLatents`."""
    return shown < WEAK * shown.max()


def reads_others(unet: NoiseModel) -> bool:
    """Return whether what a frame shows depends on other frames; norms over all of them hardly count."""
    joined = unet.joins_parts and not unet.joins_norms_alone
    return joined or bool(unet.needs_whole_clip) or any(layer.key_frames for layer in unet.layers)


def _merged(better: Tensor, other: EditedLatents, best: EditedLatents) -> EditedLatents:
    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.view(-1, *[1] * (old.dim() - 1)), new, old)

    return EditedLatents(*(chosen(getattr(other, one.name), getattr(best, one.name)) for one in fields(best)))
