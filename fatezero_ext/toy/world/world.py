"""The toy world: shapes, colours, objects, backgrounds, styles, and the scenes made of them.

A scene is one thing or two over one background in one style. It is a value: the same scene is always drawn the same
way, so the exact picture that an edit should give can be drawn as well.
"""

from dataclasses import dataclass

import numpy as np

SIZE = 64
"""Side of a frame in pixels."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
OBJECTS = (
    *("cat", "dog", "panda", "fox", "car", "bus", "ball", "apple"),
    *("rabbit", "frog", "lion", "pig", "elephant", "duck", "owl", "penguin", "fish", "turtle", "butterfly"),
    *("taxi", "rocket", "balloon", "pumpkin", "mushroom", "sunflower", "robot", "ghost", "snowman"),
)
"""Names in the order of the sprite sheet; a world of few objects has the first of them."""
ANIMALS = (
    *("cat", "dog", "panda", "fox", "rabbit", "frog", "lion", "pig", "elephant", "duck", "owl", "penguin", "fish"),
    *("turtle", "butterfly"),
)
VEHICLES = ("car", "bus", "taxi", "rocket")
THINGS = SHAPES + OBJECTS
TEXTURES = ("grass", "water", "sand", "sky", "brick", "checker", "stripes", "night")
STYLES = ("sketch", "watercolor", "pixel", "monochrome")
NO_STYLE = "none"
NO_OBJECT = "none"
"""Shape of a scene that is background alone: the truth of an edit that takes the object away."""

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.10, 0.12),
    "orange": (0.98, 0.55, 0.06),
    "yellow": (0.98, 0.90, 0.15),
    "green": (0.08, 0.60, 0.20),
    "blue": (0.08, 0.22, 0.88),
    "purple": (0.58, 0.15, 0.70),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.05),
    "gray": (0.52, 0.52, 0.54),
}
"""RGB, 0..1. Gray is a background only: it is too near to what the styles make of other colours."""

COLOURS = tuple(name for name in PALETTE if name != "gray")
OWN_COLOUR = "own"
"""Stands for the colours of an object, which no word names."""
PLAINS = tuple(name for name in PALETTE if name != "orange")
BACKGROUNDS = TEXTURES + PLAINS

TEXTURE_TONES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "grass": ((0.16, 0.42, 0.08), (0.46, 0.74, 0.24)),
    "water": ((0.06, 0.30, 0.58), (0.26, 0.60, 0.84)),
    "sand": ((0.76, 0.63, 0.38), (0.92, 0.82, 0.58)),
    "sky": ((0.45, 0.72, 0.98), (0.98, 0.99, 1.00)),
    "brick": ((0.62, 0.24, 0.15), (0.84, 0.78, 0.70)),
    "checker": ((0.24, 0.24, 0.25), (0.72, 0.72, 0.73)),
    "stripes": ((0.52, 0.60, 0.66), (0.90, 0.91, 0.88)),
    "night": ((0.03, 0.04, 0.14), (0.95, 0.95, 0.85)),
}
"""The two colours each texture goes between, RGB, 0..1."""

LEAST_CONTRAST = 0.45
"""RGB distance below which an object is hard to see; such pairs are never drawn."""

LEAST_RADIUS, GREATEST_RADIUS = 8.5, 16.0
STYLED_SHARE = 0.36
_UNREADABLE = {("purple", "blue"), ("blue", "purple"), ("purple", "night"), ("white", "checker"), ("red", "brick")}


@dataclass(frozen=True)
class Thing:
    """A coloured shape, or an object in its own colours.

    shape:  one of SHAPES or of OBJECTS
    colour: one of COLOURS; OWN_COLOUR for an object
    x, y:   centre in pixels, y down
    radius: pixels; half the greatest side of an object
    angle:  degrees, clockwise; shapes are always upright
    mirror: exchange left and right; shapes are symmetrical
    """

    shape: str
    colour: str = OWN_COLOUR
    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 12.0
    angle: float = 0.0
    mirror: bool = False

    def __post_init__(self) -> None:
        _check_thing(self.shape, self.colour)

    @property
    def is_object(self) -> bool:
        """Return whether it is an object in its own colours."""
        return self.shape in OBJECTS


@dataclass(frozen=True)
class Scene:
    """One thing, or two, over one background.

    shape, colour, x, y, radius, angle, mirror: the first thing, as in `Thing`; the shape NO_OBJECT for none
    background: one of TEXTURES, or one of PLAINS for an even colour
    texture:    seed of everything random in the picture (texture phases, paper grain)
    second:     another thing, drawn in front of the first; None for none
    """

    shape: str
    colour: str
    background: str
    style: str = NO_STYLE
    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 12.0
    texture: int = 0
    angle: float = 0.0
    mirror: bool = False
    second: Thing | None = None

    def __post_init__(self) -> None:
        if self.shape != NO_OBJECT:
            _check_thing(self.shape, self.colour)
        _check("background", self.background, BACKGROUNDS)
        _check("style", self.style, (NO_STYLE, *STYLES))

    @property
    def things(self) -> tuple[Thing, ...]:
        """Everything that stands on the background, the farthest first."""
        others = () if self.second is None else (self.second,)
        if self.shape == NO_OBJECT:
            return others
        return (Thing(self.shape, self.colour, self.x, self.y, self.radius, self.angle, self.mirror), *others)


def _check_thing(shape: str, colour: str) -> None:
    _check("shape", shape, THINGS)
    if shape in SHAPES:
        _check("colour", colour, COLOURS)
    elif colour != OWN_COLOUR:
        raise ValueError(
            f"a {colour} {shape} came; objects of the toy world have their own colours. "
            f"Give colour='{OWN_COLOUR}' with an object, or one of {', '.join(SHAPES)}."
        )


def _check(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is '{value}'; the toy world has {', '.join(allowed)}. Use one of those.")


def is_visible(colour: str, background: str) -> bool:
    """Return whether an object of this colour stands out from this background."""
    if (colour, background) in _UNREADABLE:
        return False
    tones = TEXTURE_TONES[background] if background in TEXTURE_TONES else (PALETTE[background],)
    if background in ("sky", "night"):
        tones = tones[:1] if colour != "white" else tones
    if background == "brick":
        tones = tones[:1]
    nearest = min(float(np.linalg.norm(np.subtract(PALETTE[colour], tone))) for tone in tones)
    return nearest >= LEAST_CONTRAST


def sample_scene(rng: np.random.Generator, *, styled_share: float = STYLED_SHARE) -> Scene:
    """Draw a scene at random; colour and background always stand apart."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    while True:
        colour = COLOURS[rng.integers(len(COLOURS))]
        background = (TEXTURES if rng.random() < 0.6 else PLAINS)[rng.integers(8)]
        if is_visible(colour, background):
            break
    style = STYLES[rng.integers(len(STYLES))] if rng.random() < styled_share else NO_STYLE
    radius = float(rng.uniform(LEAST_RADIUS, GREATEST_RADIUS))
    x, y = (float(rng.uniform(radius, SIZE - radius)) for _ in range(2))
    return Scene(shape, colour, background, style, x, y, radius, int(rng.integers(2**31)))


def scene_at(seed: int, index: int) -> Scene:
    """Return scene `index` of the endless list that belongs to `seed`."""
    return sample_scene(np.random.default_rng((seed, index)))
