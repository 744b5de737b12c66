"""Heat and components as pictures: tiles with labels, one sheet per frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from .labelled_sheet import Tile, labelled_sheet

MOST_COLUMNS = 5
GAP = 8  # pixels between tiles
FONT_SHARE = 12  # letters are as high as the tile's shorter side divided by this
COOL_TO_HOT = (
    (0.00, 0.00, 0.02),
    (0.26, 0.04, 0.41),
    (0.58, 0.15, 0.40),
    (0.87, 0.32, 0.23),
    (0.99, 0.65, 0.04),
    (0.99, 1.00, 0.64),
)
"""Colours of heat 0 to 1 in equal steps; lightness grows evenly, so that the picture also reads in grey."""
FAINTEST, STRONGEST = 0.35, 0.9
"""Share of the heat's colour over the grey source where there is no heat, and where there is most."""


def heat_tiles(heats: Tensor, labels: Sequence[str], size: tuple[int, int], source: Tensor | None = None) -> list[Tile]:
    """Colour the heat of words, over the grey source if there is one.

    heats:  [words, frames, height, width], 0 or more; each word's frame is scaled to a maximum of 1 (a word often gets
            about 1 % of the attention) and the maximum is noted
    size:   height and width of a tile in pixels
    source: [frames, any height, any width, 3] of the clip's proportions, 0..1, shown first; None: heat alone
    """
    tiles = [] if source is None else [Tile("source", enlarged(source, size))]
    grey = None if source is None else tiles[0].frames.mean(dim=-1, keepdim=True)
    for label, heat in zip(labels, heats, strict=True):
        shares = spread(heat, size)[..., None]
        colours = coloured(shares[..., 0])
        if grey is not None:
            colours = torch.lerp(grey.expand_as(colours), colours, FAINTEST + (STRONGEST - FAINTEST) * shares)
        tiles.append(Tile(label, colours, tuple(f"max {_percent(peak)}" for peak in heat.amax(dim=(1, 2)).tolist())))
    return tiles


def _percent(share: float) -> str:
    """`0.0123` -> `1.2 %`: two significant digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def component_tiles(components: Tensor, size: tuple[int, int], source: Tensor | None = None) -> list[Tile]:
    """Colour principal components: the first three together as red, green and blue, then each alone in heat's colours.

    components: [frames, count, height, width], 0..1; size and source as in `heat_tiles`
    """
    tiles = [] if source is None else [Tile("source", enlarged(source, size))]
    count = components.shape[1]
    if count >= 3:
        tiles.append(Tile("1, 2, 3 as red, green, blue", enlarged(components[:, :3].movedim(1, -1), size)))
    singly = coloured(enlarged(components.movedim(1, -1), size))  # [frames, *size, count, 3]
    return tiles + [Tile(f"component {number + 1}", singly[..., number, :]) for number in range(count)]


def spread(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale heat up to pixels, without hard cell edges.

    heat: [frames, height, width], 0 or more; size: height and width in pixels
    Returns [frames, *size], each frame scaled to a maximum of 1; a frame without heat stays 0.
    """
    smooth = F.interpolate(heat[:, None].float(), size=size, mode="bicubic", antialias=True)[:, 0].clamp_min(0)
    peak = smooth.amax(dim=(-2, -1), keepdim=True)
    return smooth / peak.clamp_min(torch.finfo(smooth.dtype).tiny)


def coloured(shares: Tensor) -> Tensor:
    """Return colours [..., 3] of heat [...] in 0..1, interpolated between those of COOL_TO_HOT."""
    table = torch.tensor(COOL_TO_HOT, device=shares.device)
    place = shares.clamp(0, 1) * (len(table) - 1)
    below = place.long().clamp(max=len(table) - 2)
    return torch.lerp(table[below], table[below + 1], (place - below)[..., None])


def enlarged(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames [frames, height, width, channels]; enlarged ones keep their hard pixel edges."""
    grows = size[0] >= frames.shape[1]
    how = {"mode": "nearest-exact"} if grows else {"mode": "bilinear", "antialias": True}
    return F.interpolate(frames.float().movedim(-1, 1), size=size, **how).movedim(1, -1).clamp(0, 1)


def frames_like_latents(images: Tensor, frames: int, cells: tuple[int, int]) -> Tensor:
    """Crop the frames of an inverted clip about the centre to the proportions of its latents.

    images: [frames, height, width, 3 or more] at any scale; transparency and whatever is behind it is left out
    cells:  height and width of the latents
    Raises SettingsError for another frame count, and where more than a cell would have to be cut away.
    """
    rows, columns = cells
    height, width = images.shape[1:3]
    cell = min(height / rows, width / columns)
    cut = (round(rows * cell), round(columns * cell))
    if len(images) != frames or max(height - cut[0], width - cut[1]) > cell:
        raise SettingsError(
            f"images are {len(images)} frames of {height}x{width} (height x width); the inverted clip has {frames} "
            f"frames of {rows}x{columns} cells. Connect the frames that were encoded and inverted."
        )
    top, left = (height - cut[0]) // 2, (width - cut[1]) // 2
    return images[:, top : top + cut[0], left : left + cut[1], :3]


def tile_size(cells: tuple[int, int], height: int) -> tuple[int, int]:
    """Return an even height and width of a tile for a clip of that many cells, about `height` pixels high."""
    return max(2, height // 2 * 2), max(2, round(height * cells[1] / cells[0] / 2) * 2)


def sheets(tiles: Sequence[Tile]) -> Tensor:
    """Draw all tiles of a frame beside each other, at most five in a row, labels above; both sides are even numbers.

    tiles: of one size and frame count, at least one
    Returns [frames, height, width, 3] float32, 0..1.
    """
    rows = -(-len(tiles) // MOST_COLUMNS)
    letters = min(tiles[0].frames.shape[1:3]) // FONT_SHARE
    return labelled_sheet(tiles, -(-len(tiles) // rows), letters=letters, lines=1, gap=GAP)
