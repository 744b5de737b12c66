"""Words of a config, looked up as the authors' program does and written as this pack's widgets read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal

from ...fatezero_ext.errors import FateZeroError
from ...fatezero_ext.prompts.prompt import Prompt, Word
from .. import text_lists as widgets
from .errors import ConfigError


def authors_words(prompt: str) -> list[str]:
    """Return the words of a prompt as the authors' program counts them: what stands between single spaces."""
    return prompt.split(" ")


def present(words: Iterable[str], prompt: str, path: str, warnings: list[str]) -> list[str]:
    """Return the words that the authors' program finds in the prompt; adds a warning for the others.

    It compares exactly, with case and punctuation; of several occurrences each counts, a phrase is never found.
    """
    words = dict.fromkeys(words)
    found = [word for word in words if word and word in authors_words(prompt)]
    lost = [word for word in words if word not in found]
    if lost:
        what = f"{_quoted(lost)} is not a word" if len(lost) == 1 else f"{_quoted(lost)} are not words"
        warnings.append(f"{path}: {what} of {prompt!r}; without effect in the authors' program, left out.")
    if found and "" in authors_words(prompt):
        warnings.append(
            f"{path}: {prompt!r} has doubled spaces, behind which the authors' program takes wrong tokens for a word; "
            f"here words are found where they stand."
        )
    return found


def _quoted(words: list[str]) -> str:
    return ", ".join(repr(word) for word in words)


def listed(words: Iterable[str], prompt: str, path: str) -> str:
    """Write words for a widget such as blend_words."""
    words = list(words)
    text = ", ".join(_typed(word) for word in words)
    _check(list(widgets.parse_phrases(text)), words, prompt, path)
    return text


def weighted(factors: Mapping[str, float], prompt: str, path: str) -> str:
    """Write words with factors for the widget equalizer."""
    text = ", ".join(f"{_typed(word)}: {_plain(factor)}" for word, factor in factors.items())
    _check(_keys(lambda: widgets.parse_weights(text, "equalizer"), path), list(factors), prompt, path)
    return text


def windowed(windows: Mapping[str, tuple[float, float]], prompt: str, path: str) -> str:
    """Write words with windows for the widget word_windows."""
    text = ", ".join(f"{_typed(word)}: {_plain(start)}-{_plain(end)}" for word, (start, end) in windows.items())
    _check(_keys(lambda: widgets.parse_windows(text, "word_windows"), path), list(windows), prompt, path)
    return text


def _typed(word: str) -> str:
    """Return the word without commas, which part entries in a widget; widgets ignore punctuation of words anyway."""
    return word.strip(",")


def _plain(number: float) -> str:
    """Write the number in full and without an exponent, so that a widget reads exactly it; -0 becomes 0."""
    return format(Decimal(repr(number + 0.0)), "f").removesuffix(".0")


def _keys(read: Callable[[], Mapping[str, object]], path: str) -> list[str]:
    try:
        return list(read())
    except FateZeroError as error:
        raise ConfigError(f"{path} cannot be written in a widget: {error}") from error


def _check(read: list[str], words: list[str], prompt: str, path: str) -> None:
    """Raise ConfigError where the widget would find other words of the prompt than these."""
    pieces = tuple(Word(text, (position,)) for position, text in enumerate(prompt.split()))
    looked_up = Prompt(prompt, (), pieces)
    if len(read) != len(words):
        raise ConfigError(
            f"{path} has {_quoted(words)}, which a widget would take for {_quoted(read) or 'nothing'}; plain words are "
            f"needed. Change the words in the prompt and here."
        )
    for word, entry in zip(words, read, strict=True):
        exact = tuple(piece.tokens[0] for piece in pieces if piece.text == word)
        if looked_up.find(entry, path) != exact:
            raise ConfigError(
                f"{path} has {word!r}, which a widget would take for other words of {prompt!r}; plain words are "
                f"needed. Change the word in the prompt and here."
            )
