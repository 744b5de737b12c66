"""Several clips in one small picture that a page plays: frames below each other, clips beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..media.video import to_bytes
from .labelled_sheet import Tile

MOST_FRAMES = 16
MOST_PIXELS = 8_000_000
"""Pixels of a whole sheet: about a megabyte as JPEG."""
LONGEST, SHORTEST = 256, 64
"""Limits of a small picture's longer side in pixels; the more there are, the smaller they get."""
BLOCK = 8
"""JPEG's blocks: pictures of whole blocks do not run into their neighbours."""
OUTSIDE = 0.35
"""Brightness outside a mask."""


@dataclass(frozen=True)
class FilmSheet:
    """A picture of `frames` rows and `len(labels)` columns, all of one size."""

    picture: Image.Image
    frames: int
    labels: tuple[str, ...]


def film_sheet(tiles: Sequence[Tile]) -> FilmSheet:
    """Draw clips for a page, scaled down, at most 16 frames of each, spread evenly.

    tiles: of one frame count and of equal proportions, at least one; those that do not fit are left out
    """
    taken = shown_frames(len(tiles[0].frames))
    shown = tiles[: MOST_PIXELS // (len(taken) * SHORTEST**2)]
    size = _size(tiles[0].frames.shape[1:3], len(taken) * len(shown))
    columns = [_scaled(tile.frames[taken.to(tile.frames.device)], size) for tile in shown]
    picture = Image.fromarray(to_bytes(torch.cat(columns, dim=2).flatten(0, 1)[None])[0])
    return FilmSheet(picture, len(taken), tuple(tile.label for tile in shown))


def shown_frames(count: int) -> Tensor:
    """Return which of so many frames a film shows, [at most 16] indices: the first, the last, and evenly between."""
    return torch.linspace(0, count - 1, min(count, MOST_FRAMES)).round().long()


def lit(frames: Tensor, mask: Tensor) -> Tensor:
    """Return frames as they are inside a mask, and dark and grey outside; large ones scaled down.

    frames: [frames, height, width, 3], 0..1
    mask:   [frames, rows, columns] of the same proportions, 0..1
    """
    if max(frames.shape[1:3]) > LONGEST:
        frames = _scaled(frames, _size(frames.shape[1:3], 1))
    grey = OUTSIDE * frames.mean(dim=-1, keepdim=True)
    shares = F.interpolate(mask[:, None].to(frames), size=frames.shape[1:3])[:, 0, ..., None]
    return torch.lerp(grey.expand_as(frames), frames, shares)


def _size(proportions: Sequence[int], pictures: int) -> tuple[int, int]:
    """Return height and width of each of so many pictures, in whole blocks."""
    side = min(LONGEST, max(SHORTEST, math.isqrt(MOST_PIXELS // pictures)))
    height, width = (max(1, side * length // max(proportions) // BLOCK) * BLOCK for length in proportions)
    return height, width


def _scaled(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames [frames, height, width, 3], without hard edges of cells."""
    pictures = frames.detach().cpu().float().nan_to_num().movedim(-1, 1)
    return F.interpolate(pictures, size=size, mode="bilinear", antialias=True).movedim(1, -1).clamp(0, 1)
