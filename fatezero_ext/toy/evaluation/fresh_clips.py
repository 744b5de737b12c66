"""Clips to measure edits on, and edits to make of them: new ones for every seed.

The world has two halves: coloured shapes, and objects in their own colours. Five of eight clips of shapes are of what
the model draws best, and of objects on backgrounds that it draws best; the others are of everything in the world, so
that the figures do not flatter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...choices import World
from ..world.clips import READABLE_BACKGROUNDS, READABLE_COLOURS, READABLE_SHAPES, Clip
from ..world.rich import can_be_seen
from ..world.world import (
    ANIMALS,
    BACKGROUNDS,
    COLOURS,
    NO_OBJECT,
    OBJECTS,
    OWN_COLOUR,
    SHAPES,
    SIZE,
    STYLES,
    VEHICLES,
    Scene,
)

READABLE_OF_EIGHT = 5
RADII, OBJECT_RADII = (9.5, 14.0), (13.5, 16.5)
"""Radii of shapes, and of objects, whose details need more pixels."""
LEAN = 8.0
"""Degrees that an object leans at most to either side."""
GROWTH = 1.25
"""Greatest radius of a growing object over its mean one, and that over its least."""
MARGIN = 1.0
"""Pixels between an object and the border, at least."""
KINDS: Mapping[World, Sequence[str]] = {
    "shapes": ("colour", "shape", "background", "colour+shape", "style", "removal", "reconstruction"),
    "objects": ("object", "background", "style", "removal", "reconstruction"),
}
"""Kinds of edits in each half of the world."""
_NUMBERED = (*KINDS["shapes"], "object")
ALIKE = (ANIMALS, VEHICLES, tuple(name for name in OBJECTS if name not in (*ANIMALS, *VEHICLES)))
"""Groups of objects; one becomes another of its group."""
_CLIP, _TARGET, _OBJECT_CLIP = 0, 1, 2
"""Streams of random numbers."""

Path = np.ndarray
"""Places [frames, 3]: across and down from the middle, -1..1 of the room there is, and the radius over its mean."""


def fresh_clip(seed: int, index: int, *, frames: int = 8, world: World = "shapes") -> Clip:
    """Draw clip `index` of the endless list that belongs to `seed`.

    Motions are a line, an arc, a zigzag, a line on which the thing grows, and a fast way to and fro.
    """
    of_objects = world == "objects"
    rng = np.random.default_rng((seed, index, _OBJECT_CLIP if of_objects else _CLIP))
    first = _object_scene(rng, index) if of_objects else _shape_scene(rng, index)
    motion = tuple(MOTIONS.values())[rng.integers(len(MOTIONS))]
    first = replace(first, texture=int(rng.integers(2**31)))
    room = SIZE / 2 - GROWTH * first.radius - MARGIN
    places = _turned(motion(np.linspace(-1, 1, frames) if frames > 1 else np.zeros(1), rng), rng)
    return Clip(
        tuple(
            replace(
                first, x=SIZE / 2 + room * float(x), y=SIZE / 2 + room * float(y), radius=first.radius * float(size)
            )
            for x, y, size in places
        )
    )


def _shape_scene(rng: np.random.Generator, index: int) -> Scene:
    shapes, colours, backgrounds = (_choices(name, index) for name in ("shape", "colour", "background"))
    shape = shapes[rng.integers(len(shapes))]
    pairs = [(colour, other) for colour in colours for other in backgrounds if can_be_seen(shape, colour, other)]
    colour, background = pairs[rng.integers(len(pairs))]
    return Scene(shape, colour, background, radius=float(rng.uniform(*RADII)))


def _object_scene(rng: np.random.Generator, index: int) -> Scene:
    name = OBJECTS[rng.integers(len(OBJECTS))]
    backgrounds = [other for other in _choices("background", index) if can_be_seen(name, OWN_COLOUR, other)]
    background = backgrounds[rng.integers(len(backgrounds))]
    radius, angle = float(rng.uniform(*OBJECT_RADII)), float(rng.uniform(-LEAN, LEAN))
    return Scene(name, OWN_COLOUR, background, radius=radius, angle=angle, mirror=bool(rng.random() < 0.5))


def target(clip: Clip, seed: int, index: int, kind: str) -> dict[str, str]:
    """Choose what an edit of this kind makes of clip `index`: the changes that `Clip.edited` takes.

    kind: one of KINDS for the clip's half of the world, or a style by its name; "style" gives each clip one of the
          four in turn
    Raises ValueError for another kind.
    """
    scene = clip.scenes[0]
    kinds = KINDS["objects" if scene.shape in OBJECTS else "shapes"]
    if kind == "reconstruction":
        return {}
    if kind == "removal":
        return {"shape": NO_OBJECT}
    if kind == "style":
        return {"style": STYLES[(index + index // 8) % len(STYLES)]}  # shifted, so that each meets wide clips too
    if kind in STYLES:
        return {"style": kind}
    if kind not in kinds:
        raise ValueError(f"there is no kind of edit {kind!r}; there are {', '.join((*kinds, *STYLES))}. Choose one.")
    rng = np.random.default_rng((seed, index, _TARGET, _NUMBERED.index(kind)))
    if kind == "object":
        choices: Mapping[str, tuple[str, ...]] = {"shape": next(group for group in ALIKE if scene.shape in group)}
    else:
        choices = {name: _choices(name, index) for name in kind.split("+")}
    while True:
        changes = {name: names[rng.integers(len(names))] for name, names in choices.items()}
        if _is_edit(scene, changes):
            return changes


def _choices(attribute: str, index: int) -> tuple[str, ...]:
    readable, all_there_are = {
        "shape": (READABLE_SHAPES, SHAPES),
        "colour": (READABLE_COLOURS, COLOURS),
        "background": (READABLE_BACKGROUNDS, BACKGROUNDS),
    }[attribute]
    return readable if index % 8 < READABLE_OF_EIGHT else all_there_are


def _is_edit(scene: Scene, changes: Mapping[str, str]) -> bool:
    """Return whether each attribute changes and the thing stays visible."""
    attributes: Mapping[str, Any] = changes
    after = replace(scene, **attributes)
    differs = all(getattr(scene, name) != value for name, value in changes.items())
    return differs and can_be_seen(after.shape, after.colour, after.background)


def _line(time: np.ndarray, rng: np.random.Generator) -> Path:
    return np.stack((time, 0 * time, 1 + 0 * time), axis=1)


def _arc(time: np.ndarray, rng: np.random.Generator) -> Path:
    angle = np.pi * (0.5 + rng.uniform(0.25, 0.5) * time)
    return np.stack((np.cos(angle), np.sin(angle), 1 + 0 * time), axis=1)


def _zigzag(time: np.ndarray, rng: np.random.Generator) -> Path:
    return np.stack((time, _to_and_fro(time * rng.uniform(1.5, 2.5)), 1 + 0 * time), axis=1)


def _grow(time: np.ndarray, rng: np.random.Generator) -> Path:
    return np.stack((0.6 * time, 0 * time, GROWTH**time), axis=1)


def _fast(time: np.ndarray, rng: np.random.Generator) -> Path:
    return np.stack((_to_and_fro(time * rng.uniform(1.5, 2.0)), 0.4 * time, 1 + 0 * time), axis=1)


def _to_and_fro(time: np.ndarray) -> np.ndarray:
    """Return a triangle wave between -1 and 1, of period 4 and slope 1 at 0."""
    return np.abs(np.mod(time + 1, 4) - 2) * -1 + 1


def _turned(places: Path, rng: np.random.Generator) -> Path:
    """Turn a path by any angle; what would then leave the room is drawn in to its border."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    return np.concatenate((np.clip(places[:, :2] @ turn, -1, 1), places[:, 2:]), axis=1)


MOTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], Path]] = {
    "line": _line,
    "arc": _arc,
    "zigzag": _zigzag,
    "grow": _grow,
    "fast": _fast,
}
