"""Scores of an edited clip against its exact truth.

Clips are [frames, H, W, 3] in 0..1, masks [frames, H, W] in 0..1.
"""

import numpy as np

from ..world.outline import overlap
from .oracle import read

BEST_PSNR = 99.0
"""Stands for the infinite PSNR of equal pictures."""


def psnr(edit: np.ndarray, reference: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the PSNR in dB over all frames; weight: of each pixel, [frames, H, W]; None: all alike."""
    error = ((_floats(edit) - _floats(reference)) ** 2).mean(axis=-1)
    mean = float(error.mean() if weight is None else (error * weight).sum() / max(float(weight.sum()), 1e-9))
    return min(BEST_PSNR, -10 * float(np.log10(max(mean, 1e-12))))


def object_iou(edit: np.ndarray, masks: np.ndarray) -> float:
    """Return the mean overlap of the object that the oracle finds in each frame with the true masks, 0..1."""
    return float(np.mean([overlap(read(frame).mask, mask) for frame, mask in zip(edit, masks, strict=True)]))


def accuracy(edit: np.ndarray, **wanted: str) -> float:
    """Return the share of frames in which the oracle reads all the wanted attributes: shape, colour, background, style.

    >>> accuracy(clip.frames, colour="red", shape="circle")  # doctest: +SKIP
    1.0
    """
    readings = [read(frame) for frame in edit]
    return float(np.mean([all(getattr(one, name) == value for name, value in wanted.items()) for one in readings]))


def flicker(edit: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean change between frames that the reference does not have, in steps of 1/255; 0 for one frame."""
    if len(edit) < 2:
        return 0.0
    change = np.diff(_floats(edit), axis=0) - np.diff(_floats(reference), axis=0)
    return float(np.abs(change).mean()) * 255


def _floats(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32) / 255 if frames.dtype == np.uint8 else frames
