"""Masks from the words' own attention: where an edit may differ from its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.sites import LayerAddress, Site
from ..errors import SettingsError

USUAL_DOWNSCALE = 4  # the 16x16 maps of 512-pixel clips, as in the authors' program
FEWEST_CELLS = 128  # coarser maps than this do not show an object's shape


def blend_layers(
    sites: Mapping[LayerAddress, Site], most_cells: int, downscale: int | None = None
) -> tuple[LayerAddress, ...]:
    """The cross-attention layers masks are read from.

    most_cells: layers with more cells are not recorded
    downscale:  latent cells per map cell; None: 4, or finer where that level has fewer than 128 cells
    Raises SettingsError where no recorded layer has that resolution.
    """
    usable: dict[int, list[Site]] = {}
    for site in sites.values():
        if site.is_cross and site.address.stage != "mid" and site.cells <= most_cells:
            usable.setdefault(site.downscale, []).append(site)
    if not usable:
        raise SettingsError(
            f"no cross-attention layer has {most_cells} cells or fewer; masks are read from those. "
            f"Use smaller frames or record larger layers."
        )
    chosen = _usual_downscale(usable) if downscale is None else downscale
    if chosen not in usable:
        raise SettingsError(
            f"resolution 1/{chosen} is not recorded; 1/{', 1/'.join(map(str, sorted(usable)))} are. Use one."
        )
    return tuple(site.address for site in usable[chosen])


def _usual_downscale(usable: Mapping[int, Sequence[Site]]) -> int:
    fine_enough = [d for d in usable if d <= USUAL_DOWNSCALE and usable[d][0].cells >= FEWEST_CELLS]
    # The coarsest of the fine ones; on very large frames those are not recorded and the finest recorded one is next.
    return max(fine_enough) if fine_enough else min(usable)


def word_heat(maps: Iterable[tuple[Tensor, Site]], weights: Tensor) -> Tensor:
    """How much attention the weighted tokens get, averaged over layers and heads.

    maps:    cross-attention probabilities [frames, heads, cells, 77 or more] of one resolution, with their sites; keys
             behind the words' do not count
    weights: [77]
    Returns [frames, height, width] float32.
    """
    heats = []
    for probs, site in maps:
        heat = probs[..., : len(weights)].float() @ weights
        heats.append(heat.unflatten(-1, (site.height, site.width)))
    return torch.cat(heats, dim=1).mean(dim=1)


def threshold_heat(heat: Tensor, threshold: float, size: tuple[int, int], *, grow: bool = True) -> Tensor:
    """Resize heat, scale each frame to a maximum of 1, and compare.

    heat: [frames, height, width]; threshold: as a share of each frame's maximum; size: of the mask, cells
    grow: spread each cell's heat to its eight neighbours first
    Returns bool [frames, *size].
    """
    image = heat[:, None]
    if grow:
        image = F.max_pool2d(image, kernel_size=3, stride=1, padding=1)
    image = F.interpolate(image, size=size)[:, 0]
    peak = image.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(image.dtype).tiny)
    return image / peak > threshold


@dataclass(frozen=True)
class MaskWords:
    """Words whose heat makes a mask, as token weights.

    own:       [77] tokens inside the mask, with their threshold
    subtract:  [77] tokens whose (not grown) mask is taken out again, or None for no subtraction
    """

    own: Tensor
    threshold: float
    subtract: Tensor | None = None
    subtract_threshold: float = 0.0

    def to(self, device: torch.device) -> MaskWords:
        """The same words with their weights on `device`."""
        subtract = None if self.subtract is None else self.subtract.to(device)
        return replace(self, own=self.own.to(device), subtract=subtract)

    def at(self, heat: Callable[[Tensor], Tensor], size: tuple[int, int], joining: Tensor | None = None) -> Tensor:
        """bool [frames, *size], True inside.

        heat:    gives [frames, height, width] for token weights [77]
        joining: bool [frames, *size], another mask that is joined before anything is taken out
        """
        mask = threshold_heat(heat(self.own), self.threshold, size)
        mask = mask if joining is None else mask | joining
        if self.subtract is None:
            return mask
        return mask & ~threshold_heat(heat(self.subtract), self.subtract_threshold, size, grow=False)
