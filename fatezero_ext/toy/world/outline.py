"""The shape, place and size that best explain a mask."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from .render import shape_mask
from .world import SHAPES, SIZE

LEAST_AREA = 60.0
"""Pixels; the smallest object, a star, covers about a hundred."""
_FULLY_REFINED = 3
_STEPS = (1.0, 0.5)


@dataclass(frozen=True)
class Outline:
    """A fitted shape. iou: its overlap with the mask it was fitted to, 0..1; x, y, radius in pixels."""

    shape: str
    x: float
    y: float
    radius: float
    iou: float


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the soft intersection over union of two [H, W] masks, 0..1; 1 if both are empty."""
    union = float(np.maximum(one, other).sum())
    return float(np.minimum(one, other).sum()) / union if union > 0 else 1.0


def fit_outline(mask: np.ndarray) -> Outline:
    """Find the drawn shape nearest to a [H, W] mask in 0..1."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    area = max(float(mask.sum()), 1.0)
    x, y = float((mask * columns).sum()) / area, float((mask * rows).sum()) / area
    fits = []
    for shape in SHAPES:
        unit_area, dx, dy = _moments(shape)
        radius = float(np.clip(np.sqrt(area / unit_area), 4, 24))
        fits.append(_fit(mask, shape, x - dx * radius, y - dy * radius, radius))
    fits.sort(key=lambda outline: -outline.iou)
    return max((_refine(mask, outline) for outline in fits[:_FULLY_REFINED]), key=lambda outline: outline.iou)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part of a boolean [H, W] mask."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = grown(labels)
        spread = np.where(mask, spread, 0)
        if (spread == labels).all():
            break
        labels = spread
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return labels == counts.argmax() if counts.any() else np.zeros_like(mask)


def grown(mask: np.ndarray) -> np.ndarray:
    """Give every pixel of a [H, W] mask the greatest value among itself and its four neighbours."""
    result = mask.copy()
    for to, come_from in ((result[1:], mask[:-1]), (result[:-1], mask[1:])):
        np.maximum(to, come_from, out=to)
    for to, come_from in ((result[:, 1:], mask[:, :-1]), (result[:, :-1], mask[:, 1:])):
        np.maximum(to, come_from, out=to)
    return result


@cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Return area, and centroid relative to the centre, of a shape of radius 1."""
    radius = 20.0
    mask = shape_mask(shape, SIZE / 2, SIZE / 2, radius)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    area = float(mask.sum())
    offsets = (float((mask * axis).sum()) / area - SIZE / 2 for axis in (columns, rows))
    dx, dy = offsets
    return area / radius**2, dx / radius, dy / radius


def _fit(mask: np.ndarray, shape: str, x: float, y: float, radius: float) -> Outline:
    return Outline(shape, x, y, radius, overlap(mask, shape_mask(shape, x, y, radius)))


def _refine(mask: np.ndarray, best: Outline) -> Outline:
    """Walk to better places and sizes while there are any."""
    for step in _STEPS:
        for name in ("radius", "x", "y", "radius"):
            for sign in (-step, step):
                place = {"x": best.x, "y": best.y, "radius": best.radius}
                place[name] += sign
                tried = _fit(mask, best.shape, **place)
                best = max(best, tried, key=lambda outline: outline.iou)
    return best
