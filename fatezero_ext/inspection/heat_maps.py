"""Heat maps of words and of self-attention: recorded attention, averaged to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..attention.clip_parts import joined, most_frames
from ..attention.sites import LayerAddress, Site
from ..diffusion.guided_text import embedded
from ..editing.masks import blend_layers, check_other_words, shape_layers, spread_over_shapes
from ..editing.settings import texts
from ..errors import PromptError, SettingsError
from ..inversion.arguments import check_text_encoder
from ..inversion.controller import Controller
from ..inversion.source_reader import AskedText, SourceReader, SourceRecords
from ..inversion.trace import Trace
from ..prompts.other_words import AskedPrompt, is_other, require_text_encoder, with_other_words
from ..prompts.prompt import PROMPT_TOKENS, Prompt, TextEncoder, Word
from .parts_to_read import parts_to_read
from .selection import Reading

OnRead = Callable[[int, int], None]


def ignore_read(done: int, total: int) -> None:
    """The default `on_read`, which is called after every step; one that raises ends the reading there."""


def asked_words(
    controller: Controller, phrases: str | Sequence[str] = (), text_encoder: TextEncoder | None = None
) -> tuple[Word, ...]:
    """Return the words to look at, with their tokens: the requested ones, or else every word of the source prompt.

    phrases: words of the source prompt, or several in a row; one that occurs twice has the tokens of both places; one
             text is one phrase. A plus marks words that the prompt does not have: "+shadow"
    text_encoder: that of the inversion, needed for marked words alone; their tokens stand behind the prompt's
    Raises PromptError for unmarked words that are not in the prompt, SettingsError for anything but texts, StoreError
    without an inversion.
    """
    prompt = _looked_in(controller, phrases, text_encoder)
    if wanted := _phrases(phrases):
        return tuple(Word(phrase, prompt.find(phrase, "words")) for phrase in wanted)
    if not prompt.words:
        raise PromptError(
            "source_prompt is empty, so there are no words to look at; at least one is needed. "
            "Invert the clip under a prompt that describes it."
        )
    return prompt.words


def _phrases(phrases: str | Sequence[str]) -> tuple[str, ...]:
    return () if phrases in (None, "") else texts("words", phrases)


def _looked_in(controller: Controller, phrases: str | Sequence[str], text_encoder: TextEncoder | None) -> Prompt:
    """Return the source prompt, with the marked words behind it if there are any."""
    source, wanted = controller.inverted().prompt, _phrases(phrases)
    marked = [phrase for phrase in wanted if is_other(phrase)]
    if not marked:
        return source
    text_encoder = require_text_encoder(marked, text_encoder)
    check_text_encoder(text_encoder)
    return with_other_words(text_encoder, source, wanted)


def word_labels(words: Sequence[Word]) -> list[str]:
    """Label words for pictures; those that occur several times with their tokens: `the [5]`."""
    labels = [word.text for word in words]
    return [word.text if labels.count(word.text) == 1 else f"{word.text} {list(word.tokens)}" for word in words]


def word_heats(
    controller: Controller,
    phrases: str | Sequence[str] = (),
    reading: Reading | None = None,
    *,
    text_encoder: TextEncoder | None = None,
    follow_shapes: bool = False,
    on_read: OnRead = ignore_read,
) -> Tensor:
    """Average the attention that each place pays to each word over steps, layers of one resolution, and heads.

    phrases, text_encoder: as in `asked_words`; the tokens of a phrase are added up. With marked words all heat is read
             under the longer text; where maps are stored, the source runs again: one UNet call a step, or a part of one
    follow_shapes: heat spreads over what each place's self-attention looks at, as for blend masks
    on_read: called as (done, total) after each step; never more than one layer's map is in memory
    Returns [words, frames, height, width] float32, shares of attention 0..1, in the order of `asked_words`.
    Raises what `asked_words` does, and SettingsError for a resolution that was not recorded, before anything is read.
    Source: FateZero's show_cross_attention, for any frame size and for phrases.
    """
    trace, reading = controller.inverted(), reading or Reading()
    words = asked_words(controller, phrases, text_encoder)
    weights = torch.zeros(PROMPT_TOKENS, len(words), dtype=torch.float32)
    for column, word in enumerate(words):
        weights[list(word.tokens), column] = 1
    layers, unet = _layers(controller, trace, reading), controller.unet
    shapes = shape_layers(unet, layers, trace.capture) if follow_shapes else ()
    looked_in, asked = _looked_in(controller, phrases, text_encoder), None
    if isinstance(looked_in, AskedPrompt) and text_encoder is not None:
        check_other_words(unet, layers, looked_in.others)
        asked = AskedText(embedded(text_encoder, [looked_in.whole], unet), layers, reading.steps(len(trace.schedule)))

    def places(probs: Tensor, site: Site) -> Tensor:
        per_cell = probs[..., :PROMPT_TOKENS] @ weights.to(probs.device)  # [frames, heads, cells, words]
        return per_cell.sum(dim=1).unflatten(1, (site.height, site.width))

    def followed(heats: Tensor, records: SourceRecords) -> Tensor:
        return torch.stack([spread_over_shapes(heat, records, shapes) for heat in heats.unbind(-1)], dim=-1)

    after_step = followed if shapes else None
    beside = [layer.address for layer in shapes]
    heats = _mean(controller, layers, reading, on_read, places, asked=asked, after_step=after_step, beside=beside)
    return heats.permute(3, 0, 1, 2)


def self_attention_maps(
    controller: Controller, reading: Reading | None = None, *, on_read: OnRead = ignore_read
) -> Tensor:
    """Average the attention that each place pays to each other place over steps, layers of one resolution, and heads.

    The attention a place pays to the same place of all key frames is added up, so that every row still sums to 1.

    on_read: as in `word_heats`
    Returns [frames, height, width, key_height, key_width] float32 on the CPU; keys are places of the key frames.
    Raises SettingsError if self-attention or the resolution was not recorded, StoreError without an inversion.
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
    """Return the cross-attention layers of the resolution that is read."""
    sites = controller.unet.sites(trace.frames, *trace.size)
    return blend_layers(sites, trace.capture.most_cells, reading.downscale)


def _mean(
    controller: Controller,
    layers: Sequence[LayerAddress],
    reading: Reading,
    on_read: OnRead,
    places: Callable[[Tensor, Site], Tensor],
    *,
    asked: AskedText | None = None,
    beside: Sequence[LayerAddress] = (),
    after_step: Callable[[Tensor, SourceRecords], Tensor] | None = None,
) -> Tensor:
    """Average every layer's map over the heads at every step that is read; float32, on the CPU.

    places: sums one layer's map [frames, heads, cells, keys] over its heads, and gives it the shape of the result
    asked:  a text whose attention is read in place of the source prompt's
    after_step: changes the sum of a step's maps by its records; linear; `beside` names the layers that it reads. Of a
            part of a clip it gets the sum of the frames before as well, which it leaves out
    Maps are made one at a time, on the model's device: attention that is stored as features, or not at all, is computed
    from the model's weights.
    """
    unet, trace = controller.unet, controller.inverted()
    steps = reading.steps(len(trace.schedule))
    wanted = [(*layers, *beside) if step in steps else () for step in range(len(trace.schedule))]

    parts = parts_to_read(unet, trace, runs_again=asked is not None)
    spread = layers if after_step is not None else ()

    def work() -> Tensor:
        sites, like = unet.sites(trace.frames, *trace.size), torch.empty(0, dtype=torch.float32, device=unet.device)
        totals, maps = [torch.zeros(())] * len(parts), 0
        with SourceReader(unet, trace, wanted, asked, parts=parts, spread=spread) as reader:
            for done, step in enumerate(steps, 1):
                for part in parts:
                    records, of_step, maps = reader.read(step, part.number), like.new_zeros(()), 0
                    for address in layers:
                        probs = records[address].heat.probs(like)
                        of_step, maps = of_step + places(probs, sites[address]), maps + probs.shape[1]
                    of_step = of_step if after_step is None else after_step(of_step, records)
                    totals[part.number] = totals[part.number] + (of_step if len(parts) == 1 else of_step.cpu())
                on_read(done, len(steps))
        return joined(parts, totals).div(maps * len(steps)).cpu()

    return unet.run(work, 1, most_frames(parts), *trace.size)
