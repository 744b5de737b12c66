"""Prompts that remove an object: the background's word stands where the object's words stood."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import PromptError, check_text, described
from .prompt import PUNCTUATION
from .words_alone import read_words


def removal_prompt(source_prompt: str, object_words: str | Sequence[str], background_word: str) -> str:
    """Write the edit prompt that removes an object, for mode "replace".

    object_words:    words of the source prompt, or several in a row; one text is one phrase
    background_word: one word, usually the source prompt's own word for the background
    Every word of the object is replaced, so that both prompts have equally many words; an article in front follows.
    Words are found whatever their case and the punctuation around them: no spelling of the object is left standing.
    Raises PromptError for what is no text, for words that are not in the source prompt, and unless the background is
    one word.

    >>> removal_prompt("a red circle on the grass", "red circle", "grass")
    'a grass grass on the grass'
    """
    source = read_words(source_prompt, "source prompt")
    phrases = _phrases(object_words)
    background = read_words(background_word, "background word")
    if len(background.words) != 1:
        raise PromptError(
            f"the background word is {background_word!r}; one word is needed, as it replaces each of the object's. "
            f"Name the background by the source prompt's own word, such as 'grass'."
        )
    if not any(phrase.split() for phrase in phrases):
        raise PromptError(
            "no words of an object are given; those of the source prompt are needed. Name what is to be removed, such "
            "as 'red circle'."
        )
    # One token a word, the start token in front.
    removed = {token - 1 for phrase in phrases for token in source.find_any_case(phrase, "object_words")}
    words, new = [word.text for word in source.words], background_word.strip()
    for i in removed:
        if i and words[i - 1].lower() in ("a", "an"):
            words[i - 1] = words[i - 1][0] + ("n" if new[0].lower() in "aeiou" else "")
    return " ".join(_replaced(word, new) if i in removed else word for i, word in enumerate(words))


def _phrases(object_words: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(object_words, (str, Iterable)):
        raise PromptError(
            f"object_words is {described(object_words)}; words of the source prompt are needed. Name what is to be "
            f"removed, such as 'red circle'."
        )
    phrases = (object_words,) if isinstance(object_words, str) else tuple(object_words)
    for phrase in phrases:
        check_text(phrase, "object_words")
    return phrases


def _replaced(word: str, background: str) -> str:
    """Return the background's word with the punctuation around a word of the object."""
    bare = word.strip(PUNCTUATION)
    before, _, after = word.partition(bare) if bare else ("", "", "")
    return f"{before}{background}{after}"
