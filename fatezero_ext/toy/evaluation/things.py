"""Recognise objects and coloured shapes, one or two in a frame, without a trained model and without any hint.

Everything the world can draw is compared with every place of the frame: each pixel belongs to the background, at the
cost of its distance from the background's tones, or to the thing, at the cost of its distance from the thing's picture.
The thing that lowers the cost most is the one that is there.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..world.objects import draw_object
from ..world.render import (
    PIGMENT,
    background,
    ink,
    render,
    shape_mask,
    thing_cover,
    unwashed,
    without_grid,
    without_vignette,
)
from ..world.world import (
    BACKGROUNDS,
    COLOURS,
    NO_STYLE,
    OBJECTS,
    OWN_COLOUR,
    PALETTE,
    SHAPES,
    SIZE,
    TEXTURE_TONES,
    Scene,
    Thing,
)
from .oracle import read_style, tone_distance
from .textures import changes_as

GRID = 24
"""Points of a template and side."""
REACH = 1.1
"""Half the side of a template in units of the radius."""
ANGLES = (-15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0)
_FIRST_ANGLES = (-10.0, 0.0, 10.0)
RADII = (9.0, 10.5, 12.25, 14.25, 16.5, 19.0)
STRIDE = 3.0
"""Pixels between the places that are tried first."""
LEAST_GAIN = 2.5
"""Squared RGB distance times pixels that a thing must explain."""
_DRAWN_RADIUS = 14.5
_COLOURED = 1.0
"""Percent of pixels that show colour in a style that has any: of a white ghost on checks the mouth alone does. Behind
the VAE 1 % of the pixels of sketches and of black and white reach .06 at most, drawn by the objects model .08."""
_FAR = 0.25
"""Squared RGB distance that a pixel unlike its background costs at most."""
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)
_REFINED = 5
_DARKEST_WASH = 0.15
"""Watercolor leaves no pixel darker than this."""
_BORDER, _BORDER_SHARE = 6, 0.8
"""Width of the border in pixels, and the share of it that no thing is expected to reach into."""
_SPREAD_WEIGHT = 0.5
_QUANTILES = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True)
class FoundThing:
    """A thing as it was found.

    colour: of a shape; None for an object, and in a style that shows no colours
    gain:   squared RGB distance times pixels that it explains better than the background
    mask:   [H, W] float32, 0 or 1, the pixels of the drawing that fits best
    """

    shape: str
    colour: str | None
    x: float
    y: float
    radius: float
    angle: float
    mirror: bool
    gain: float
    mask: np.ndarray


@dataclass(frozen=True)
class SceneReading:
    """Contents of a frame: things, the most certain first, and None for a background that the style does not show."""

    things: tuple[FoundThing, ...]
    background: str | None
    style: str
    unexplained: float = 0.0
    """Squared RGB distance times pixels that neither the background nor the things explain."""


def read_scene(frame: np.ndarray, *, things: int = 1, objects: tuple[str, ...] = OBJECTS) -> SceneReading:
    """Read one frame: [H, W, 3], uint8 or floats in 0..1, 64x64.

    things:  greatest number of things to look for
    objects: names that the frame may hold beside shapes
    """
    if frame.shape != (SIZE, SIZE, 3):
        raise ValueError(
            f"a frame of shape {list(frame.shape)} came; the oracle reads [{SIZE}, {SIZE}, 3]. "
            f"Resize the frame, or read one frame at a time."
        )
    picture = frame.astype(np.float32) / 255 if frame.dtype == np.uint8 else frame.astype(np.float32)
    style = read_style(picture, coloured=_COLOURED)
    if style == "sketch":
        lines = np.clip(ink(picture), 0, 0.8)
        shown, behind, kind = _grey(lines), np.minimum(3 * lines**2, _FAR), "ink"
    elif style == "monochrome":
        grey = without_vignette(picture)
        shown, behind, kind = _grey(grey), np.minimum(3 * _grey_distance(grey) ** 2, _FAR), "grey"
    elif style == "pixel":
        return _coloured_scene(without_grid(picture), style, things, objects)
    else:  # pale objects look washed out and vivid ones in watercolor do not: what explains the frame better decides
        plain = _coloured_scene(picture, NO_STYLE, things, objects)
        if np.percentile(picture.min(axis=2), 2) < _DARKEST_WASH:
            return plain
        washed = _coloured_scene(unwashed(picture), "watercolor", things, objects)
        # Restoring the colours makes all distances larger.
        return plain if plain.unexplained < washed.unexplained * PIGMENT**2 else washed
    return _found(shown, behind, (kind, objects), things, None, style)


def _coloured_scene(picture: np.ndarray, style: str, things: int, objects: tuple[str, ...]) -> SceneReading:
    ground = read_ground(picture, style)
    far = _FAR if style != "watercolor" else _FAR / PIGMENT**2  # restored colours are farther apart
    behind = np.minimum(_behind(picture, ground) ** 2, far)
    return _found(picture, behind, ("colour" if style == NO_STYLE else "soft", objects), things, ground, style)


def _behind(picture: np.ndarray, ground: str) -> np.ndarray:
    """Compute each pixel's distance [H, W] from the background.

    Of a night only the sky counts: its few stars would explain every grey.
    """
    if ground == "night":
        return np.linalg.norm(picture - np.array(TEXTURE_TONES[ground][0], np.float32), axis=2)
    return tone_distance(picture, ground)


def _found(
    shown: np.ndarray,
    behind: np.ndarray,
    templates: tuple[str, tuple[str, ...]],
    things: int,
    ground: str | None,
    style: str,
) -> SceneReading:
    """Take away one thing after the other."""
    weight = np.ones((SIZE, SIZE), np.float32)
    found: list[FoundThing] = []
    while len(found) < things:
        best = _best(shown, behind, weight, templates)
        if best is None:
            break
        found.append(best)
        weight = weight * (1 - best.mask)
    unexplained = float(behind.sum()) - sum(one.gain for one in found)
    return SceneReading(tuple(found), ground, style, unexplained)


def read_ground(picture: np.ndarray, style: str = NO_STYLE) -> str:
    """Recognise the background of a picture by the frame's border, where things are seldom.

    picture: [H, W, 3], 0..1, without its style
    style:   that was undone
    Its colours lie near the background's tones, are spread between them as the background's are, and change from pixel
    to pixel as they do: a flat grey is no checkerboard, and one in a wash of watercolor has no stripes.
    """
    border = _border()
    likeliest = sorted(BACKGROUNDS, key=lambda name: _misfit(picture[border], name))
    return next(name for name in likeliest if name not in TEXTURE_TONES or changes_as(picture, name, style, border))


def _misfit(pixels: np.ndarray, background: str) -> float:
    distance = np.sort(np.minimum(tone_distance(pixels[None], background)[0], 0.5))
    misfit = float(distance[: int(len(distance) * _BORDER_SHARE)].mean() + 0.3 * distance.mean())
    if background in TEXTURE_TONES:
        span = float(np.linalg.norm(np.subtract(*TEXTURE_TONES[background])))
        misfit += _SPREAD_WEIGHT * span * float(np.abs(_spread(pixels, background) - _usual_spread(background)).mean())
    return misfit


def _spread(pixels: np.ndarray, background: str) -> np.ndarray:
    """Return quantiles of the places of colours [n, 3] between a background's two tones."""
    dark, light = (np.array(tone, np.float32) for tone in TEXTURE_TONES[background])
    axis = light - dark
    return np.quantile(np.clip((pixels - dark) @ axis / (axis @ axis), 0, 1), _QUANTILES)


@cache
def _usual_spread(texture: str) -> np.ndarray:
    drawn = [background(Scene("circle", "red", texture, texture=seed))[_border()] for seed in range(6)]
    return np.mean([_spread(pixels, texture) for pixels in drawn], axis=0)


@cache
def _border() -> np.ndarray:
    inside = np.zeros((SIZE, SIZE), bool)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    return ~inside


@dataclass(frozen=True)
class _Bank:
    """Templates: names with colour, angle and mirror; weights [templates, 5 * GRID * GRID] of the pixels' features."""

    labels: tuple[tuple[str, str | None, float, bool], ...]
    weights: np.ndarray


@cache
def _bank(kind: str, objects: tuple[str, ...], first: bool) -> _Bank:
    """Draw all templates; first: fewer, and blurred, for a search that does not hit the place exactly."""
    labels: list[tuple[str, str | None, float, bool]] = []
    for shape in SHAPES:
        labels += [(shape, colour, 0.0, False) for colour in (COLOURS if kind != "ink" else (None,))]
    angles = _FIRST_ANGLES if first else ANGLES
    labels += [(name, None, angle, mirror) for name in objects for angle in angles for mirror in (False, True)]
    drawn = [_template(kind, *label) for label in labels]
    weights = [_weights(*((_softer(light), _softer(cover)) if first else (light, cover))) for light, cover in drawn]
    return _Bank(tuple(labels), np.stack(weights))


def _template(kind: str, shape: str, colour: str | None, angle: float, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw a template in the middle of a frame. Returns its light [H, W, 3] and its cover [H, W]."""
    middle = SIZE / 2
    if kind == "ink":
        scene = Scene(
            shape, colour or _any_colour(shape), "white", "sketch", radius=_DRAWN_RADIUS, angle=angle, mirror=mirror
        )
        lines = np.clip(ink(render(scene)), 0, 0.8)
        cover = np.minimum(1, thing_cover(scene.things[0]) + (lines > 0.15))
        return cover[..., None] * _grey(lines), cover
    if shape in OBJECTS:
        light, cover = _object_drawn(shape, angle, mirror)
    else:
        cover = shape_mask(shape, middle, middle, _DRAWN_RADIUS)
        light = cover[..., None] * np.array(PALETTE[colour or "black"], np.float32)
    if kind == "soft":
        return _soft(light), _soft(cover)
    return (_grey(light @ _LUMA) if kind == "grey" else light), cover


@cache
def _object_drawn(name: str, angle: float, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw an object in the middle of a frame, once for every kind of template."""
    return draw_object(name, SIZE / 2, SIZE / 2, _DRAWN_RADIUS, angle, mirror)


def _softer(values: np.ndarray) -> np.ndarray:
    return _soft(_soft(values))


def _soft(values: np.ndarray) -> np.ndarray:
    """Blur [H, W, ...] about as watercolor and blocks of four pixels do: a deviation of 1.2 pixels."""
    for axis in (0, 1):
        for _ in range(3):
            values = 0.5 * values + 0.25 * (np.roll(values, 1, axis) + np.roll(values, -1, axis))
    return values


def _any_colour(shape: str) -> str:
    return OWN_COLOUR if shape in OBJECTS else "black"


def _weights(light: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Return what each pixel's features add to the gain of a template; see `_features`."""
    own = (light**2).sum(axis=2) / np.maximum(cover, 1e-3)
    planes = np.stack((cover, *(2 * light).transpose(2, 0, 1), -own))
    place = np.array([[SIZE / 2, SIZE / 2, _DRAWN_RADIUS]], np.float32)
    return _sampled(planes, place)[0]


def _features(shown: np.ndarray, behind: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return five planes [5, H, W] whose weighted sum is: cost as background less cost as a template's pixels."""
    return weight * np.stack((behind - (shown**2).sum(axis=2), *shown.transpose(2, 0, 1), np.ones_like(behind)))


def _sampled(planes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sample planes [n, H, W] on the grid around places [m, (x, y, radius)], linearly; nothing lies outside the frame.

    Returns [m, n * GRID * GRID]. Rows are sampled once for all places that differ in x alone.
    """
    result = np.empty((len(places), len(planes), GRID, GRID), np.float32)
    bands, band_of = np.unique(places[:, 1:], axis=0, return_inverse=True)
    across = _shares(places[:, 0], places[:, 2])
    for band, rows in enumerate(_shares(bands[:, 0], bands[:, 1])):
        here = band_of.ravel() == band
        result[here] = (rows @ planes) @ across[here].transpose(0, 2, 1)[:, None]
    return result.reshape(len(places), -1)


def _shares(middle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return what each pixel adds to the points of grids along one axis, [m, GRID, SIZE]: linear interpolation."""
    steps = ((np.arange(GRID) + 0.5) / GRID * 2 - 1).astype(np.float32) * REACH
    points = middle[:, None] + steps * radius[:, None]
    pixels = np.arange(SIZE, dtype=np.float32) + 0.5
    return np.maximum(1 - np.abs(points[..., None] - pixels), 0)


def _best(
    shown: np.ndarray, behind: np.ndarray, weight: np.ndarray, templates: tuple[str, tuple[str, ...]]
) -> FoundThing | None:
    """Find the template that explains most: anywhere, blurred, then nearer and nearer; None if none explains enough."""
    steps = np.arange(8, SIZE - 7, STRIDE)
    places = _around(steps, steps, np.array(RADII))
    gains = _gains(_features(_softer(shown), _softer(behind), weight), places, _bank(*templates, True))
    planes, bank = _features(shown, behind, weight), _bank(*templates, False)
    seeds = places[np.argsort(-gains.max(axis=1))[:_REFINED]]
    for reach, scale in ((2.0, 0.06), (1.0, 0.03), (0.5, 0.015)):
        near = np.linspace(-reach, reach, 5)
        finer = np.concatenate(
            [_around(x + near, y + near, radius * (1 + scale * np.arange(-2, 3))) for x, y, radius in seeds]
        )
        found = _gains(planes, finer, bank)
        where, which = np.unravel_index(found.argmax(), found.shape)
        seeds = finer[where : where + 1]
    gain, (shape, colour, angle, mirror) = float(found[where, which]), bank.labels[which]
    if gain < LEAST_GAIN:
        return None
    x, y, radius = (float(value) for value in seeds[0])
    thing = Thing(shape, colour or _any_colour(shape), x, y, radius, angle, mirror)
    mask = (thing_cover(thing) > 0.5).astype(np.float32)
    return FoundThing(shape, colour, x, y, radius, angle, mirror, gain, mask)


def _gains(planes: np.ndarray, places: np.ndarray, bank: _Bank) -> np.ndarray:
    """Return what every template would explain at every place [places, templates], times pixels."""
    area = (2 * REACH * places[:, 2:] / GRID) ** 2
    return (_sampled(planes, places) @ bank.weights.T) * area


def _around(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y, radius)], axis=1).astype(np.float32)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _grey_distance(grey: np.ndarray) -> np.ndarray:
    """Compute each pixel's distance [H, W] from the greys of the background that explains most of them."""
    distances = []
    for name in BACKGROUNDS:
        tones = TEXTURE_TONES.get(name) or (PALETTE[name],)
        low, *_, high = sorted(float(np.dot(tone, _LUMA)) for tone in (*tones, *tones))
        distance = np.maximum(np.maximum(low - grey, grey - high), 0)
        distances.append((float(np.minimum(distance, 0.35).mean()) + 0.15 * (high - low), distance))
    return min(distances, key=lambda pair: pair[0])[1]
