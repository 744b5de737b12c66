"""Clips of the toy world, and the exact truth of any edit of them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .captions import caption
from .render import object_mask, render
from .world import NO_OBJECT, NO_STYLE, SIZE, Scene, is_visible

READABLE_BACKGROUNDS = ("grass", "water", "sand", "sky", "checker", "white", "gray")
READABLE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
READABLE_SHAPES = ("circle", "square", "triangle", "heart")
READABLE_RADII = (11.0, 15.0)
"""Radii that the model draws best and that are easy to follow; the default, as are the values above."""

LONGEST_SWING = 14.0
"""Pixels from the middle of a path to its ends."""


@dataclass(frozen=True)
class Clip:
    """One object on a smooth path over a background that stands still."""

    scenes: tuple[Scene, ...]

    @property
    def frames(self) -> np.ndarray:
        """Frames [frames, H, W, 3] float32, 0..1."""
        return np.stack([render(scene) for scene in self.scenes])

    @property
    def masks(self) -> np.ndarray:
        """Object masks [frames, H, W] float32, 0..1."""
        return np.stack([object_mask(scene) for scene in self.scenes])

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
    ) -> "Clip":
        """Draw the result of a perfect edit: the same path and texture, the named attributes changed.

        None leaves an attribute unchanged; the shape NO_OBJECT takes the object away. An object that would not stand
        out from its background is refused.
        """
        wanted = {"colour": colour, "shape": shape, "background": background, "style": style}
        changed: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        scenes = tuple(replace(scene, **changed) for scene in self.scenes)
        if shape != NO_OBJECT and not is_visible(scenes[0].colour, scenes[0].background):
            raise ValueError(
                f"a {scenes[0].colour} object cannot be seen on '{scenes[0].background}'; an edit needs an object that "
                f"stands out. Choose another colour or background."
            )
        return Clip(scenes)


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
        raise ValueError(
            f"a {colour} object cannot be seen on '{background}'; a clip needs an object that stands out. "
            f"Choose another colour or background."
        )
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
