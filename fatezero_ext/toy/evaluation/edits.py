"""Edits whose exact truth is known, and figures of how near a result comes to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..world.clips import Clip
from ..world.objects import shadow as shadow_of
from ..world.outline import overlap
from ..world.world import NO_OBJECT, OBJECTS, OWN_COLOUR, SIZE, TEXTURES
from .oracle import read
from .scores import flicker, psnr
from .things import read_scene

COLOURLESS = ("sketch", "monochrome")
FAR = 4
"""Pixels from any object beyond which an edit has nothing to move: a latent cell's side."""
LEAST_TEXTURE = 0.5
"""Contrast of a background, as a share of the truth's, below which its pattern counts as lost."""
MOST_LEFT = 0.05
"""Share of an object's pixels that a frame may still show after it was taken away."""
FAINT, PLAIN = 0.001, 0.2
"""Share of the light that a shadow takes where it shows at all, and where it is plain to see."""
MOST_SHADOW = 0.5
"""Share of a shadow's plain pixels that a frame may still show; the VAE's error alone leaves some."""


@dataclass(frozen=True)
class Seen:
    """Contents of a frame: its most certain thing, with None for what its style does not show.

    shape:  of a shape or an object; None if there is neither
    colour: of a shape; OWN_COLOUR of an object
    mask:   [H, W], 0 or 1, the thing's pixels
    """

    shape: str | None
    colour: str | None
    background: str | None
    style: str
    mask: np.ndarray


def see(frame: np.ndarray, *, objects: bool) -> Seen:
    """Read a frame [H, W, 3]; objects: whether it may show objects, which takes longer to tell."""
    if not objects:
        found = read(frame)
        return Seen(found.shape, found.colour, found.background, found.style, found.mask)
    scene = read_scene(frame)
    if not scene.things:
        return Seen(None, None, scene.background, scene.style, np.zeros(frame.shape[:2], np.float32))
    thing = scene.things[0]
    colour = OWN_COLOUR if thing.shape in OBJECTS else thing.colour
    return Seen(thing.shape, colour, scene.background, scene.style, thing.mask)


@dataclass(frozen=True)
class EditFigures:
    """Distance of an edited clip from its truth.

    frames:       number of frames
    edited:       frames that show every change: the oracle reads it, a new background has its texture, and what was
                  taken away has left neither itself nor its shadow
    kept:         frames in which it reads every attribute that was to stay, the background with its texture (colours
                  and background are left out in styles without any)
    right:        frames that are both
    textured:     frames whose background varies at least LEAST_TEXTURE as much as the truth's; plain ones always do
    stays_psnr:   dB against the truth where nothing was to change: outside the object (and its shadow, if it was taken
                  away), inside it for a new background, everywhere for a new style
    truth_psnr:   dB against the truth everywhere
    object_psnr:  dB against the truth inside the true object, or where the source's was if it was taken away
    object_iou:   overlap of the object the oracle finds with the true one, 0..1
    area:         area of the object it finds, as a share of the true one's; None where there is to be none
    distance:     pixels between their centres, mean over the frames that have both; None if none has
    left:         share of the source object's pixels nearer to the source than to the truth; None if it was to stay
    steady:       mean change between frames farther than FAR from any object, steps of 1/255
    truth_steady: the truth's own
    flicker:      mean change between frames that the truth does not have, everywhere, steps of 1/255
    """

    frames: int
    edited: int
    kept: int
    right: int
    textured: int
    stays_psnr: float
    truth_psnr: float
    object_psnr: float
    object_iou: float
    area: float | None
    distance: float | None
    left: float | None
    steady: float
    truth_steady: float
    flicker: float


def measure(edited: np.ndarray, source: Clip, changes: Mapping[str, str]) -> EditFigures:
    """Compare an edited clip with the exact truth.

    edited:  [frames, H, W, 3], 0..1
    source:  the clip that was edited
    changes: requested attributes: shape, colour, background, style; the shape NO_OBJECT takes the object away
    """
    truth = source.edited(**changes)
    true, masks, before = truth.frames, truth.masks, source.masks
    removed = changes.get("shape") == NO_OBJECT
    inside = (before if removed else masks) >= 1
    shadows = _shadowed(source, FAINT)  # of the truth too: it has the same ones, or none
    far = ~_near((masks > 0) | (before > 0) | shadows)
    objects = any(clip.scenes[0].shape in OBJECTS for clip in (source, truth))
    readings = [see(frame, objects=objects) for frame in edited]
    left = shadow = None
    if removed:
        left = _left(edited, source.frames, true, inside)
        shadow = _left(edited, source.frames, true, _shadowed(source, PLAIN) & (before <= 0))
    textured = _textured(edited, true, far, truth.scenes[0].background)
    shown = _shown(readings, changes, textured)
    if left is not None and shadow is not None:
        shown &= _gone(readings, inside, left) & (shadow <= MOST_SHADOW)
    kept = _shown(readings, _kept(source, changes), textured)
    return EditFigures(
        frames=len(edited),
        edited=int(shown.sum()),
        kept=int(kept.sum()),
        right=int((shown & kept).sum()),
        textured=int(textured.sum()),
        stays_psnr=psnr(edited, true, _where_nothing_changes(before, masks, changes) * ~(shadows & removed)),
        truth_psnr=psnr(edited, true),
        object_psnr=psnr(edited, true, inside),
        object_iou=float(np.mean([overlap(one.mask, mask) for one, mask in zip(readings, masks, strict=True)])),
        area=None if removed else float(sum(one.mask.sum() for one in readings) / masks.sum()),
        distance=_distance(readings, masks),
        left=None if left is None else float(left.mean()),
        steady=steady(edited, far),
        truth_steady=steady(true, far),
        flicker=flicker(edited, true),
    )


def steady(frames: np.ndarray, far: np.ndarray) -> float:
    """Return the mean change between frames where both are far from any object, in steps of 1/255; 0 for one frame.

    frames: [frames, H, W, 3], 0..1
    far:    [frames, H, W], booleans
    """
    both = far[1:] & far[:-1]
    return float(np.abs(np.diff(frames, axis=0))[both].mean()) * 255 if both.any() else 0.0


def _shadowed(clip: Clip, least: float) -> np.ndarray:
    """Mark the pixels [frames, H, W] where objects' shadows take at least that share of the ground's light."""
    lit = [
        np.min(
            [np.ones((SIZE, SIZE)), *(shadow_of(one.x, one.y, one.radius) for one in scene.things if one.is_object)], 0
        )
        for scene in clip.scenes
    ]
    return np.stack(lit) <= 1 - least


def _near(objects: np.ndarray) -> np.ndarray:
    """Mark the pixels at most FAR from an object. objects: booleans [frames, H, W]."""
    pixels = torch.from_numpy(objects.astype(np.float32))
    return torch.nn.functional.max_pool2d(pixels, 2 * FAR + 1, stride=1, padding=FAR).numpy() > 0


def _textured(edited: np.ndarray, true: np.ndarray, far: np.ndarray, background: str) -> np.ndarray:
    """Find the frames whose background has the truth's texture: booleans [frames]."""
    if background not in TEXTURES:
        return np.ones(len(edited), bool)
    contrasts = [[frame.mean(-1)[where].std() for frame, where in zip(c, far, strict=True)] for c in (edited, true)]
    return np.array(contrasts[0]) >= LEAST_TEXTURE * np.array(contrasts[1])


def _left(edited: np.ndarray, source: np.ndarray, true: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the share of each frame's object pixels that are nearer to the source than to the truth, [frames]."""
    nearer = np.linalg.norm(edited - source, axis=-1) < np.linalg.norm(edited - true, axis=-1)
    return (nearer & inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)


def _gone(readings: Sequence[Seen], inside: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Find the frames that neither show the object's pixels nor another object in its place: booleans [frames]."""
    found = np.array([one.mask[where].mean() for one, where in zip(readings, inside, strict=True)])
    return (left <= MOST_LEFT) & (found <= MOST_LEFT)


def _kept(source: Clip, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that an edit must leave alone, as far as its style shows them."""
    scene = source.scenes[0]
    attributes = {"shape": scene.shape}
    if changes.get("style") not in COLOURLESS:
        attributes |= {"colour": scene.colour, "background": scene.background}
    if changes.get("shape") == NO_OBJECT:
        attributes.pop("colour", None)
    return {name: value for name, value in attributes.items() if name not in changes}


def _shown(readings: Sequence[Seen], wanted: Mapping[str, str], textured: np.ndarray) -> np.ndarray:
    """Find the frames in which the oracle reads all that is wanted, a background only with its texture: [frames]."""
    of_object = any(name in wanted for name in ("shape", "colour")) and wanted.get("shape") != NO_OBJECT
    attributes = {name: value for name, value in wanted.items() if value != NO_OBJECT or name != "shape"}
    right = [
        (not of_object or bool(one.mask.any())) and all(getattr(one, name) == attributes[name] for name in attributes)
        for one in readings
    ]
    return np.array(right) & (textured if "background" in wanted else True)


def _distance(readings: Sequence[Seen], masks: np.ndarray) -> float | None:
    """Return the mean distance of the centres found from the true ones, in pixels."""
    pairs = [(one.mask, mask) for one, mask in zip(readings, masks, strict=True) if one.mask.any() and mask.any()]
    offsets = [np.linalg.norm(_centre(found) - _centre(true)) for found, true in pairs]
    return float(np.mean(offsets)) if offsets else None


def _centre(mask: np.ndarray) -> np.ndarray:
    return np.array([(mask * axis).sum() for axis in np.indices(mask.shape)]) / mask.sum()


def _where_nothing_changes(before: np.ndarray, masks: np.ndarray, changes: Mapping[str, str]) -> np.ndarray:
    """Return weights [frames, H, W], 1 where an edit must change nothing."""
    if "style" in changes:
        return np.ones_like(masks)
    if "background" in changes:
        return (masks >= 1).astype(np.float32)
    return ((masks <= 0) & (before <= 0)).astype(np.float32)
