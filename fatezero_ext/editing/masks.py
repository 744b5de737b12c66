"""Masks made from the attention that words get, and from a user: they say where an edit may differ from its source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.clip_parts import ClipPart, Parts, joined
from ..attention.controlled_layer import ControlledLayer
from ..attention.sites import LayerAddress, Site
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError
from ..inversion.recording import Capture
from ..inversion.source_reader import SourceRecords

USUAL_DOWNSCALE = 4  # the 16x16 maps of 512-pixel clips, as in the authors' program
FEWEST_CELLS = 128  # coarser maps than this do not show an object's shape

Heat = Callable[[Tensor], Tensor]
"""Gives the attention that weighted tokens get: weights [77] to [frames, height, width]."""


def blend_layers(
    sites: Mapping[LayerAddress, Site], most_cells: int, downscale: int | None = None
) -> tuple[LayerAddress, ...]:
    """Choose the cross-attention layers masks are read from.

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
    """Average the attention that the weighted tokens get, over layers and heads.

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


def spread_over_shapes(heat: Tensor, source: SourceRecords, layers: Collection[ControlledLayer]) -> Tensor:
    """Give each place the heat of the places that its self-attention looks at, averaged over layers and heads.

    heat:   [(before frames), height, width] float32, of a part of a clip with the frames before it, see `Site.before`
    layers: self-attention layers of this resolution, in `source`; none: the heat stays as it is
    No map is made: the heat is the values that recorded attention is applied to.
    Returns [frames, height, width].
    Source: attention maps refined by self-attention, as in DiffSegmenter (arXiv 2309.02773).
    """
    if not layers:
        return heat
    values = heat.flatten(1)[:, None, :, None]
    spread = []
    for layer in layers:
        # As wide as the layer's queries and contiguous, as fused kernels require; every channel is the same.
        wide = values.expand(-1, layer.heads, -1, layer.dim_head).contiguous()
        attention = source[layer.address]
        spread.append(attention.apply(wide[-attention.site.key_sources :])[..., 0])
    return torch.cat(spread, dim=1).mean(dim=1).view(-1, *heat.shape[1:])


def check_other_words(unet: NoiseModel, layers: Collection[LayerAddress], words: Collection[str]) -> None:
    """Raise SettingsError if a layer's queries cannot be compared with words that the source prompt does not have."""
    for layer in unet.layers:
        if layer.address in layers and (layer.added_keys or not layer.projects):
            raise SettingsError(
                f"{', '.join(words)}: words outside the source prompt cannot be looked for, as the keys of "
                f"{layer.address} come from more than a text; a model whose cross-attention reads the text alone is "
                f"needed. Use words of the source prompt, or take off the patch that changes attention's inputs."
            )


def shape_layers(unet: NoiseModel, layers: Collection[LayerAddress], capture: Capture) -> tuple[ControlledLayer, ...]:
    """Return the self-attention layers beside cross-attention layers that masks are read from.

    Raises SettingsError if self-attention was not recorded.
    """
    if not capture.self_attention:
        raise SettingsError(
            "follow_shapes is on but the inversion recorded no self-attention, which shows the shapes. Record "
            "self-attention (self_attention of Register Attention Control), or switch follow_shapes off."
        )
    beside = {replace(at, kind="self") for at in layers}
    return tuple(layer for layer in unet.layers if layer.address in beside)


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
    spare:     [77] tokens of each thing whose (not grown) mask is taken out of the last mask alone
    """

    own: Tensor
    threshold: float
    subtract: Tensor | None = None
    subtract_threshold: float = 0.0
    spare: tuple[Tensor, ...] = ()
    spare_threshold: float = 0.0

    def to(self, device: torch.device) -> MaskWords:
        """Return the same words with their weights on `device`."""
        subtract = None if self.subtract is None else self.subtract.to(device)
        spare = tuple(words.to(device) for words in self.spare)
        return replace(self, own=self.own.to(device), subtract=subtract, spare=spare)

    def at(self, heat: Heat, size: tuple[int, int], joining: Tensor | None = None) -> Tensor:
        """Return the mask, bool [frames, *size], True inside.

        joining: bool [frames, *size], another mask that is joined before anything is taken out
        """
        mask = threshold_heat(heat(self.own), self.threshold, size)
        mask = mask if joining is None else mask | joining
        subtracted = self.subtracted(heat, size)
        return mask if subtracted is None else mask & ~subtracted

    def subtracted(self, heat: Heat, size: tuple[int, int]) -> Tensor | None:
        """Return what is taken out of the mask, bool [frames, *size]; None without such words."""
        if self.subtract is None:
            return None
        return threshold_heat(heat(self.subtract), self.subtract_threshold, size, grow=False)


class MaskMaker:
    """Makes the masks of one edit of a clip, or of a part of it, and counts how often each cell was free to differ."""

    def __init__(
        self,
        source_words: MaskWords | None,
        edit_words: MaskWords | None,
        sites: Mapping[LayerAddress, Site],
        user_mask: Tensor | None,
        counts: Tensor,
        shapes: Collection[ControlledLayer] = (),
    ) -> None:
        """Begin an edit.

        source_words: words of the source prompt that make the mask; None: the user's mask alone
        edit_words:   words of the edit prompt that join it for latent blending, or the last mask, or None
        sites:        of the layers whose maps are read
        user_mask:    bool [frames, height, width] of any scale, or None; with words both must allow a cell
        counts:       zeros [frames, height, width] in latent cells, float32, where the computation runs
        shapes:       self-attention layers whose shapes the source's heat follows, of the resolution of `sites`
        """
        assert source_words is None or sites
        self.source_words, self.edit_words = source_words, edit_words
        self.sites, self.user_mask, self.counts = sites, user_mask, counts
        self._shapes = tuple(shapes)
        self.shown: Tensor | None = None
        """See `see_edit_words`, [frames]."""
        self.found: Tensor | None = None
        """Highest attention that the words of the source got in each frame, where a mask was made last, [frames]."""
        self._found_in: Tensor | None = None
        self._counted = 0
        self._last_fused: Tensor | None = None
        self._last_blended: Tensor | None = None
        self._barred: list[Tensor] = []
        self._spared_heat: Tensor | None = None
        self._edit_maps: dict[LayerAddress, Tensor] = {}
        self._scaled: dict[tuple[int, int], Tensor] = {}

    def source_heat(self, source: SourceRecords) -> Heat:
        """Return the heat of one step of the source; each of its pictures is made once."""
        return cache(partial(self._source_heat, source))

    def add_edit_maps(self, maps: Mapping[LayerAddress, Tensor], *, summed: bool) -> None:
        """Take the edit's own cross maps of one step, in place of those before, or `summed` with them."""
        before = self._edit_maps if summed else {}
        # Those before may wait elsewhere: a clip is split in the middle where memory runs out.
        added = {at: before[at].to(probs.device) + probs if at in before else probs for at, probs in maps.items()}
        self._edit_maps = {**self._edit_maps, **added}

    def forget_edit_maps(self) -> None:
        """Free the edit's own cross maps, once the masks of their step are made."""
        self._edit_maps = {}

    def mask(self, heat: Heat, size: tuple[int, int], *, with_edit: bool = False) -> Tensor:
        """Return bool [frames, *size], True where the edit may differ.

        heat:      of the source at this step
        with_edit: whether the words of the edit prompt join those of the source
        """
        allowed = []
        if self.source_words is not None:
            edit_words = self.edit_words if with_edit else None
            joining = None if edit_words is None else edit_words.at(self._edit_heat, size)
            allowed.append(self.source_words.at(heat, size, joining))
        if self.user_mask is not None:
            allowed.append(self._user_mask_at(self.user_mask, size))
        return torch.stack(allowed).all(0)

    def count(self, mask: Tensor, *, blends_latents: bool) -> None:
        """Count the cells of a mask, bool [frames, height, width] in latent cells.

        blends_latents: whether latents are blended under it; otherwise self-attention is fused under it
        """
        self.counts = self.counts + mask  # not in place: a step that fails goes back to what was
        self._counted += 1
        if blends_latents:
            self._last_blended = mask
        else:
            self._last_fused = mask

    def show(self, heat: Heat) -> None:
        """Make the last mask of self-attention, which nothing is fused under: no cell is counted."""
        self._last_fused = self.mask(heat, (self.counts.shape[-2], self.counts.shape[-1]))

    def bar_edit_words(self, heat: Heat) -> None:
        """Note which cells `join_last` may not add: those outside the user's mask, and those taken out at this step."""
        size = (self.counts.shape[-2], self.counts.shape[-1])
        subtracted = None if self.source_words is None else self.source_words.subtracted(heat, size)
        user_mask = None if self.user_mask is None else ~self._user_mask_at(self.user_mask, size)
        self._barred = [cells for cells in (subtracted, user_mask) if cells is not None]

    def join_last(self) -> None:
        """Add the place of the edit's own words, in the edit maps taken last, to the last mask of self-attention."""
        assert self.edit_words is not None and self._last_fused is not None
        joining = self.edit_words.at(self._edit_heat, (self.counts.shape[-2], self.counts.shape[-1]))
        for cells in self._barred:
            joining = joining & ~cells
        self._last_fused = self._last_fused | joining
        self._edit_maps = {}

    def find_source_words(self, heat: Heat) -> None:
        """Note where the words of the source are found, and how strongly in each frame, for `see_edit_words`."""
        if self.source_words is not None:
            self.found = heat(self.source_words.own).amax((1, 2))
            self._found_in = self.source_words.at(heat, (self.counts.shape[-2], self.counts.shape[-1]))

    def see_edit_words(self) -> None:
        """Note how strongly each frame shows the words of the edit prompt where the source's words were found last.

        It is their highest attention there, of the edit maps taken last: what is drawn elsewhere does not count. NaN
        where the edit may differ nowhere there.
        """
        assert self.edit_words is not None
        heat = F.interpolate(self._edit_heat(self.edit_words.own)[:, None], size=self.counts.shape[-2:])[:, 0]
        inside = torch.ones_like(heat, dtype=torch.bool)
        for mask in (self._last_made(), self._found_in):
            inside = inside if mask is None else inside & mask
        self.shown = (heat * inside).amax((1, 2)).where(inside.any(-1).any(-1), torch.nan)

    def watch_spared(self, heat: Heat) -> None:
        """Add up the heat of the things that the last mask spares."""
        if self.source_words is not None and self.source_words.spare:
            found = torch.stack([heat(words) for words in self.source_words.spare])
            self._spared_heat = found if self._spared_heat is None else self._spared_heat + found

    def go_on_from(self, makers: Sequence[MaskMaker], parts: Parts, part: ClipPart) -> None:
        """Go on as the makers of all parts of a clip would, for the frames of another part."""

        def cut(pieces: Sequence[Tensor | None], axis: int = 0) -> Tensor:
            moved = [piece.movedim(axis, 0) for piece in pieces if piece is not None]
            return part.of(joined(parts, moved)).movedim(0, axis)

        first = makers[0]
        self._counted, self.counts = first._counted, cut([each.counts for each in makers])
        if first._last_fused is not None:
            self._last_fused = cut([each._last_fused for each in makers])
        if first._last_blended is not None:
            self._last_blended = cut([each._last_blended for each in makers])
        if first.shown is not None:
            self.shown = cut([each.shown for each in makers])
        if first.found is not None:
            self.found = cut([each.found for each in makers])
        if first._found_in is not None:
            self._found_in = cut([each._found_in for each in makers])
        if first._spared_heat is not None:
            self._spared_heat = cut([each._spared_heat for each in makers], axis=1)
        self._barred = [cut(cells) for cells in zip(*(each._barred for each in makers), strict=True)]
        self._edit_maps = {at: cut([each._edit_maps[at] for each in makers]) for at in first._edit_maps}

    def mean(self) -> Tensor:
        """Return the share of the counted masks that left a cell free, 0..1; 1 without any."""
        return self.counts / self._counted if self._counted else torch.ones_like(self.counts)

    def last(self, peak: Tensor | None = None) -> Tensor:
        """Return the last mask that latents were blended under, else self-attention, else the one shown, as joined.

        The place of things to be spared is taken out of it, by the mean heat of their words: it shows a shape better
        than one step's. It is compared with a thing's highest in the clip, which may leave the picture.
        peak: that highest heat, see `spared_peak`; None: these are all frames of the clip
        Returns bool [frames, height, width] in latent cells; all True where there was none.
        """
        made = self._last_made()
        last = torch.ones_like(self.counts, dtype=torch.bool) if made is None else made
        heat = self._spared()
        if self.source_words is None or heat is None:
            return last
        peak = (self.spared_peak() if peak is None else peak).clamp_min(torch.finfo(heat.dtype).tiny)
        return last & ~(heat / peak > self.source_words.spare_threshold).any(0)

    def free(self) -> Tensor | None:
        """Return the last mask as `last` does, but with things to be spared; before there is one, the user's.

        Returns bool [frames, height, width] in latent cells; None: the edit may differ everywhere.
        """
        made = self._last_made()
        if made is not None or self.user_mask is None:
            return made
        return self._user_mask_at(self.user_mask, (self.counts.shape[-2], self.counts.shape[-1]))

    def _last_made(self) -> Tensor | None:
        return self._last_fused if self._last_blended is None else self._last_blended

    def spared_peak(self) -> Tensor:
        """Return the highest mean heat of each thing to be spared, [words, 1, 1, 1]; [1, 1, 1, 1] 0 without any."""
        heat = self._spared()
        return self.counts.new_zeros(1, 1, 1, 1) if heat is None else heat.amax((1, 2, 3), keepdim=True)

    def _spared(self) -> Tensor | None:
        """Return the added heat of each thing to be spared, [words, frames, height, width] in latent cells."""
        heat = self._spared_heat
        return None if heat is None else F.interpolate(heat, size=self.counts.shape[-2:])

    def _user_mask_at(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        if size not in self._scaled:
            scaled = F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")
            self._scaled[size] = scaled[:, 0] > 0.5
        return self._scaled[size]

    def _source_heat(self, source: SourceRecords, weights: Tensor) -> Tensor:
        maps = [(source[at].heat.probs(self.counts), site) for at, site in self.sites.items()]
        return spread_over_shapes(word_heat(maps, weights), source, self._shapes)

    def _edit_heat(self, weights: Tensor) -> Tensor:
        device = self.counts.device
        return word_heat(((self._edit_maps[at].to(device), site) for at, site in self.sites.items()), weights)
