"""Plain English read just far enough to see what an edit changes: an object, its colour, the background, the style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from .word_changes import Change
from .words import bare

WordsKind = Literal["object", "colour", "background", "style", "removal"]

ARTICLES = frozenset("a an the".split())
PLACES = frozenset(
    "on in at under underneath over across against behind before beside near by above below beneath along down up "
    "through inside outside into onto upon among between around within".split()
)
"""Prepositions of place; words behind the last of them in a prompt are read as the background."""
FUNCTION_WORDS = (
    ARTICLES
    | PLACES
    | frozenset("of with without and or to from for is are was were there front his her its their this that".split())
)
COLOURS = frozenset(
    "red orange yellow green blue purple white black gray grey pink brown violet turquoise cyan magenta beige maroon "
    "crimson scarlet teal navy olive golden gold silver bronze".split()
)
STYLES = frozenset(
    "photo photograph picture image video painting watercolor watercolour sketch drawing illustration art mosaic "
    "cartoon anime comic render rendering style print engraving poster".split()
)
BACKDROPS = frozenset("background backdrop".split())
LONGEST_EXTENSION = 3  # "red" is looked for as "red sports car", and not as half a sentence


def kind_of_words(source: Sequence[str], edit: Sequence[str], changes: Sequence[Change]) -> WordsKind:
    """Read the kind of an edit from its words.

    Colours alone are a colour; words put around a prompt, or left out there, a style; words of the background in an
    object's place remove it; words behind the last preposition of place are the background; all else is an object.
    """
    before, after = ([bare(word) for word in words] for words in (source, edit))
    if not changes:
        return "object"
    if all(_is_colour(before, after, change) for change in changes):
        return "colour"
    if _around(before, after, changes) or _is_style(before, after, changes):
        return "style"
    if _is_removal(after, changes):
        return "removal"
    start, edit_start = _last_place(before), _last_place(after)
    if all(change.source.start >= start and change.edit.start >= edit_start for change in changes):
        return "background"
    return "object"


def phrases_of(
    kind: str, source: Sequence[str], edit: Sequence[str], changes: Sequence[Change]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the phrases that differ, of the source prompt and of the edit prompt.

    Articles and prepositions around them are left out. A colour, and a word that is only added, go with the noun they
    describe; for a new background only what stands behind the last preposition of place counts, if that differs.
    """
    before, after = ([bare(word) for word in words] for words in (source, edit))
    if kind == "background":
        start = _last_place(before)
        changes = [one for one in changes if one.source.start >= start] or changes
    found = []
    for side, words, texts in (("source", before, source), ("edit", after, edit)):
        taken = [getattr(change, side) for change in changes]
        # Only words that both prompts have are joined, so that the two phrases are of the same thing.
        free = set(range(len(words))) - {place for run in taken for place in run}
        spans = [_span(words, run, free, with_noun=kind == "colour") for run in taken]
        found.append(tuple(dict.fromkeys(_phrase(texts, words, span) for span in spans if span)))
    return found[0], found[1]


def _around(before: list[str], after: list[str], changes: Sequence[Change]) -> bool:
    """Return whether words are only added around the prompt, or only left out there."""
    one_sided = all(not one.source for one in changes) or all(not one.edit for one in changes)
    return one_sided and all(
        0 in (one.source.start, one.edit.start) or (one.source.stop, one.edit.stop) == (len(before), len(after))
        for one in changes
    )


def _is_style(before: list[str], after: list[str], changes: Sequence[Change]) -> bool:
    """Return whether all that changes stands in "a sketch of", or in "in watercolor style"."""
    sides: tuple[tuple[list[str], Callable[[Change], range]], ...] = (
        (before, lambda change: change.source),
        (after, lambda change: change.edit),
    )
    named = any(STYLES & set(words[: _prefix(words)]) for words, _ in sides)
    in_front = all(run(one).stop <= _prefix(words) for words, run in sides for one in changes)
    ends = any(words and words[-1] == "style" for words, _ in sides)
    behind = all(run(one).start > _last(words, "in") for words, run in sides for one in changes)
    return named and in_front or ends and behind and all("in" in words for words, _ in sides)


def _is_removal(after: list[str], changes: Sequence[Change]) -> bool:
    """Return whether words of the background stand in an object's place: "a sand sand on the sand"."""
    place = _last_place(after)
    background = set(after[place:]) - FUNCTION_WORDS
    return all(
        one.source and one.edit and one.edit.stop <= place and set(_content(after, one.edit)) <= background
        for one in changes
    ) and any(_content(after, one.edit) for one in changes)


def _is_colour(before: list[str], after: list[str], change: Change) -> bool:
    """Return whether only the colour of a thing changes; a colour that is itself the background is none."""
    words = [*_content(before, change.source), *_content(after, change.edit)]
    if not words or not set(words) <= COLOURS:
        return False
    if change.edit.start < _last_place(after):
        return True
    noun = after[change.edit.stop] if change.edit.stop < len(after) else ""
    return bool(noun) and noun not in FUNCTION_WORDS | BACKDROPS


def _content(words: list[str], run: range) -> list[str]:
    return [words[place] for place in run if words[place] not in FUNCTION_WORDS]


def _last_place(words: list[str]) -> int:
    """Return the position of the last preposition of place, or the number of words."""
    return next((place for place in reversed(range(len(words))) if words[place] in PLACES), len(words))


def _last(words: list[str], word: str) -> int:
    return next((place for place in reversed(range(len(words))) if words[place] == word), -1)


def _prefix(words: list[str]) -> int:
    """Return how many words stand up to the first "of", which ends the name of a style; 0 without any."""
    return words.index("of") + 1 if "of" in words else 0


def _span(words: list[str], run: range, free: set[int], *, with_noun: bool) -> range:
    """Return the words of a run without function words around them, with the noun they describe if that is needed."""
    kept = [place for place in run if words[place] not in FUNCTION_WORDS]
    if not kept and run:
        return run if all(words[place] in ARTICLES for place in run) else range(0)
    start, stop = (kept[0], kept[-1] + 1) if kept else (run.start, run.stop)
    if with_noun or not kept:
        while stop in free and _joins(words[stop]) and stop - start < LONGEST_EXTENSION + len(run):
            stop += 1
    if start == stop:  # nothing behind it: words such as "with a hat" belong to the noun before
        while start - 1 in free and _joins(words[start - 1]) and stop - start < LONGEST_EXTENSION:
            start -= 1
    return range(start, stop)


def _joins(word: str) -> bool:
    """Return whether a word may belong to a noun: no function word and no participle such as "driving"."""
    return word not in FUNCTION_WORDS and not word.endswith("ing")


def _phrase(texts: Sequence[str], words: list[str], span: range) -> str:
    """Return the text of a span, widened where the prompt has the same words elsewhere too."""
    widths = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
    wider = [range(span.start - left, span.stop + right) for left, right in widths]
    inside = [one for one in wider if one.start >= 0 and one.stop <= len(words)]
    unique = next((one for one in inside if _occurrences(words, one) == 1), span)
    return " ".join(texts[place] for place in unique)


def _occurrences(words: list[str], span: range) -> int:
    phrase = words[span.start : span.stop]
    return sum(words[start : start + len(span)] == phrase for start in range(len(words) - len(span) + 1))
