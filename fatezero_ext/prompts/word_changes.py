"""Words that differ between two prompts, found without any tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from .prompt import bare


@dataclass(frozen=True)
class Change:
    """Words in a row of the source prompt, and those in their place in the edit prompt; one of the two may be empty.

    source, edit: positions among the prompts' words
    """

    source: range
    edit: range


def changed_words(source: Sequence[str], edit: Sequence[str]) -> tuple[Change, ...]:
    """Find the words that differ between two prompts, apart from case and the punctuation around them."""
    before, after = ([bare(word) for word in words] for words in (source, edit))
    if replaces_one_by_one(source, edit):
        return tuple(_differing_runs(before, after))
    return tuple(_aligned_changes(before, after))


def replaces_one_by_one(source: Sequence[str], edit: Sequence[str]) -> bool:
    """Return whether words are swapped in place: as many words, of which no fewer differ if they may move."""
    before, after = ([bare(word) for word in words] for words in (source, edit))
    swapped = sum(a != b for a, b in zip(before, after, strict=False))
    moved = _aligned_changes(before, after)
    return len(before) == len(after) and swapped <= sum(max(len(one.source), len(one.edit)) for one in moved)


def _differing_runs(before: list[str], after: list[str]) -> Iterator[Change]:
    start = 0
    for place in range(len(before) + 1):
        if place == len(before) or before[place] == after[place]:
            if place > start:
                yield Change(range(start, place), range(start, place))
            start = place + 1


def _aligned_changes(before: list[str], after: list[str]) -> list[Change]:
    # Longest runs first, so that words put in front of a prompt are one change, whatever words they repeat.
    runs = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [Change(range(a, b), range(c, d)) for kind, a, b, c, d in runs if kind != "equal"]
