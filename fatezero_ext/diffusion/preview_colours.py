"""Colours of latents without a decoder: a linear map from a cell's channels to a colour."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..atomic_files import whole_file
from ..errors import ModelError
from ..untrusted.plain_files import read_json

FILE = "latent_colours.json"
"""File in which a model folder may have its own colours."""


@dataclass(frozen=True)
class LatentColours:
    """Red, green and blue in -1..1 of a cell: its channels, as the UNet sees them, times `factors`, plus `bias`.

    factors: [channels][3]
    bias:    [3]
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]

    @classmethod
    def fitted(cls, latents: Tensor, frames: Tensor) -> LatentColours:
        """Fit the map of least squared error.

        latents: [frames, channels, height, width], scaled
        frames:  [frames, rows, columns, 3] that they were encoded from, 0..1
        """
        height, width = latents.shape[-2:]
        colours = F.adaptive_avg_pool2d(frames.movedim(-1, 1) * 2 - 1, (height, width))
        cells = latents.movedim(1, -1).flatten(0, 2).double()
        known = torch.cat([cells, torch.ones_like(cells[:, :1])], dim=1)
        solved = torch.linalg.lstsq(known, colours.movedim(1, -1).flatten(0, 2).double()).solution
        *factors, bias = [(round(red, 4), round(green, 4), round(blue, 4)) for red, green, blue in solved.tolist()]
        return cls(tuple(factors), bias)

    @classmethod
    def read(cls, folder: Path) -> LatentColours | None:
        """Read a model folder's own colours; None: it has none, and Stable Diffusion's suit it.

        Raises ModelError for a file of another form.
        """
        path = folder / FILE
        if not path.exists():
            return None
        read: Any = read_json(path)
        try:
            rows = [[float(value) for value in row] for row in (*read["factors"], read["bias"])]
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ModelError(
                f"{path} has no factors [channels][3] and bias [3] of numbers; these are needed. Restore the file, or "
                f"remove it."
            ) from error
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ModelError(
                f"{path} has numbers that are not finite; finite ones are needed. Restore the file, or remove it."
            )
        if len(rows) < 2 or any(len(row) != 3 for row in rows):
            raise ModelError(
                f"{path} has rows of {[len(row) for row in rows]} numbers; 3 are needed, of every channel and of the "
                f"bias. Restore the file, or remove it."
            )
        *factors, bias = ((red, green, blue) for red, green, blue in rows)
        return cls(tuple(factors), bias)

    def save(self, folder: Path) -> None:
        """Write the colours into a model folder."""
        with whole_file(folder / FILE) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def frames(self, latents: Tensor) -> Tensor:
        """Return rough pictures [frames, height, width, 3], 0..1, one pixel a cell.

        latents: [frames, channels, height, width], scaled; grey where the colours are those of other channels
        """
        cells = latents.detach().cpu().float().movedim(1, -1)
        if cells.shape[-1] != len(self.factors):
            return torch.full((*cells.shape[:-1], 3), 0.5)
        return ((F.linear(cells, torch.tensor(self.factors).T, torch.tensor(self.bias)) + 1) / 2).clamp(0, 1)


STABLE_DIFFUSION = LatentColours(
    ((0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177)),
    (0.0, 0.0, 0.0),
)
"""Colours of Stable Diffusion 1.x and 2.x; they share a VAE. Source: ComfyUI, latent_formats.SD15."""
