"""Drafts of an edit: frames that hardly show its words are drawn again, and of each the best draft is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..diffusion.noise_model import NoiseModel
from .loop import EditedLatents
from .settings import GREATEST_SEED, EditSettings

if TYPE_CHECKING:
    from ..prompts.prompt import Window

log = logging.getLogger(__name__)

WEAK = 0.5
"""Share of the words' highest attention in the clip below which a frame hardly shows them. Frames in which nothing new
was drawn had 0 to 0.3 of it, others 0.6 and more, see docs/toy_model.md."""
FAINT = 0.3
"""The same share that another draft must reach to be taken: what is below it is drawn elsewhere, or not at all."""
HELD_BY_DRAFTS = (1.0, 1.0, 0.6, 0.3)
"""Shares of the windows of attention by the number of the draft; more drafts have the last. Of five clips in which 29
of 40 frames had their new shape, four drafts with the whole windows gave 33, with these 36 (docs/toy_model.md)."""

Draw = Callable[[int], EditedLatents]
"""Draws a draft by its number; the first is 0."""


def best_drafts(draw: Draw, drafts: int, *, together: bool) -> tuple[EditedLatents, Tensor]:
    """Draw an edit, and again while some frames hardly show its words; of these the best draft is kept.

    drafts:   most of them
    together: the frames belong together, so that a draft takes the place of another as a whole or not at all
    Returns the edit, and the number of each frame's draft, int64 [frames] on the CPU.
    """
    best = draw(0)
    numbers = torch.zeros(len(best.latents), dtype=torch.int64)
    if best.shown is None:
        return best, numbers
    highest = _highest(best.shown)
    for number in range(1, drafts):
        weak = weak_frames(best.shown, highest)
        if not weak.any():
            break
        log.info("Frames %s hardly show the edit's words and are drawn again.", weak.nonzero()[:, 0].tolist())
        other = draw(number)
        assert other.shown is not None and best.shown is not None
        highest = torch.maximum(highest, _highest(other.shown))
        if together:
            fewer = weak_frames(other.shown, highest).sum() < weak_frames(best.shown, highest).sum()
            better = fewer.expand_as(weak)
        else:
            better = weak & (other.shown > best.shown) & (other.shown >= FAINT * highest)
        best = _merged(better, other, best)
        numbers[better.cpu()] = number
    return best, numbers


def weak_frames(shown: Tensor, highest: Tensor) -> Tensor:
    """Return which frames hardly show the edit's words, bool [frames]; none where there is nothing to show.

    shown:   see `EditedLatents`
    highest: of all frames and drafts
    """
    return shown < WEAK * highest


def reads_others(unet: NoiseModel) -> bool:
    """Return whether what a frame shows depends on other frames; norms over all of them hardly count."""
    joined = unet.joins_parts and not unet.joins_norms_alone
    return joined or bool(unet.needs_whole_clip) or any(layer.key_frames for layer in unet.layers)


def draft_settings(settings: EditSettings, number: int) -> EditSettings:
    """Return the settings of a draft by its number, from resolved ones with a `fresh_noise_seed`.

    Later drafts draw from the fresh noise of later seeds. From the third on they hold the source's attention for a
    shorter time: what comes out badly from several seeds is held too tightly.
    """
    if number == 0:
        return settings
    held = HELD_BY_DRAFTS[min(number, len(HELD_BY_DRAFTS) - 1)]
    everywhere, own = (cast("Window", window) for window in (settings.cross_replace, settings.self_replace))
    words = cast("dict[str, Window]", settings.cross_replace_words)
    return replace(
        settings,
        cross_replace=_shorter(everywhere, held),
        cross_replace_words={word: _shorter(window, held) for word, window in words.items()},
        self_replace=_shorter(own, held),
        fresh_noise_seed=(cast("int", settings.fresh_noise_seed) + number) % (GREATEST_SEED + 1),
    )


def _shorter(window: Window, share: float) -> Window:
    start, end = window
    return start, start + (end - start) * share


def _highest(shown: Tensor) -> Tensor:
    return shown.nan_to_num(0.0).max()


def _merged(better: Tensor, other: EditedLatents, best: EditedLatents) -> EditedLatents:
    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.view(-1, *[1] * (old.dim() - 1)), new, old)

    assert other.shown is not None and best.shown is not None
    return EditedLatents(
        chosen(other.latents, best.latents),
        chosen(other.mask, best.mask),
        chosen(other.last_mask, best.last_mask),
        chosen(other.shown, best.shown),
    )
