"""Recognise the contents of a frame without a trained model and without any hint.

Every step looks for the thing that the world can draw which explains the pixels best.
"""

from dataclasses import dataclass

import numpy as np

from ..world.outline import LEAST_AREA, Outline, fit_outline, grown, largest_part
from ..world.render import BLOCK, ink, without_vignette
from ..world.world import BACKGROUNDS, COLOURS, NO_STYLE, PALETTE, SIZE, TEXTURE_TONES
from .textures import has_texture, without_style

COLOURLESS_STYLES = ("sketch", "monochrome")
LEAST_GRID = 0.01
"""The true grid is a quarter darker, of which a VAE leaves a twentieth in places; 1440 others stay below."""
_LIT, _FEWEST_LIT = 0.2, 0.02
"""Grey from which on pixels show a grid behind a VAE, and the share of such pixels that is enough to tell by."""
_GREATEST_SHARE = 0.3
"""Largest share of a frame that an object may cover."""
_FAR = 0.35
"""RGB distance from which on a pixel counts as fully unlike a tone."""

_TOLERANCES = (0.07, 0.04, 0.02)
"""Differences of grey within which a patch counts as even; a VAE leaves about the last."""
_SMALL_AREA = 25.0
"""Pixels at which half of a patch's fit counts: a checkerboard's perfect square has 64, the smallest object 100."""
_CLEAR_SCORE = 0.85


@dataclass(frozen=True)
class Reading:
    """Contents of a frame.

    colour, background: None in a style that does not show them (pencil sketch, black and white)
    mask:               [H, W] float32, the object's pixels as found, 0 or 1; all zero if there is no object
    outline:            the drawn shape nearest to the mask
    """

    shape: str
    colour: str | None
    background: str | None
    style: str
    mask: np.ndarray
    outline: Outline


def read(frame: np.ndarray) -> Reading:
    """Read one frame: [H, W, 3], uint8 or floats in 0..1, 64x64."""
    picture = _checked(frame)
    style = read_style(picture)
    if style in COLOURLESS_STYLES:
        mask = _inside_lines(picture) if style == "sketch" else _even_patch(picture)
        return _reading(mask, None, None, style)
    picture = without_style(picture, style)
    background = read_background(picture, style)
    colour, cover = _object(picture, background)
    return _reading(cover, colour, background, style)


def _reading(cover: np.ndarray, colour: str | None, background: str | None, style: str) -> Reading:
    outline = fit_outline(cover.astype(np.float32))
    return Reading(outline.shape, colour, background, style, (cover > 0.5).astype(np.float32), outline)


def read_style(picture: np.ndarray, *, coloured: float = 3.0) -> str:
    """Recognise the style of a [H, W, 3] picture in 0..1.

    coloured: percent of its pixels that show colour if it is no sketch and not in black and white
    """
    if _grid_strength(picture) > LEAST_GRID:
        return "pixel"
    if np.percentile(np.ptp(picture, axis=2), 100 - coloured) < 0.13:
        return _grey_style(picture.mean(axis=2))
    return "watercolor" if np.percentile(picture.min(axis=2), 2) > 0.185 else NO_STYLE


def _grey_style(grey: np.ndarray) -> str:
    """Tell pictures without colour apart: unstyled ones are even, black and white photos have dark corners."""
    if max(float((np.abs(grey - np.mean(PALETTE[name])) < 0.04).mean()) for name in ("white", "gray", "black")) > 0.65:
        return NO_STYLE
    if _corner_fall(grey) > 0.17:
        return "monochrome"
    return "sketch" if 0.70 < np.median(grey) < 0.935 else "monochrome"


def read_background(picture: np.ndarray, style: str = NO_STYLE) -> str:
    """Recognise the background of a picture: the tones that leave the fewest pixels unexplained.

    picture: [H, W, 3], 0..1, without its style
    style:   that was undone
    A texture explains nothing by its tones alone: a grey frame is no checkerboard.
    """
    likeliest = sorted(BACKGROUNDS, key=lambda name: _unexplained(picture, name))
    return next(name for name in likeliest if name not in TEXTURE_TONES or _is_textured(picture, name, style))


def _is_textured(picture: np.ndarray, background: str, style: str) -> bool:
    _, cover = _object(picture, background)
    return has_texture(picture, background, style, ~grown(grown(cover > 0)))


def _unexplained(picture: np.ndarray, background: str) -> tuple[float, float]:
    """Measure how badly a background's tones explain a picture; the second number decides between equally bad ones."""
    distance = tone_distance(picture, background)
    near = np.minimum(distance, _FAR)
    explained = np.sort(near.ravel())[: int(SIZE * SIZE * (1 - _GREATEST_SHARE))]
    return float(near.mean() + explained.mean()) + 0.1 * _tone_span(background), float(distance.mean())


def tone_distance(picture: np.ndarray, background: str) -> np.ndarray:
    """Compute each pixel's RGB distance [H, W] from the background's nearest tone."""
    if background not in TEXTURE_TONES:
        return np.linalg.norm(picture - np.array(PALETTE[background], np.float32), axis=2)
    dark, light = (np.array(tone, np.float32) for tone in TEXTURE_TONES[background])
    axis = light - dark
    along = np.clip((picture - dark) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(picture - dark - along[..., None] * axis, axis=2)


def _tone_span(background: str) -> float:
    """Penalise a wide range of tones, which explains anything."""
    if background not in TEXTURE_TONES:
        return 0.0
    return min(1.0, float(np.linalg.norm(np.subtract(*TEXTURE_TONES[background]))))


def _object(picture: np.ndarray, background: str) -> tuple[str, np.ndarray]:
    """Find the object, the largest patch nearer to one colour than to the background.

    Where the two mix in a pixel, the distances to either give the share. Returns the colour and [H, W] in 0..1.
    """
    behind = tone_distance(picture, background)
    distances = np.stack(
        [np.linalg.norm(picture - np.array(PALETTE[colour], np.float32), axis=2) for colour in COLOURS]
    )
    nearest = distances.argmin(axis=0)
    foreign = behind > 0.75 * distances.min(axis=0)
    patches = {}
    for index, colour in enumerate(COLOURS):
        claimed = largest_part(foreign & (nearest == index))
        if LEAST_AREA / 3 < claimed.sum() < SIZE * SIZE * _GREATEST_SHARE:
            patches[colour] = float((claimed * behind).sum())
    if not patches:
        return COLOURS[0], np.zeros((SIZE, SIZE), np.float32)
    colour = max(patches, key=lambda name: patches[name])
    own = distances[COLOURS.index(colour)]
    near = grown(grown(largest_part(behind > own)))
    return colour, near * behind / np.maximum(behind + own, 1e-6)


def _grid_strength(picture: np.ndarray) -> float:
    """Measure by how much blocks' last rows and columns are darker than their neighbours; 0 without blocks.

    Of all pixels or of the lit ones alone, whichever shows more: a VAE leaves no grid on a black ground.
    """
    grey = picture.mean(axis=2)
    everywhere, lit = [], []
    for lines in (grey, grey.T):
        blocks = lines.reshape(SIZE // BLOCK, BLOCK, SIZE)
        inner, last, following = blocks[:-1, BLOCK - 2], blocks[:-1, BLOCK - 1], blocks[1:, 0]
        around = 0.5 * (inner + following)
        drop, is_lit = (around - last) / (around + 0.02), around > _LIT
        everywhere.append(float(np.percentile(drop, 35)))
        lit.append(float(np.percentile(drop[is_lit], 35)) if is_lit.mean() > _FEWEST_LIT else 0.0)
    return max(min(everywhere), min(lit))


def _corner_fall(grey: np.ndarray) -> float:
    """Measure the share by which the corners are darker than the middle."""
    edge = SIZE // 5
    corners = [grey[:edge, :edge], grey[:edge, -edge:], grey[-edge:, :edge], grey[-edge:, -edge:]]
    means = sorted(float(np.median(corner)) for corner in corners)
    middle = float(np.median(grey[edge:-edge, edge:-edge]))
    return 1 - means[2] / max(middle, 0.02) if middle > 0.02 else 0.0


def _inside_lines(picture: np.ndarray) -> np.ndarray:
    """Find the area [H, W] that a sketch's strong lines enclose: all that cannot be reached from the border."""
    darkness = ink(picture)
    best = np.zeros((SIZE, SIZE), bool)
    for threshold in (0.55, 0.45, 0.38, 0.3):
        enclosed = ~_reachable(darkness < threshold)
        best = largest_part(_opened(enclosed))
        if best.sum() > LEAST_AREA:
            break
    return best


def _reachable(free: np.ndarray) -> np.ndarray:
    """Find the free pixels of a boolean [H, W] that are connected to the border."""
    free = np.pad(free, 1, constant_values=True)
    reached = np.zeros_like(free)
    reached[0] = True
    while True:
        spread = reached.copy()
        spread[1:] |= reached[:-1]
        spread[:-1] |= reached[1:]
        spread[:, 1:] |= reached[:, :-1]
        spread[:, :-1] |= reached[:, 1:]
        spread &= free
        if (spread == reached).all():
            return reached[1:-1, 1:-1]
        reached = spread


def _opened(mask: np.ndarray) -> np.ndarray:
    """Remove lines thinner than three pixels."""
    return grown(~grown(~mask))


def _even_patch(picture: np.ndarray) -> np.ndarray:
    """Find the patch [H, W] of one grey that looks most like a shape and is more than a square of a checkerboard.

    Greys are compared ever more strictly until one patch is clear: an object on a background of nearly its own grey.
    """
    grey = without_vignette(picture)
    best, best_score = np.zeros((SIZE, SIZE), bool), 0.0
    for tolerance in _TOLERANCES:
        for tone in _object_greys():
            near = np.abs(grey - tone) < tolerance
            for mask in (near, _opened(near)):
                patch = largest_part(mask)
                area = float(patch.sum())
                if LEAST_AREA < area < SIZE * SIZE * _GREATEST_SHARE:
                    score = fit_outline(patch.astype(np.float32)).iou * area / (area + _SMALL_AREA)
                    if score > best_score:
                        best, best_score = patch, score
        if best_score > _CLEAR_SCORE:
            break
    return best


def _object_greys() -> list[float]:
    """List what a black and white photo makes of the objects' colours, before its vignette."""
    return sorted({round(float(np.dot(PALETTE[colour], (0.299, 0.587, 0.114))), 2) for colour in COLOURS})


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.shape != (SIZE, SIZE, 3):
        raise ValueError(
            f"a frame of shape {list(frame.shape)} came; the oracle reads [{SIZE}, {SIZE}, 3]. "
            f"Resize the frame, or read one frame at a time."
        )
    return frame.astype(np.float32) / 255 if frame.dtype == np.uint8 else frame.astype(np.float32)
