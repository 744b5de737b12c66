"""Places where a clip stands still, which an edit then leaves still as well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_CHANGE = 0.3
"""Change of a latent cell, root of the channels' mean square, up to which it stands still; latents have variance 1."""

NEAR = 3
"""Cells around what moves that a frame shows to others only if none has it clear: what moves throws its light there."""


class StillPlaces:
    """Cells of a clip in which most of its frames show the same, such as all of a ground before a fixed camera.

    Each frame of an edit has a noise of its own, however little the frames of its source differ there, and what is
    drawn new from it flickers. Here every such cell is drawn once, and all frames that show it get that.
    """

    def __init__(self, source: Tensor) -> None:
        """Find them; source: scaled latents [frames, channels, height, width]."""
        usual = source.sort(dim=0).values[len(source) // 2]
        moves = (source - usual).float().square().mean(dim=1).sqrt() > MOST_CHANGE
        self.still = ~_grown(moves, 1)  # a cell's neighbours are in its pixels too
        """bool [frames, height, width]: the frame shows in this cell what most frames do."""
        from_middle = (torch.arange(len(source), device=source.device) - (len(source) - 1) / 2).abs()
        self._rank = from_middle[:, None, None] + len(source) * _grown(moves, NEAR)

    def hold(self, x: Tensor, free: Tensor | None = None) -> Tensor:
        """Give the frames of an edit, where they stand still and may differ, the latents of one that does.

        That is the one nearest the middle of those with nothing moving near the cell, if there is any.
        x:    [frames, channels, height, width]
        free: bool [frames, height, width]: where the edit may differ; None: everywhere
        """
        held = self.still if free is None else self.still & free
        shown = self._rank.where(held, torch.inf).argmin(dim=0)
        return x.gather(0, shown.expand(1, x.shape[1], -1, -1)).where(held[:, None], x)


def _grown(cells: Tensor, by: int) -> Tensor:
    """Return cells, bool [frames, height, width], with those up to that many away."""
    return F.max_pool2d(cells[:, None].float(), kernel_size=2 * by + 1, stride=1, padding=by)[:, 0] > 0
