"""Captions of scenes.

A caption is a list of words in which an attribute always takes the same number of places, so that two captions of the
same template differ word by word, as Prompt-to-Prompt's replacement needs. Every word carries the role it plays, which
tells training where in the picture its attention belongs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from .world import NO_STYLE, PALETTE, SHAPES, Scene, Thing

OBJECT, BACKGROUND, SECOND = "object", "background", "second"
Words = list[tuple[str, str]]
"""Words with their roles: OBJECT (the first thing), SECOND, BACKGROUND, or nothing."""

BACKGROUND_PHRASES: dict[str, tuple[str, ...]] = {
    "grass": ("the grass", "a grass field"),
    "water": ("the water", "moving water"),
    "sand": ("the sand", "desert sand", "sand drifts"),
    "sky": ("the sky", "a cloudy sky"),
    "brick": ("the bricks", "a brick wall"),
    "checker": ("the checkerboard", "a checkerboard floor"),
    "stripes": ("the stripes", "a striped wall"),
    "night": ("the night", "a starry night"),
}
PLAIN_PHRASES = ("plain {}", "a plain {} background")

STYLE_PREFIXES: dict[str, tuple[str, ...]] = {
    "sketch": ("a pencil sketch of", "a sketch of"),
    "watercolor": ("a watercolor painting of", "a watercolor of"),
    "pixel": ("pixel art of", "a pixel mosaic of"),
    "monochrome": ("a black and white photo of", "a black and white video of"),
}
STYLE_SUFFIXES = {
    "sketch": "in pencil sketch style",
    "watercolor": "in watercolor style",
    "pixel": "in pixel art style",
    "monochrome": "in black and white",
}

TEMPLATES = (
    "{object} on {background}",
    "{object} in front of {background}",
    "{background} with {object}",
    "{object} sliding across {background}",
    "{sized} on {background}",
    "there is {object} on {background}",
    "a photo of {object} on {background}",
    "a video of {object} moving over {background}",
)
PHOTO_TEMPLATES = (5, 6, 7)
"""Templates that do not read well behind a style; a styled scene is captioned by the first instead."""
COMMONEST_SHARE = 0.4
SUFFIX_SHARE = 0.3
SMALL_RADIUS, LARGE_RADIUS = 11.0, 13.5


@dataclass(frozen=True)
class Wording:
    """Choice among the wordings of a caption.

    template:   index into TEMPLATES
    background: index into the phrases of the background, modulo their number
    style:      index into the prefixes of the style, modulo their number; -1 for the suffix
    """

    template: int = 0
    background: int = 0
    style: int = 0


def caption(scene: Scene, template: int = 0, *, background: int = 0, style: int = 0) -> str:
    """Write the caption of a scene; the arguments are those of `Wording`.

    >>> caption(Scene("circle", "red", "grass"))
    'a red circle on the grass'
    >>> caption(Scene("cat", "own", "grass", second=Thing("circle", "red")))
    'a cat and a red circle on the grass'
    """
    return " ".join(word for word, _ in caption_words(scene, Wording(template, background, style)))


def caption_words(scene: Scene, wording: Wording) -> Words:
    """Write the caption with the role of every word."""
    styled = scene.style != NO_STYLE
    template = TEMPLATES[0 if styled and wording.template in PHOTO_TEMPLATES else wording.template]
    if not scene.things:
        template = "{background}"
    words: Words = []
    for part in template.split():
        if part == "{background}":
            words += _background(scene.background, wording.background)
        elif part in ("{object}", "{sized}"):
            words += _things(scene, sized=part == "{sized}")
        else:
            words.append((part, ""))
    if not styled:
        return words
    if wording.style < 0:
        return words + _plain_words(STYLE_SUFFIXES[scene.style])
    prefixes = STYLE_PREFIXES[scene.style]
    return _plain_words(prefixes[wording.style % len(prefixes)]) + words


def sample_wording(rng: np.random.Generator) -> Wording:
    """Draw one of the ways to caption a scene, the plainest most often."""
    template = 0 if rng.random() < COMMONEST_SHARE else int(rng.integers(1, len(TEMPLATES)))
    background = 0 if rng.random() < 0.5 else int(rng.integers(6))
    style = -1 if rng.random() < SUFFIX_SHARE else int(rng.integers(2))
    return Wording(template, background, style)


def vocabulary(objects: Sequence[str] = ()) -> list[str]:
    """List every word that a caption can have, sorted; objects: those of scenes with such objects or two things too."""
    texts = [*TEMPLATES, *STYLE_SUFFIXES.values(), *PLAIN_PHRASES]
    for phrases in (*BACKGROUND_PHRASES.values(), *STYLE_PREFIXES.values()):
        texts += phrases
    found = {word for text in texts for word in text.split() if "{" not in word}
    found |= {*PALETTE, *SHAPES, "an", "small", "large"}
    return sorted(found | {*objects, "and"} if objects else found)


def nearest_words(unknown: str, objects: Sequence[str] = ()) -> list[str]:
    """List words for things, colours, grounds and styles that are spelt like an unknown one, the nearest first."""
    return get_close_matches(unknown, sorted(set(vocabulary(objects)) - _between()))


def word_groups(objects: Sequence[str] = ()) -> dict[str, list[str]]:
    """List the words for things, colours, grounds and styles by what they name, some in phrases.

    A group without any is left out, and a phrase where it has no word that those before it lack.
    """
    grounds = [phrase for phrases in BACKGROUND_PHRASES.values() for phrase in phrases]
    styles = [phrase for phrases in STYLE_PREFIXES.values() for phrase in phrases]
    groups = {
        "colours": PALETTE,
        "shapes": SHAPES,
        "things": objects,
        "grounds": map(_without_ends, [*grounds, *(text.format("blue") for text in PLAIN_PHRASES)]),
        "styles": map(_without_ends, [*styles, *STYLE_SUFFIXES.values()]),
        "sizes": ("small", "large"),
    }
    return {name: listed for name, phrases in groups.items() if (listed := _with_new_words(phrases))}


def _with_new_words(phrases: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    found = []
    for phrase in phrases:
        words = set(phrase.split())
        if words - seen:
            found.append(phrase)
        seen |= words
    return found


def _between() -> set[str]:
    """Return the words that stand between those for things, colours, grounds and styles."""
    return {word for text in TEMPLATES for word in text.split()} | {"a", "an", "and", "in", "of", "the"}


def _without_ends(phrase: str) -> str:
    words = phrase.split()
    first, last = (1 if words[0] in ("a", "the", "in") else 0), (-1 if words[-1] == "of" else None)
    return " ".join(words[first:last])


def _plain_words(text: str) -> Words:
    return [(word, "") for word in text.split()]


def _background(background: str, phrase: int) -> Words:
    phrases = BACKGROUND_PHRASES.get(background) or tuple(text.format(background) for text in PLAIN_PHRASES)
    words = phrases[phrase % len(phrases)].split()
    return [(word, "" if word in ("a", "the") else BACKGROUND) for word in words]


def _things(scene: Scene, *, sized: bool) -> Words:
    words: Words = []
    for thing in scene.things:
        role = SECOND if thing is scene.second else OBJECT
        words += [*([("and", "")] if words else []), *_thing(thing, role, sized=sized and not words)]
    return words


def _thing(thing: Thing, role: str, *, sized: bool) -> Words:
    words = [(thing.shape, role)] if thing.is_object else [(thing.colour, role), (thing.shape, role)]
    size = "small" if thing.radius < SMALL_RADIUS else "large" if thing.radius > LARGE_RADIUS else ""
    if sized and size:
        words = [(size, ""), *words]
    return [("an" if words[0][0][0] in "aeiou" else "a", ""), *words]
