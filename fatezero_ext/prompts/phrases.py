"""Plain English read just far enough to see what an edit changes: an object, its colour, the background, the style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from .prompt import bare
from .word_changes import Change

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
    | frozenset("of with without and or to from for as is are was were there front his her its their this that".split())
)
COLOURS = frozenset(
    "red orange yellow green blue purple white black gray grey pink brown violet turquoise cyan magenta beige maroon "
    "crimson scarlet teal navy olive golden gold silver bronze".split()
)
STYLES = frozenset(
    "photo photograph picture image video painting watercolor watercolour sketch drawing illustration art mosaic "
    "cartoon anime comic render rendering style print engraving poster".split()
)
LOOKS = frozenset(
    "oil ink pencil charcoal pastel gouache acrylic crayon fresco pixelated manga noir cyberpunk steampunk sepia "
    "monochrome grayscale greyscale realistic photorealistic hyperrealistic cinematic detailed hd 4k 8k "
    "impressionism impressionist expressionism cubism cubist surrealism surrealist baroque renaissance ukiyo-e ukiyoe "
    "gogh monet picasso klimt hokusai hiroshige dali rembrandt vermeer munch kandinsky matisse cezanne renoir turner "
    "warhol mondrian miro mucha shinkai miyazaki ghibli pixar disney pokemon".split()
)
"""Words that styles are named by beside `STYLES`: materials, qualities, schools, and last names of artists."""
LINE_ART = frozenset("sketch drawing pencil charcoal ink engraving".split())
"""Words of styles that draw things as lines."""
PAINTED = ((STYLES | LOOKS) - LINE_ART - frozenset(["style"])) | frozenset("pixel wash black".split())
"""Words of styles that do not, whatever else they say: a watercolor sketch, a drawing in black and white."""
STYLE_LINKS = frozenset("in by as".split())
"""Words in front of a style at the end of a prompt: "in watercolor", "by Monet", "as a cartoon"."""
SECOND_THINGS = frozenset("and or".split())
JOINERS = SECOND_THINGS | frozenset("with without".split())
"""Words in front of things: "with a hat", "and a cat"."""
BACKDROPS = frozenset("background backdrop".split())
LONGEST_EXTENSION = 3  # "red" is looked for as "red sports car", and not as half a sentence


def kind_of_words(source: Sequence[str], edit: Sequence[str], changes: Sequence[Change]) -> WordsKind:
    """Read the kind of an edit from its words.

    Colours alone are a colour; a style's words that are put around a prompt, left out or replaced there, a style, and
    so is anything where the source prompt is empty; words of the background in an object's place remove it; words
    behind the last preposition of place are the background; all else is an object.
    """
    before, after = ([bare(word) for word in words] for words in (source, edit))
    if not before and changes:  # everything is described anew
        return "style"
    if not changes:
        return "object"
    if all(_is_colour(before, after, change) for change in changes):
        return "colour"
    tails = _style_tail(source), _style_tail(edit)
    if _style_around(before, after, changes) or _style_replaced(before, after, changes, tails):
        return "style"
    if _is_removal(after, changes):
        return "removal"
    start, edit_start = _background(source), _background(edit)
    behind = all(change.source.start >= start and change.edit.start >= edit_start for change in changes)
    if behind and not any(_adds_a_thing(before, after, change) for change in changes):
        return "background"
    return "object"


def phrases_of(
    kind: str, source: Sequence[str], edit: Sequence[str], changes: Sequence[Change]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the phrases that differ, of the source prompt and of the edit prompt.

    Articles and prepositions around them are left out. A colour, and a word that is only added, go with the noun they
    describe; a second thing ("and a cat") and a place with none; for a new background only what stands behind the last
    preposition of place counts, if that differs.
    """
    before, after = ([bare(word) for word in words] for words in (source, edit))
    if kind == "background":
        start = _background(source)
        changes = [one for one in changes if one.source.start >= start] or changes
    found = []
    for words, texts, runs in (
        (before, source, [_described(before, change.source, after, change.edit) for change in changes]),
        (after, edit, [_described(after, change.edit, before, change.source) for change in changes]),
    ):
        taken = [run for run in runs if run is not None]
        # Only words that both prompts have are joined, so that the two phrases are of the same thing.
        free = set(range(len(words))) - {place for run in taken for place in run}
        spans = [_span(words, run, free, with_noun=kind == "colour") for run in taken]
        found.append(tuple(dict.fromkeys(_phrase(texts, words, span) for span in spans if span)))
    return found[0], found[1]


def things_in_front(source: Sequence[str], changes: Sequence[Change]) -> tuple[str, ...]:
    """Return the things that a prompt puts in front of its background and that an edit does not change, as phrases.

    "A red circle on the grass" has "red circle"; a prompt without a preposition of place has none. Things that the
    background has too are left out: their words cannot be told apart.
    """
    words, end = [bare(word) for word in source], _background(source)
    if end == len(words):
        return ()
    changed = {place for change in changes for place in change.source}
    prefix = _prefix(words[:end])
    start = prefix if (STYLES | LOOKS) & set(words[:prefix]) else 0
    runs = []
    for place in range(start, end + 1):
        if place == end or not _names_a_thing(words, place):
            runs.append(range(start, place))
            start = place + 1
    alone = [run for run in runs if _occurrences(words, run) == _occurrences(words[:end], run)]
    return tuple(
        dict.fromkeys(" ".join(source[place] for place in run) for run in alone if run and not changed & {*run})
    )


def _names_a_thing(words: list[str], place: int) -> bool:
    """Return whether a word is of a thing: of words in -ing only those behind an article or a colour, "a king"."""
    before = words[place - 1] if place else ""
    return _joins(words[place]) or (words[place] not in FUNCTION_WORDS and before in ARTICLES | COLOURS)


def _one_sided(before: list[str], after: list[str], change: Change) -> list[str]:
    """Return the words of a change that are only added or only left out; none of others."""
    if change.source and change.edit:
        return []
    return [before[place] for place in change.source] or [after[place] for place in change.edit]


def _adds_a_thing(before: list[str], after: list[str], change: Change) -> bool:
    """Return whether a change only adds, or leaves out, a thing or an act; "winding" of "the winding road" is none."""
    words = _one_sided(before, after, change)
    if not _is_a_thing(words):
        return False
    side, run = (before, change.source) if change.source else (after, change.edit)
    return words[0] in JOINERS or (run.start > 0 and _joins(side[run.start - 1]))


def _style_around(before: list[str], after: list[str], changes: Sequence[Change]) -> bool:
    """Return whether words are only added around the prompt, or only left out there, and a style is among them."""
    one_sided = all(not one.source for one in changes) or all(not one.edit for one in changes)
    around = one_sided and all(
        0 in (one.source.start, one.edit.start) or (one.source.stop, one.edit.stop) == (len(before), len(after))
        for one in changes
    )
    return around and any(_names_style(_one_sided(before, after, one)) for one in changes)


def _style_replaced(before: list[str], after: list[str], changes: Sequence[Change], tails: tuple[int, int]) -> bool:
    """Return whether all that changes stands in "a sketch of", or in "in watercolor style"; tails: `_style_tail`."""
    if any(_adds_a_thing(before, after, change) for change in changes):
        return False
    sides: tuple[tuple[list[str], int, Callable[[Change], range]], ...] = (
        (before, tails[0], lambda change: change.source),
        (after, tails[1], lambda change: change.edit),
    )
    named = any((STYLES | LOOKS) & set(words[: _prefix(words)]) for words, _, _ in sides)
    in_front = all(run(one).stop <= _prefix(words) for words, _, run in sides for one in changes)
    ends = any(_names_style(words[tail:]) for words, tail, _ in sides)
    behind = all(run(one).start >= tail < len(words) for words, tail, run in sides for one in changes)
    return named and in_front or ends and behind


def _names_style(words: Sequence[str]) -> bool:
    """Return whether words around a prompt are of a style: "a painting of", "in pixel art", "by Monet"; no "with"."""
    if not words or words[0] in PLACES - STYLE_LINKS or _is_a_thing(words):
        return False
    artist = words[0] == "by" and len(words) > 1 and words[1] not in ARTICLES
    named = words[-1] in STYLES | LOOKS or "style" in words or tuple(words[-3:]) == ("black", "and", "white")
    return named or artist or (words[-1] == "of" and bool((STYLES | LOOKS) & set(words)))


def _is_a_thing(words: Sequence[str]) -> bool:
    """Return whether words behind a noun add a thing or an act, "with a hat", "holding a picture"; also without any."""
    return bool(words) and (words[0] in JOINERS or (words[0].endswith("ing") and words[0] not in STYLES))


def _style_tail(texts: Sequence[str]) -> int:
    """Return where a style would stand at the end of a prompt: from the last "in", or behind the last comma."""
    starts = [place for place, text in enumerate(texts) if bare(text) in STYLE_LINKS]
    commas = [place + 1 for place, text in enumerate(texts[:-1]) if text.endswith(",")]
    return max([*starts, *commas], default=len(texts))


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


def _background(texts: Sequence[str]) -> int:
    """Return where a prompt's background begins, at the last preposition of place in front of a style at its end.

    Returns the number of words where there is none.
    """
    words, tail = [bare(text) for text in texts], _style_tail(texts)
    end = tail if _names_style(words[tail:]) else len(words)
    place = _last_place(words[:end])
    return place if place < end else len(words)


def _last_place(words: list[str]) -> int:
    """Return the position of the last preposition of place, or the number of words."""
    return next((place for place in reversed(range(len(words))) if words[place] in PLACES), len(words))


def _prefix(words: list[str]) -> int:
    """Return how many words stand up to the first "of", which ends the name of a style; 0 without any."""
    return words.index("of") + 1 if "of" in words else 0


def _described(words: list[str], run: range, others: list[str], other: range) -> range | None:
    """Return a change's words in one prompt; of a thing that only the other one has, the place behind its owner.

    "With a hat" behind a place belongs to the noun in front of that: the dog of "a dog on the beach". "And a cat" and
    "on the beach" belong to nothing: None.
    """
    before_noun = run.start < len(words) and _joins(words[run.start])
    added = [others[place] for place in other]
    if run or before_noun or not added:
        return run
    if added[0] in SECOND_THINGS | PLACES:
        return None
    if not _is_a_thing(added):
        return run
    place = min(run.start, _last_place(words))
    while place and not _joins(words[place - 1]):
        place -= 1
    return range(place, place)


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
