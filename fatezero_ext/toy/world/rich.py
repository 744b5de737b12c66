"""The richer half of the toy world: objects and pairs of things beside coloured shapes."""

import numpy as np

from .objects import stands_out
from .world import (
    BACKGROUNDS,
    COLOURS,
    NO_STYLE,
    OBJECTS,
    OWN_COLOUR,
    PLAINS,
    SHAPES,
    SIZE,
    STYLED_SHARE,
    STYLES,
    TEXTURES,
    Scene,
    Thing,
    is_visible,
    sample_scene,
    scene_at,
)

SHAPES_SHARE, OBJECTS_SHARE = 0.2, 0.6
"""Shares of scenes with one shape and with one object; the others have two things. At 0.35 and 0.45 a model drew all
shapes right while three of ten objects were wrong."""
OBJECT_RADII = (14.0, 19.0)
PAIR_RADII = (11.0, 14.0)
"""Radii of an object, whose details are lost in small ones, since latents are cells of four pixels, and of each of two
things, for which there is no more room."""
GREATEST_ANGLE = 15.0
"""Degrees that an object may lean to either side."""
TEXTURED_SHARE = 0.6


def can_be_seen(shape: str, colour: str, background: str) -> bool:
    """Return whether a shape of that colour, or an object, stands out from a background."""
    return stands_out(shape, background) if shape in OBJECTS else is_visible(colour, background)


def sample_rich_scene(
    rng: np.random.Generator, objects: tuple[str, ...] = OBJECTS, *, styled_share: float = STYLED_SHARE
) -> Scene:
    """Draw a scene at random: a shape as `sample_scene` draws it, an object, or two things beside each other.

    objects: names to choose from; with none, this is `sample_scene`
    """
    kind = rng.random() if objects else 0.0
    if kind < SHAPES_SHARE:
        return sample_scene(rng, styled_share=styled_share)
    pair = kind >= SHAPES_SHARE + OBJECTS_SHARE
    things = _kinds(rng, objects, 2 if pair else 1)
    background = _background(rng, things)
    style = STYLES[rng.integers(len(STYLES))] if rng.random() < styled_share else NO_STYLE
    texture = int(rng.integers(2**31))
    first, *others = _placed(rng, things)
    return Scene(
        first.shape,
        first.colour,
        background,
        style,
        first.x,
        first.y,
        first.radius,
        texture,
        first.angle,
        first.mirror,
        others[0] if others else None,
    )


def rich_scene_at(seed: int, index: int, objects: tuple[str, ...] = OBJECTS) -> Scene:
    """Return scene `index` of the endless list that belongs to `seed`; without objects it is `scene_at`'s list."""
    if not objects:
        return scene_at(seed, index)
    return sample_rich_scene(np.random.default_rng((seed, index, 3)), objects)


def _kinds(rng: np.random.Generator, objects: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """Choose things that differ, as shape and colour; the first of one is an object, of two either can be a shape."""
    while True:
        kinds = []
        for _ in range(count):
            if count == 2 and rng.random() < 1 / 3:
                kinds.append((SHAPES[rng.integers(len(SHAPES))], COLOURS[rng.integers(len(COLOURS))]))
            else:
                kinds.append((objects[rng.integers(len(objects))], OWN_COLOUR))
        if len({shape for shape, _ in kinds}) == count:
            return kinds


def _background(rng: np.random.Generator, things: list[tuple[str, str]]) -> str:
    """Choose a background that everything stands out from; of few that do, all kinds of textures are as likely."""
    fitting = [name for name in BACKGROUNDS if all(can_be_seen(*thing, name) for thing in things)]
    textures, plains = ([name for name in fitting if name in group] for group in (TEXTURES, PLAINS))
    chosen = textures if not plains or (textures and rng.random() < TEXTURED_SHARE) else plains
    return chosen[rng.integers(len(chosen))]


def _placed(rng: np.random.Generator, kinds: list[tuple[str, str]]) -> list[Thing]:
    """Give things sizes and places: one anywhere, two where neither hides much of the other."""
    while True:
        things = [_thing(rng, *kind, OBJECT_RADII if len(kinds) == 1 else PAIR_RADII) for kind in kinds]
        if len(things) == 1:
            return things
        one, other = things
        if np.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius:
            return things


def _thing(rng: np.random.Generator, shape: str, colour: str, radii: tuple[float, float]) -> Thing:
    radius = float(rng.uniform(*radii))
    x, y = (float(rng.uniform(radius + 1, SIZE - radius - 1)) for _ in range(2))
    if colour != OWN_COLOUR:
        return Thing(shape, colour, x, y, radius)
    angle, mirror = float(rng.uniform(-GREATEST_ANGLE, GREATEST_ANGLE)), bool(rng.random() < 0.5)
    return Thing(shape, colour, x, y, radius, angle, mirror)
