"""Where words look and which places belong together: recorded attention, averaged into maps for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..attention.sites import LayerAddress, Site
from ..editing.masks import blend_layers
from ..editing.settings import texts
from ..errors import PromptError, SettingsError
from ..inversion.controller import Controller
from ..inversion.source_reader import SourceReader
from ..inversion.trace import Trace
from ..prompts.words import PROMPT_TOKENS, Word
from .selection import Reading

OnRead = Callable[[int, int], None]


def ignore_read(done: int, total: int) -> None:
    """The default `on_read`: called after every step's page; one that raises ends the reading there."""


def asked_words(controller: Controller, phrases: str | Sequence[str] = ()) -> tuple[Word, ...]:
    """The words to look at, with their tokens: the asked ones, or every word of the source prompt if there are none.

    phrases: words of the source prompt, or several in a row; one that occurs twice has the tokens of both places; one
             text is one phrase
    Raises PromptError for words that are not in the prompt, SettingsError for what is no text, StoreError without an
    inversion.
    """
    prompt = controller.inverted().prompt
    if asked := () if phrases in (None, "") else texts("words", phrases):
        return tuple(Word(phrase, prompt.find(phrase, "words")) for phrase in asked)
    if not prompt.words:
        raise PromptError(
            "source_prompt is empty, so there are no words to look at; at least one is needed. "
            "Invert the clip under a prompt that describes it."
        )
    return prompt.words


def word_labels(words: Sequence[Word]) -> list[str]:
    """What the words are called in pictures; words that occur several times say where: `the [5]`."""
    texts = [word.text for word in words]
    return [word.text if texts.count(word.text) == 1 else f"{word.text} {list(word.tokens)}" for word in words]


def word_heats(
    controller: Controller,
    phrases: str | Sequence[str] = (),
    reading: Reading | None = None,
    *,
    on_read: OnRead = ignore_read,
) -> Tensor:
    """How much attention each place pays to each word: mean over steps, layers of one resolution, and heads.

    phrases: what `asked_words` takes; the tokens of a phrase are added up
    on_page: called as (done, total) after each step's page; never more than one layer's map is in memory
    Returns [words, frames, height, width] float32, shares of attention 0..1, in the order of `asked_words`.
    Raises what `asked_words` does, and SettingsError for a resolution that was not recorded, before any page is read.
    Source: FateZero's show_cross_attention, for any frame size and for phrases.
    """
    trace, reading = controller.inverted(), reading or Reading()
    weights = torch.zeros(PROMPT_TOKENS, len(words := asked_words(controller, phrases)), dtype=torch.float32)
    for column, word in enumerate(words):
        weights[list(word.tokens), column] = 1
    layers = _layers(controller, trace, reading)

    def places(probs: Tensor, site: Site) -> Tensor:
        per_cell = probs[..., :PROMPT_TOKENS] @ weights.to(probs.device)  # [frames, heads, cells, words]
        return per_cell.sum(dim=1).unflatten(1, (site.height, site.width))

    return _mean(controller, layers, reading, on_read, places).permute(3, 0, 1, 2)


def self_attention_maps(
    controller: Controller, reading: Reading | None = None, *, on_read: OnRead = ignore_read
) -> Tensor:
    """How much each place looks at each other place: mean over steps, layers of one resolution, and heads.

    The keys of several key frames lie on one another: the attention a place pays to the same place of all key frames
    is added up, so that every row still sums to 1.

    on_page: as in `word_heats`
    Returns [frames, height, width, key_height, key_width] float32 on the CPU; keys are places of the key frames.
    Raises SettingsError where self-attention or the resolution was not recorded, StoreError without an inversion.
    """
    trace, reading = controller.inverted(), reading or Reading()
    if not trace.capture.self_attention:
        raise SettingsError(
            "the inversion recorded no self-attention; its components need it. Switch on self_attention where "
            "attention control is registered and invert again."
        )
    layers = tuple(replace(address, kind="self") for address in _layers(controller, trace, reading))

    def places(probs: Tensor, site: Site) -> Tensor:
        looked_at = probs.sum(dim=1).unflatten(-1, (-1, site.height, site.width)).sum(dim=2)
        return looked_at.unflatten(1, (site.height, site.width))

    return _mean(controller, layers, reading, on_read, places)


def _layers(controller: Controller, trace: Trace, reading: Reading) -> tuple[LayerAddress, ...]:
    """The cross-attention layers of the resolution that is read."""
    sites = controller.unet.sites(trace.frames, *trace.size)
    return blend_layers(sites, trace.capture.most_cells, reading.downscale)


def _mean(
    controller: Controller,
    layers: Sequence[LayerAddress],
    reading: Reading,
    on_read: OnRead,
    places: Callable[[Tensor, Site], Tensor],
) -> Tensor:
    """Mean over the heads of every layer's map at every step that is read; float32, on the CPU.

    places: of one layer's map [frames, heads, cells, keys], its heads added up
    Maps are made one at a time and where the model computes, which is brought there: attention that is kept as
    features, or not at all, is computed from its weights.
    """
    unet, trace = controller.unet, controller.inverted()
    steps = reading.steps(len(trace.schedule))
    wanted = [layers if step in steps else () for step in range(len(trace.schedule))]

    def work() -> Tensor:
        sites, like = unet.sites(trace.frames, *trace.size), torch.empty(0, dtype=torch.float32, device=unet.device)
        total, maps = torch.zeros((), dtype=torch.float32, device=unet.device), 0
        with SourceReader(unet, trace, wanted) as pages:
            for done, step in enumerate(steps, 1):
                page = pages.read(step)
                for address in layers:
                    probs = page[address].probs(like)
                    total, maps = total + places(probs, sites[address]), maps + probs.shape[1]
                on_read(done, len(steps))
        return total.div(maps).cpu()

    return unet.run(work, 1, trace.frames, *trace.size)
