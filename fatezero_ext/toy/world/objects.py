"""Objects of the toy world: small pictures of animals, vehicles and things with their transparency.

They are Microsoft's Fluent Emoji (MIT; `sprites/LICENSE`).
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .world import OBJECTS, PALETTE, SIZE, TEXTURE_TONES

SHEET = Path(__file__).parent / "sprites" / "objects.png"
CELL, COLUMNS, MARGIN = 96, 7, 2
"""Side of a cell of the sheet in pixels, cells in a row, and empty pixels around an object."""
OVERSAMPLING = 4
_DIAGONAL = 1.42
"""Greatest distance of an object's pixels from its centre in units of the radius."""

SHADOW = 0.4
"""Share of the background's light that the middle of a shadow takes away."""
_SHADOW_PLACE, _SHADOW_WIDTH, _SHADOW_HEIGHT = 0.95, 0.8, 0.25
"""Place below the object's centre, and half axes, in units of the radius. The same for every object, so that an edit
that exchanges one for another leaves the ground alone."""
_SIMILAR = 0.22
"""RGB distance below which a pixel of an object is hard to tell from its background."""
_LEAST_DISTINCT = 0.55
"""Share of an object that has to stand apart."""


def draw_object(
    name: str, x: float, y: float, radius: float, angle: float = 0.0, mirror: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one object on nothing.

    x, y, radius: centre, and half the greatest side, in pixels
    angle:        degrees, clockwise
    mirror:       exchange left and right, before the rotation
    Returns the light it adds [H, W, 3] (its colour times its cover) and its cover [H, W], float32 in 0..1.
    """
    turn = np.radians(angle)
    reach = _DIAGONAL * radius + 1
    left, top = (max(0, int(middle - reach)) for middle in (x, y))
    right, bottom = (min(SIZE, int(np.ceil(middle + reach))) for middle in (x, y))
    # From a point of the enlarged window to a point of the sheet's cell.
    scale = (CELL - 2 * MARGIN) / (2 * radius * OVERSAMPLING)
    flip = -1.0 if mirror else 1.0
    a, b = flip * scale * np.cos(turn), flip * scale * np.sin(turn)
    d, e = -scale * np.sin(turn), scale * np.cos(turn)
    across, down = (x - left) * OVERSAMPLING, (y - top) * OVERSAMPLING
    matrix = (a, b, CELL / 2 - a * across - b * down, d, e, CELL / 2 - d * across - e * down)
    window = ((right - left) * OVERSAMPLING, (bottom - top) * OVERSAMPLING)
    drawn = _premultiplied(name).transform(window, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    values = np.zeros((SIZE, SIZE, 4), np.float32)
    values[top:bottom, left:right] = np.asarray(drawn.reduce(OVERSAMPLING), np.float32) / 255
    return np.minimum(values[..., :3], values[..., 3:]), values[..., 3]


def shadow(x: float, y: float, radius: float) -> np.ndarray:
    """Compute the share of light [H, W] that the ground keeps below an object of that place and size."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    across = (columns - x) / (_SHADOW_WIDTH * radius)
    down = (rows - y - _SHADOW_PLACE * radius) / (_SHADOW_HEIGHT * radius)
    depth = np.clip(1.25 - np.hypot(across, down), 0, 1)
    return (1 - SHADOW * depth).astype(np.float32)


@cache
def stands_out(name: str, background: str) -> bool:
    """Return whether most of an object differs from this background."""
    pixels = np.asarray(sprite(name), np.float32).reshape(-1, 4) / 255
    colours = pixels[pixels[:, 3] > 0.5, :3]
    return float((_distance(colours, background) > _SIMILAR).mean()) >= _LEAST_DISTINCT


@cache
def _premultiplied(name: str) -> Image.Image:
    return sprite(name).convert("RGBa")


@cache
def sprite(name: str) -> Image.Image:
    """Return an object's cell of the sheet, RGBA."""
    row, column = divmod(OBJECTS.index(name), COLUMNS)
    return _sheet().crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


@cache
def _sheet() -> Image.Image:
    with Image.open(SHEET, formats=["PNG"]) as picture:
        return picture.convert("RGBA")


def _distance(colours: np.ndarray, background: str) -> np.ndarray:
    """Compute the RGB distance of colours [n, 3] from the nearest tone of a background."""
    if background not in TEXTURE_TONES:
        return np.linalg.norm(colours - np.array(PALETTE[background], np.float32), axis=1)
    dark, light = (np.array(tone, np.float32) for tone in TEXTURE_TONES[background])
    if background in ("night", "brick"):  # nearly all of it is the first tone
        return np.linalg.norm(colours - dark, axis=1)
    axis = light - dark
    along = np.clip((colours - dark) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(colours - dark - along[:, None] * axis, axis=1)
