"""Find out whether a picture has the texture of a background, and not its tones alone."""

from dataclasses import astuple, dataclass
from functools import cache

import numpy as np

from ..world.render import background as drawn_background
from ..world.render import stylise, unwashed, without_grid
from ..world.world import COLOURS, SHAPES, SIZE, TEXTURE_TONES, Scene

LEAST_SPREAD = 0.5
"""Share of a texture's own spread that a picture of it must have; paper grain on even grey has 0.45 of the checks'."""
LEAST_SLOPE = 1 / 3
"""The same of its slopes, of which a VAE takes more. Paper grain has waves of eleven pixels and stays below 0.25."""
_LEAST_CHANGE = 0.5
"""Share of the slopes that the evenest drawn border of a texture has, which a picture's border must have. A wash of
watercolor on even grey has 0.11 of the stripes'; skies may be all but even there, and things hide some of it."""
_EVEN = 0.05
"""Slope, as a share of the spread, below which a texture is even along an axis, as stripes are from top to bottom."""
LEVEL_OFF = 0.25
"""Farthest that the mean may be from a texture's own; else a night, whose tones pass grey, explains any grey."""
LEAST_OFF = 0.12
"""The same as a distance of RGB: tones as near to each other as sand's are off by more where a grid darkens them."""
_DRAWN, _BORDERS = 8, 24


@dataclass(frozen=True)
class Texture:
    """Contrast and structure of a texture, as shares of the distance between its two tones.

    level:  mean, 0 at the dark tone
    spread: standard deviation
    across: mean change from a pixel to the next in its row
    down:   the same in its column
    """

    level: float
    spread: float
    across: float
    down: float


def has_texture(picture: np.ndarray, background: str, style: str, where: np.ndarray) -> bool:
    """Return whether a picture has a good part of a texture's contrast and structure.

    picture:    [H, W, 3], 0..1, its style undone by `without_style`
    background: one of TEXTURES
    style:      that was undone; textures are weaker behind one
    where:      bool [H, W], pixels of the background; too few to tell count as even
    """
    found, usual = texture_of(picture, background, where), usual_texture(background, style)
    span = float(np.linalg.norm(np.subtract(*TEXTURE_TONES[background])))
    return (
        abs(found.level - usual.level) <= max(LEVEL_OFF, LEAST_OFF / span)
        and found.spread >= LEAST_SPREAD * usual.spread
        and _changes(found, usual, LEAST_SLOPE)
    )


def changes_as(picture: np.ndarray, background: str, style: str, border: np.ndarray) -> bool:
    """Return whether a picture's border changes from pixel to pixel about as that of a texture may; see `has_texture`.

    border: bool [H, W]; things may reach into it
    """
    evenest = _evenest(background, style, border.tobytes())
    return _changes(texture_of(picture, background, border), evenest, _LEAST_CHANGE)


def _changes(found: Texture, usual: Texture, least: float) -> bool:
    """Return whether slopes reach a share of a texture's, along the axes along which it is not even."""
    slopes = ((found.across, usual.across), (found.down, usual.down))
    return all(have >= least * need for have, need in slopes if need > _EVEN * usual.spread)


def texture_of(picture: np.ndarray, background: str, where: np.ndarray) -> Texture:
    """Measure how a picture [H, W, 3] moves between the two tones of a background, at the pixels `where` [H, W]."""
    dark, light = (np.array(tone, np.float32) for tone in TEXTURE_TONES[background])
    between = light - dark
    share = (picture - dark) @ between / (between @ between)
    rows, columns = where[:, 1:] & where[:, :-1], where[1:] & where[:-1]
    if not rows.any() or not columns.any():
        return Texture(0.0, 0.0, 0.0, 0.0)
    across, down = (np.abs(np.diff(share, axis=axis)) for axis in (1, 0))
    values = share[where]
    return Texture(
        level=float(values.mean()),
        spread=float(values.std()),
        across=float(across[rows].mean()),
        down=float(down[columns].mean()),
    )


@cache
def usual_texture(background: str, style: str) -> Texture:
    """Measure drawn pictures of a background without an object, in a style that is then undone."""
    everywhere = np.ones((SIZE, SIZE), bool)
    return Texture(*np.mean(_drawn(background, style, everywhere, _DRAWN), axis=0).tolist())


@cache
def _evenest(background: str, style: str, border: bytes) -> Texture:
    """Return the least of each measure that the borders of drawn pictures have."""
    where = np.frombuffer(border, bool).reshape(SIZE, SIZE)
    return Texture(*np.min(_drawn(background, style, where, _BORDERS), axis=0).tolist())


def _drawn(background: str, style: str, where: np.ndarray, count: int) -> list[tuple[float, ...]]:
    nothing = np.zeros((SIZE, SIZE), np.float32)
    drawn = []
    for seed in range(count):
        scene = Scene(SHAPES[0], COLOURS[0], background, style, texture=seed)
        picture = without_style(stylise(drawn_background(scene), nothing, scene), style)
        drawn.append(astuple(texture_of(picture, background, where)))
    return drawn


def without_style(picture: np.ndarray, style: str) -> np.ndarray:
    """Undo a picture's style as far as possible. Returns [H, W, 3], 0..1."""
    if style == "pixel":
        return without_grid(picture)
    return unwashed(picture) if style == "watercolor" else picture
