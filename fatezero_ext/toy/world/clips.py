"""Clips of the toy world, and the exact truth of any edit of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .captions import caption
from .render import object_mask, render, thing_masks
from .rich import can_be_seen
from .world import NO_OBJECT, NO_STYLE, OBJECTS, OWN_COLOUR, SIZE, Scene, Thing, is_visible

READABLE_BACKGROUNDS = ("grass", "water", "sand", "sky", "checker", "white", "gray")
READABLE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
READABLE_SHAPES = ("circle", "square", "triangle", "heart")
READABLE_RADII = (11.0, 15.0)
"""Radii that the model draws best and that are easy to follow; the default, as are the values above."""

LONGEST_SWING = 14.0
"""Pixels from the middle of a path to its ends."""


@dataclass(frozen=True)
class Clip:
    """One thing, or two, on smooth paths over a background that stands still."""

    scenes: tuple[Scene, ...]

    @property
    def frames(self) -> np.ndarray:
        """Frames [frames, H, W, 3] float32, 0..1."""
        return np.stack([render(scene) for scene in self.scenes])

    @property
    def masks(self) -> np.ndarray:
        """Masks of everything on the background [frames, H, W] float32, 0..1."""
        return np.stack([object_mask(scene) for scene in self.scenes])

    @property
    def thing_masks(self) -> np.ndarray:
        """Masks of each thing apart [frames, things, H, W] float32, 0..1."""
        return np.stack([np.stack(thing_masks(scene)) for scene in self.scenes])

    @property
    def prompt(self) -> str:
        """The plainest caption, the same for all frames."""
        return caption(self.scenes[0])

    def edited(
        self,
        *,
        colour: str | None = None,
        shape: str | None = None,
        background: str | None = None,
        style: str | None = None,
        second_colour: str | None = None,
        second_shape: str | None = None,
    ) -> "Clip":
        """Draw the result of a perfect edit: the same path and texture, the named attributes changed.

        None leaves an attribute unchanged; the shape NO_OBJECT takes a thing away; a shape that becomes an object takes
        the object's own colours. Something that would not stand out from its background is refused.
        """
        wanted = {"background": background, "style": style, **_changed_thing(self.scenes[0], shape, colour)}
        changed: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        scenes = tuple(replace(scene, **changed) for scene in self.scenes)
        if second_shape or second_colour:
            scenes = tuple(_with_second(scene, second_shape, second_colour) for scene in scenes)
        for thing in scenes[0].things:
            if not can_be_seen(thing.shape, thing.colour, scenes[0].background):
                raise ValueError(_unseen(thing.shape, thing.colour, scenes[0].background, "an edit"))
        return Clip(scenes)


def _changed_thing(thing: Scene | Thing, shape: str | None, colour: str | None) -> dict[str, str]:
    changes = {name: value for name, value in (("shape", shape), ("colour", colour)) if value is not None}
    if shape in OBJECTS and colour is None:
        changes["colour"] = OWN_COLOUR
    if shape is not None and shape not in (*OBJECTS, NO_OBJECT) and colour is None and thing.colour == OWN_COLOUR:
        raise ValueError(
            f"a {thing.shape} is to become a {shape}; a shape needs a colour. Give one, for example colour='red'."
        )
    return changes


def _with_second(scene: Scene, shape: str | None, colour: str | None) -> Scene:
    if scene.second is None:
        raise ValueError(
            "the scene has one thing; changing the second needs two. Leave second_shape and second_colour out."
        )
    if shape == NO_OBJECT:
        return replace(scene, second=None)
    changes: dict[str, Any] = {**_changed_thing(scene.second, shape, colour)}
    return replace(scene, second=replace(scene.second, **changes))


def _unseen(shape: str, colour: str, background: str, what: str) -> str:
    thing = f"a {shape}" if colour == OWN_COLOUR else f"a {colour} object"
    ground = repr(background) if background else "any background"
    return (
        f"{thing} cannot be seen on {ground}; {what} needs an object that stands out. "
        f"Choose another {'object' if colour == OWN_COLOUR else 'colour'} or background."
    )


def _unseen_pair(shape: str | None, background: str | None, second: Thing | None) -> str:
    """Describe why no clip of an object, and of another thing, can be seen; what is None could be anything."""
    grounds = (background,) if background else READABLE_BACKGROUNDS
    things = [(shape, OWN_COLOUR)] if shape else []
    things += [(second.shape, second.colour)] if second else []
    hidden = [thing for thing in things if not any(can_be_seen(*thing, ground) for ground in grounds)]
    if hidden:
        return _unseen(*hidden[0], background or "", "a clip")
    return (
        f"{f'a {shape}' if shape else 'none of the objects'} and the second thing cannot both be seen on "
        f"{repr(background) if background else 'any background'}; a clip needs things that stand out. Choose another "
        f"object, second thing or background."
    )


def sample_clip(
    seed: int,
    *,
    frames: int = 8,
    shape: str | None = None,
    colour: str | None = None,
    background: str | None = None,
    style: str = NO_STYLE,
) -> Clip:
    """Draw a clip that reads well; attributes that are None are drawn at random.

    >>> sample_clip(3, shape="circle", colour="red", background="grass").prompt
    'a red circle on the grass'
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}; a clip needs at least 1. Give frames=1 or more.")
    rng = np.random.default_rng((seed, 7))
    shape = shape or READABLE_SHAPES[rng.integers(len(READABLE_SHAPES))]
    pairs = [
        (one, other)
        for one in ((colour,) if colour else READABLE_COLOURS)
        for other in ((background,) if background else READABLE_BACKGROUNDS)
        if is_visible(one, other)
    ]
    if not pairs:
        raise ValueError(_unseen(shape, colour or "", background or "", "a clip"))
    colour, background = pairs[rng.integers(len(pairs))]
    radius = float(rng.uniform(*READABLE_RADII))
    first = Scene(shape, colour, background, style, radius=radius, texture=int(rng.integers(2**31)))
    return Clip(tuple(replace(first, x=x, y=y) for x, y in _path(rng, frames, radius)))


def _path(rng: np.random.Generator, frames: int, radius: float) -> list[tuple[float, float]]:
    """A gently bent line whose whole object stays inside the frame. Returns a centre in pixels per frame."""
    room = min(LONGEST_SWING, SIZE / 2 - radius - 1)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
    time = np.linspace(-1, 1, frames) if frames > 1 else np.zeros(1)
    along, aside = 0.85 * room * time, bend * room * (time**2 - 0.5)
    x = SIZE / 2 + along * np.cos(heading) - aside * np.sin(heading)
    y = SIZE / 2 + along * np.sin(heading) + aside * np.cos(heading)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


READABLE_OBJECT_RADII = (14.0, 17.0)
READABLE_PAIR_RADII = (11.0, 13.0)
"""Radii of objects in clips, and of each of two things in one."""
LEAST_PAIR_DISTANCE = 30.0
"""Pixels between the centres of two things, side by side, so that neither hides the other."""


def sample_object_clip(
    seed: int,
    *,
    frames: int = 8,
    shape: str | None = None,
    background: str | None = None,
    style: str = NO_STYLE,
    second: Thing | None = None,
    objects: tuple[str, ...] = OBJECTS,
) -> Clip:
    """Draw a clip of an object that reads well; what is None is drawn at random.

    second:  another thing, which moves beside the object; its place and size are chosen here
    objects: names to choose from

    >>> sample_object_clip(3, shape="cat", background="grass").prompt
    'a cat on the grass'
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}; a clip needs at least 1. Give frames=1 or more.")
    rng = np.random.default_rng((seed, 8))
    pairs = [
        (one, other)
        for one in ((shape,) if shape else objects)
        for other in ((background,) if background else READABLE_BACKGROUNDS)
        if can_be_seen(one, OWN_COLOUR, other) and (second is None or can_be_seen(second.shape, second.colour, other))
    ]
    if not pairs:
        raise ValueError(_unseen_pair(shape, background, second))
    shape, background = pairs[rng.integers(len(pairs))]
    radius = float(rng.uniform(*(READABLE_OBJECT_RADII if second is None else READABLE_PAIR_RADII)))
    angle, mirror = float(rng.uniform(-8, 8)), bool(rng.random() < 0.5)
    first = Scene(
        shape,
        OWN_COLOUR,
        background,
        style,
        radius=radius,
        texture=int(rng.integers(2**31)),
        angle=angle,
        mirror=mirror,
    )
    path = _path(rng, frames, radius)
    if second is None:
        return Clip(tuple(replace(first, x=x, y=y) for x, y in path))
    return Clip(tuple(_side_by_side(rng, first, second, path)))


def _side_by_side(
    rng: np.random.Generator, first: Scene, second: Thing, path: list[tuple[float, float]]
) -> list[Scene]:
    """Let two things move up and down in the two halves of the frame, each its own way."""
    other = float(rng.uniform(*READABLE_PAIR_RADII))
    side = 1.0 if rng.random() < 0.5 else -1.0
    turn, swing = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(4, 9))
    scenes = []
    for index, (x, y) in enumerate(path):
        nearer = 0.12 * (x - SIZE / 2)
        along = turn + np.pi * index / max(len(path) - 1, 1)
        place = replace(
            second,
            x=float(SIZE / 2 - side * LEAST_PAIR_DISTANCE / 2 - side * abs(nearer)),
            y=float(SIZE / 2 + swing * np.cos(along)),
            radius=other,
        )
        scenes.append(
            replace(first, x=SIZE / 2 + side * LEAST_PAIR_DISTANCE / 2 + side * abs(nearer), y=y, second=place)
        )
    return scenes
