"""Clips to measure edits on, and edits to make of them: new ones for every seed.

Five of eight clips are of what the model draws best; the others are of everything in the world, so that the figures do
not flatter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ..world.clips import READABLE_BACKGROUNDS, READABLE_COLOURS, READABLE_SHAPES, Clip
from ..world.world import BACKGROUNDS, COLOURS, NO_OBJECT, SHAPES, SIZE, STYLES, Scene, is_visible

READABLE_OF_EIGHT = 5
RADII = (9.5, 14.0)
GROWTH = 1.25
"""Greatest radius of a growing object over its mean one, and that over its least."""
MARGIN = 1.0
"""Pixels between an object and the border, at least."""
KINDS = ("colour", "shape", "background", "colour+shape", "style", "removal", "reconstruction")
_CLIP, _TARGET = 0, 1
"""Streams of random numbers."""

Path = np.ndarray
"""Places [frames, 3]: across and down from the middle, -1..1 of the room there is, and the radius over its mean."""


def fresh_clip(seed: int, index: int, *, frames: int = 8) -> Clip:
    """Draw clip `index` of the endless list that belongs to `seed`.

    Five of eight are of readable shapes, colours and backgrounds. Motions are a line, an arc, a zigzag, a line on which
    the object grows, and a fast way to and fro.
    """
    rng = np.random.default_rng((seed, index, _CLIP))
    shapes, colours, backgrounds = _lists(index)
    shape = shapes[rng.integers(len(shapes))]
    pairs = [(colour, other) for colour in colours for other in backgrounds if is_visible(colour, other)]
    colour, background = pairs[rng.integers(len(pairs))]
    radius = float(rng.uniform(*RADII))
    motion = tuple(MOTIONS.values())[rng.integers(len(MOTIONS))]
    first = Scene(shape, colour, background, radius=radius, texture=int(rng.integers(2**31)))
    room = SIZE / 2 - GROWTH * radius - MARGIN
    places = _turned(motion(np.linspace(-1, 1, frames) if frames > 1 else np.zeros(1), rng), rng)
    return Clip(
        tuple(
            replace(first, x=SIZE / 2 + room * float(x), y=SIZE / 2 + room * float(y), radius=radius * float(size))
            for x, y, size in places
        )
    )


def target(clip: Clip, seed: int, index: int, kind: str) -> dict[str, str]:
    """Choose what an edit of this kind makes of clip `index`: the changes that `Clip.edited` takes.

    kind: one of KINDS, or a style by its name; "style" gives each clip one of the four in turn
    Raises ValueError for another kind.
    """
    if kind == "reconstruction":
        return {}
    if kind == "removal":
        return {"shape": NO_OBJECT}
    if kind == "style":
        return {"style": STYLES[(index + index // 8) % len(STYLES)]}  # shifted, so that each meets wide clips too
    if kind in STYLES:
        return {"style": kind}
    attributes = kind.split("+")
    if kind not in KINDS:
        raise ValueError(f"there is no kind of edit {kind!r}; there are {', '.join((*KINDS, *STYLES))}. Choose one.")
    rng, scene = np.random.default_rng((seed, index, _TARGET, KINDS.index(kind))), clip.scenes[0]
    lists = dict(zip(("shape", "colour", "background"), _lists(index), strict=True))
    while True:
        changes = {name: lists[name][rng.integers(len(lists[name]))] for name in attributes}
        if _is_edit(scene, changes):
            return changes


def _lists(index: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    if index % 8 < READABLE_OF_EIGHT:
        return READABLE_SHAPES, READABLE_COLOURS, READABLE_BACKGROUNDS
    return SHAPES, COLOURS, BACKGROUNDS


def _is_edit(scene: Scene, changes: Mapping[str, str]) -> bool:
    """Return whether each attribute changes and the object stays visible."""
    differs = all(getattr(scene, name) != value for name, value in changes.items())
    return differs and is_visible(changes.get("colour", scene.colour), changes.get("background", scene.background))


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
