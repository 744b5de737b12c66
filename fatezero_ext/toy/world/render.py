"""Draw scenes: textures, anti-aliased objects, styles. Pictures are [H, W, 3] float32 in 0..1."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .objects import draw_object, shadow
from .world import NO_OBJECT, NO_STYLE, PALETTE, SIZE, TEXTURE_TONES, Scene, Thing

OVERSAMPLING = 8
BLOCK = 4
"""Side of a block of the pixel style. It equals the VAE's factor, so that a latent cell can carry one block."""

SKETCH_PAPER = 0.88
INNER_LINES = 1.6
"""Strength of a pencil sketch's lines inside an object against those of the background."""
PIGMENT = 0.58
"""Mean strength of watercolor's colours."""
GLOW = 0.08
"""Brightness of a black block in the pixel style."""

_PAPER = np.array((0.98, 0.96, 0.90), np.float32)
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def render(scene: Scene) -> np.ndarray:
    """Draw a scene.

    Returns [H, W, 3] float32, 0..1.
    """
    picture = background(scene)
    for thing in scene.things:
        picture = _with(picture, thing)
    return stylise(picture, object_mask(scene), scene)


def object_mask(scene: Scene) -> np.ndarray:
    """Compute the share of each pixel that things cover, in any style.

    Returns [H, W] float32, 0..1.
    """
    masks = thing_masks(scene)
    return masks[0] if len(masks) == 1 else masks[0] + masks[1]


def thing_masks(scene: Scene) -> list[np.ndarray]:
    """Compute the share of each pixel [H, W] that shows the first thing, and the second if the scene has one.

    What the second hides of the first is not shown; the mask of a thing that was taken away is empty.
    """
    covers = [thing_cover(thing) for thing in scene.things]
    if scene.shape == NO_OBJECT:
        covers.insert(0, np.zeros((SIZE, SIZE), np.float32))
    return covers if len(covers) == 1 else [covers[0] * (1 - covers[1]), covers[1]]


def thing_cover(thing: Thing) -> np.ndarray:
    """Compute the share of each pixel [H, W] that a thing covers, alone."""
    if not thing.is_object:
        return shape_mask(thing.shape, thing.x, thing.y, thing.radius)
    return draw_object(thing.shape, thing.x, thing.y, thing.radius, thing.angle, thing.mirror)[1]


def _with(picture: np.ndarray, thing: Thing) -> np.ndarray:
    """Put a thing, an object with its shadow, in front of a picture [H, W, 3]."""
    if not thing.is_object:
        mask = thing_cover(thing)
        return picture + mask[..., None] * (np.array(PALETTE[thing.colour], np.float32) - picture)
    light, cover = draw_object(thing.shape, thing.x, thing.y, thing.radius, thing.angle, thing.mirror)
    ground = picture * shadow(thing.x, thing.y, thing.radius)[..., None]
    return np.clip(light + (1 - cover)[..., None] * ground, 0, 1)


def shape_mask(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Compute the same for a bare shape; x, y, radius in pixels. Returns [H, W] float32, 0..1."""
    if shape == NO_OBJECT:
        return np.zeros((SIZE, SIZE), np.float32)
    outline = np.array((x, y)) + radius * _OUTLINES[shape]
    canvas = Image.new("L", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline * OVERSAMPLING - 0.5], fill=255)
    return np.asarray(canvas.reduce(OVERSAMPLING), np.float32) / 255


def background(scene: Scene) -> np.ndarray:
    """Draw the scene without its object, before any style. Returns [H, W, 3] float32, 0..1."""
    if scene.background in PALETTE:
        return np.broadcast_to(np.array(PALETTE[scene.background], np.float32), (SIZE, SIZE, 3)).copy()
    rng = np.random.default_rng(scene.texture)
    share = np.clip(_TEXTURES[scene.background](rng), 0, 1).astype(np.float32)[..., None]
    dark, light = (np.array(tone, np.float32) for tone in TEXTURE_TONES[scene.background])
    return dark + share * (light - dark)


def stylise(picture: np.ndarray, mask: np.ndarray, scene: Scene) -> np.ndarray:
    """Give a plainly drawn picture its style.

    picture: [H, W, 3], 0..1
    mask:    [H, W], where things are; the pencil sketch draws their outlines
    Returns [H, W, 3] float32, 0..1.
    """
    if scene.style == NO_STYLE:
        return picture
    rng = np.random.default_rng((scene.texture, 1))
    if scene.style == "sketch" and any(thing.is_object for thing in scene.things):
        return np.clip(_sketch(picture, mask, rng, inner=INNER_LINES), 0, 1).astype(np.float32)
    return np.clip(_STYLES[scene.style](picture, mask, rng), 0, 1).astype(np.float32)


def _regular(corners: int, turn: float = -90.0) -> np.ndarray:
    angles = np.radians(np.arange(corners) * 360 / corners + turn)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def _star() -> np.ndarray:
    points = _regular(10) * 1.15
    points[1::2] *= 0.45
    return points + (0, 0.06)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack((x, y - 1.5), axis=1) / 15.5


def _cross() -> np.ndarray:
    arm, reach = 0.34, 1.0
    corners = ((-arm, -reach), (arm, -reach), (arm, -arm), (reach, -arm), (reach, arm), (arm, arm))
    return np.array(corners + tuple((-x, -y) for x, y in corners))


_OUTLINES: dict[str, np.ndarray] = {
    "circle": _regular(64) * 0.95,
    "square": _regular(4, turn=45) * np.sqrt(2) * 0.84,
    "triangle": np.array(((0, -1.0), (1.05, 0.85), (-1.05, 0.85))),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}
"""Corners in units of the radius, x right and y down."""


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Draw smooth noise with that many waves, mean 0.5, most of it within 0..1. Returns [H, W]."""
    coarse = Image.fromarray(rng.random((rows, columns), np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return rows + 0.5, columns + 0.5


def _ramp(wave: np.ndarray) -> np.ndarray:
    """Make edges one pixel soft from a signed distance in pixels."""
    return np.clip(0.5 + wave, 0, 1)


def _sawtooth(position: np.ndarray, period: float) -> np.ndarray:
    """Return the signed distance to the edges of bands half a period wide; positive inside the band."""
    phase = np.mod(position, period)
    return period / 4 - np.abs(phase - period / 2)


def _grass(rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 1.1 * (_noise(rng, 10, 24) - 0.5) + 0.5 * (_noise(rng, 4, 6) - 0.5)


def _water(rng: np.random.Generator) -> np.ndarray:
    rows, columns = _grid()
    bend = 2.2 * np.sin(2 * np.pi * (columns / 21 + rng.random())) + 5 * (_noise(rng, 3, 4) - 0.5)
    return 0.5 + 0.5 * np.sin(2 * np.pi * ((rows + bend) / 10 + rng.random()))


def _sand(rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.9 * (_noise(rng, 24, 14) - 0.5) + 0.6 * (_noise(rng, 6, 4) - 0.5)


def _sky(rng: np.random.Generator) -> np.ndarray:
    return (0.7 * _noise(rng, 6, 4) + 0.3 * _noise(rng, 12, 8) - 0.52) * 5


def _brick(rng: np.random.Generator) -> np.ndarray:
    rows, columns = _grid()
    rows = rows + rng.uniform(0, 16)
    columns = columns + rng.uniform(0, 16) + 8 * np.mod(np.floor(rows / 8), 2)
    gap = np.minimum(np.abs(np.mod(rows, 8) - 4) - 3.1, 1), np.minimum(np.abs(np.mod(columns, 16) - 8) - 7.1, 1)
    return _ramp(np.maximum(*gap)) + 0.10 * (_noise(rng, 8, 8) - 0.5)


def _checker(rng: np.random.Generator) -> np.ndarray:
    rows, columns = _grid()
    across = np.clip(_sawtooth(columns + rng.uniform(0, 16), 16), -0.5, 0.5)
    down = np.clip(_sawtooth(rows + rng.uniform(0, 16), 16), -0.5, 0.5)
    return 0.5 + 2 * across * down


def _stripes(rng: np.random.Generator) -> np.ndarray:
    return _ramp(_sawtooth(_grid()[1] + rng.uniform(0, 10), 10))


def _night(rng: np.random.Generator) -> np.ndarray:
    rows, columns = _grid()
    sky = 0.06 * _noise(rng, 3, 3)
    for x, y, glow in zip(rng.uniform(0, SIZE, 18), rng.uniform(0, SIZE, 18), rng.uniform(0.5, 1, 18), strict=True):
        sky = np.maximum(sky, glow * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 1.3))
    return sky


_TEXTURES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "sky": _sky,
    "brick": _brick,
    "checker": _checker,
    "stripes": _stripes,
    "night": _night,
}


def _slope(values: np.ndarray) -> np.ndarray:
    """Return the length of the gradient. values: [H, W]. Returns [H, W]."""
    return np.hypot(*np.gradient(values))


def _blur(picture: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _sketch(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator, inner: float = 0.0) -> np.ndarray:
    """Draw outlines and edges; inner: strength of the lines inside the mask, of which even shapes have none."""
    slope = 1.1 * _slope(_blur(picture @ _LUMA, 0.7))
    outline = np.clip(1.5 * _slope(_blur(mask, 0.7)), 0, 0.8)
    hatching = np.clip(slope, 0, 0.4) * (1 - mask)
    lines = np.maximum(outline, hatching)
    if inner:
        lines = np.maximum(lines, np.clip(inner * slope, 0, 0.7) * mask)
    grey = SKETCH_PAPER - lines + 0.05 * (_noise(rng, 9, 9) - 0.5)
    return np.repeat(grey[..., None], 3, axis=2)


def ink(picture: np.ndarray) -> np.ndarray:
    """Measure the darkness of a sketch's lines. picture: [H, W, 3]. Returns [H, W], about 0..0.8."""
    return SKETCH_PAPER - picture.mean(axis=2)


def _watercolor(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pigment = np.clip(PIGMENT + 0.36 * (_noise(rng, 6, 6) - 0.5), 0.35, 0.80)[..., None]
    return _PAPER + pigment * (_blur(picture, 1.2) - _PAPER)


def unwashed(picture: np.ndarray) -> np.ndarray:
    """Restore a watercolor's colours to about full strength. picture: [H, W, 3]. Returns the same, 0..1."""
    return np.clip(_PAPER + (picture - _PAPER) / PIGMENT, 0, 1)


def _pixel(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cells = picture.reshape(SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK, 3).mean(axis=(1, 3))
    blocks = cells.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    return (GLOW + (1 - GLOW) * blocks) * _block_grid()


def without_grid(picture: np.ndarray) -> np.ndarray:
    """Return the blocks of a pixel style picture without their grid. picture: [H, W, 3]. Returns the same, 0..1."""
    inner = picture.reshape(SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK, 3)[:, :-1, :, :-1].mean(axis=(1, 3))
    return np.clip((inner.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1) - GLOW) / (1 - GLOW), 0, 1)


def _block_grid() -> np.ndarray:
    last = np.arange(SIZE) % BLOCK == BLOCK - 1
    return np.where(last[:, None] | last[None, :], np.float32(0.72), np.float32(1))[..., None]


def _monochrome(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grey = (0.10 + 0.80 * (picture @ _LUMA)) * _vignette()
    return np.repeat(grey[..., None], 3, axis=2)


def without_vignette(picture: np.ndarray) -> np.ndarray:
    """Return the luminance that a black and white picture was made from. picture: [H, W, 3]. Returns [H, W]."""
    return (picture.mean(axis=2) / _vignette() - 0.10) / 0.80


def _vignette() -> np.ndarray:
    rows, columns = _grid()
    return 1.05 - 0.30 * ((rows - SIZE / 2) ** 2 + (columns - SIZE / 2) ** 2) / (SIZE / 2) ** 2


_STYLES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "sketch": _sketch,
    "watercolor": _watercolor,
    "pixel": _pixel,
    "monochrome": _monochrome,
}
