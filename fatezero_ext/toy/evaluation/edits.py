"""Edits whose exact truth is known, and figures of how near a result comes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..world.clips import Clip
from .oracle import read
from .scores import accuracy, flicker, object_iou, psnr

COLOURLESS = ("sketch", "monochrome")


@dataclass(frozen=True)
class EditFigures:
    """Distance of an edited clip from its truth.

    frames:     number of frames
    edited:     frames in which the oracle reads every changed attribute
    kept:       frames in which it reads every attribute that was to stay (colours are left out in styles without any)
    stays_psnr: dB against the truth where nothing was to change: outside the object, inside it for a new background,
                everywhere for a new style
    object_iou: overlap of the object the oracle finds with the true one, 0..1
    flicker:    mean change between frames that the truth does not have, steps of 1/255
    """

    frames: int
    edited: int
    kept: int
    stays_psnr: float
    object_iou: float
    flicker: float


def measure(edited: np.ndarray, source: Clip, changes: Mapping[str, str]) -> EditFigures:
    """Compare an edited clip with the exact truth.

    edited:  [frames, H, W, 3], 0..1
    source:  the clip that was edited
    changes: requested attributes: shape, colour, background, style
    """
    truth = source.edited(**changes)
    count = len(edited)
    return EditFigures(
        frames=count,
        edited=round(accuracy(edited, **changes) * count),
        kept=sum(_reads(frame, _kept(source, changes)) for frame in edited),
        stays_psnr=psnr(edited, truth.frames, _where_nothing_changes(source, truth, changes)),
        object_iou=object_iou(edited, truth.masks),
        flicker=flicker(edited, truth.frames),
    )


def _kept(source: Clip, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that an edit must leave alone, as far as its style shows them."""
    scene = source.scenes[0]
    attributes = {"shape": scene.shape}
    if changes.get("style") not in COLOURLESS:
        attributes |= {"colour": scene.colour, "background": scene.background}
    return {name: value for name, value in attributes.items() if name not in changes}


def _reads(frame: np.ndarray, wanted: Mapping[str, str]) -> bool:
    reading = read(frame)
    return bool(reading.mask.any()) and all(getattr(reading, name) == value for name, value in wanted.items())


def _where_nothing_changes(source: Clip, truth: Clip, changes: Mapping[str, str]) -> np.ndarray:
    """Return weights [frames, H, W], 1 where an edit must change nothing."""
    if "style" in changes:
        return np.ones_like(truth.masks)
    if "background" in changes:
        return (truth.masks >= 1).astype(np.float32)
    return ((truth.masks <= 0) & (source.masks <= 0)).astype(np.float32)
