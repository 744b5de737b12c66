"""Words that are looked for in a clip although its source prompt does not have them, marked with a plus: +shadow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..errors import PromptError
from .prompt import Prompt, TextEncoder, read_prompt

MARK = "+"
ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class AskedPrompt(Prompt):
    """A source prompt with other words behind it; unmarked words are found in the source prompt alone.

    text, words: of the source prompt; ids: of the whole
    whole:       the text with the other words
    others:      marked phrases and the positions of their tokens in the whole
    """

    whole: str = ""
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def find(self, phrase: str, asked_by: str = "") -> tuple[int, ...]:
        """Return the token positions of a phrase, as `Prompt.find`; of a marked one those behind the source prompt."""
        return self.others[phrase] if phrase in self.others else super().find(phrase, asked_by)


def is_other(phrase: str) -> bool:
    """Return whether a phrase is marked as one that the source prompt does not have."""
    return phrase.lstrip().startswith(MARK)


def with_other_words(text_encoder: TextEncoder, source: Prompt, phrases: Collection[str]) -> Prompt:
    """Put the marked phrases behind the source prompt, `a photo` and `+red circle` to `a photo a red circle`.

    Their tokens compete with the source prompt's for attention, as its own words do.
    A phrase that stands in the source prompt with its plus is the prompt's own: "+5" of "a +5 sword".
    Returns the source prompt itself if no other phrase is marked.
    Raises PromptError for a mark without words, and for more words than fit.
    """
    marked = [phrase for phrase in dict.fromkeys(phrases) if is_other(phrase) and not _is_in(source, phrase)]
    if not marked:
        return source
    texts = [source.text]
    for phrase in marked:
        words = phrase.replace(MARK, " ", 1).split()
        if not words:
            raise PromptError(
                f"{phrase!r} is a plus without words; a word that the source prompt does not have belongs behind it. "
                f"Write {MARK}shadow."
            )
        article = () if words[0].lower() in ARTICLES else ("a",)
        texts.append(" ".join([*article, *words]))
    whole = read_prompt(text_encoder, " ".join(texts), f"{source.name} with {', '.join(marked)}")
    others, place = {}, len(source.words)
    for phrase, text in zip(marked, texts[1:], strict=True):
        words, asked = text.split(), phrase.replace(MARK, " ", 1).split()
        place += len(words)
        others[phrase] = tuple(token for word in whole.words[place - len(asked) : place] for token in word.tokens)
    return AskedPrompt(source.text, whole.ids, source.words, source.name, whole.text, others)


def _is_in(source: Prompt, phrase: str) -> bool:
    return f" {' '.join(phrase.split())} " in f" {' '.join(source.text.split())} "


def require_text_encoder(phrases: Collection[str], text_encoder: TextEncoder | None) -> TextEncoder:
    """Return the text encoder; raise PromptError if marked phrases need one and there is none."""
    if text_encoder is None:
        marked = next(phrase for phrase in phrases if is_other(phrase))
        raise PromptError(
            f"{marked!r} is a word outside the source prompt; the text encoder of the inversion is needed to look for "
            f"it. Connect clip, or in Python give text_encoder."
        )
    return text_encoder
