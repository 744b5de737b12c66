"""What computes attention while a clip is inverted, and while it is edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import Attend, apply_probs, attention_probs, plain
from .layers import MOST_CELLS, LayerAddress, Site
from .plan import StepPlan
from .records import FeatureRecord, MapRecord, Page, Record
from .stores import Policy

MaskOf = Callable[[tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Capture:
    """Which layers an inversion records and an edit may change.

    most_cells:     layers with more query cells per frame are left alone
    self_attention: record self-attention (cross-attention always is)
    """

    most_cells: int = MOST_CELLS
    self_attention: bool = True

    def covers(self, site: Site) -> bool:
        return site.cells <= self.most_cells and (site.is_cross or self.self_attention)


@dataclass
class RecordAttention:
    """Plain attention that leaves a page behind: one step of an inversion, or of a reconstruction.

    Of several chunks only the last, conditional one is recorded.

    policy: how self-attention is recorded; cross maps are only 77 wide and are always kept as maps
    base:   computes every layer; recording only looks on
    """

    capture: Capture
    policy: Policy
    base: Attend = plain
    page: dict[LayerAddress, Record] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not self.capture.covers(site):
            return self.base(q, k, v, site)
        if self.policy == "features" and not site.is_cross:
            self.page[site.address] = FeatureRecord(_last_chunk(q, site), _last_chunk(k, site))
            return self.base(q, k, v, site)
        probs = attention_probs(q, k, site)
        self.page[site.address] = MapRecord(_last_chunk(probs, site))
        return apply_probs(probs, v, site) if self.base is plain else self.base(q, k, v, site)


def _last_chunk(x: Tensor, site: Site) -> Tensor:
    """The last `frames` of the batch, in memory of its own where there are more."""
    return x if len(x) == site.frames else x[-site.frames :].clone()


@dataclass
class EditAttention:
    """One step of an edit: the source's attention where the plan says so, for the last chunk of the batch.

    The other chunk, where there is one, is the unconditional half of classifier-free guidance and stays plain.

    plan:        the step's plan, its tensors on the UNet's device and dtype
    source:      the page of the same step of the inversion
    mask:        gives bool [frames, height, width] for a level's size, or None: fused self-attention is the source's
    base:        computes what is not edited
    keep_cross:  layers whose unedited cross maps of the edit are kept for latent blending
    """

    plan: StepPlan
    capture: Capture
    source: Page
    mask: MaskOf | None = None
    base: Attend = plain
    keep_cross: tuple[LayerAddress, ...] = ()
    kept: dict[LayerAddress, Tensor] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if self.capture.covers(site):
            if site.is_cross and (self.plan.replace_cross or site.address in self.keep_cross):
                return self._on_last_chunk(self._cross, q, k, v, site)
            if not site.is_cross and self.plan.fuse_self:
                return self._self(q, k, v, site)
        return self.base(q, k, v, site)

    def _cross(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        probs = attention_probs(q, k, site)
        if site.address in self.keep_cross:
            self.kept[site.address] = probs
        if self.plan.replace_cross:
            probs = self._mixed(self.source[site.address].probs(site, probs), probs)
        return apply_probs(probs, v, site)

    def _mixed(self, source: Tensor, own: Tensor) -> Tensor:
        """The plan's formula on the columns of the words; keys added behind them stay the edit's own."""
        words = len(self.plan.gain)
        mixed = source[..., :words] @ self.plan.mix + own[..., :words] * self.plan.gain
        return mixed if own.shape[-1] == words else torch.cat([mixed, own[..., words:]], dim=-1)

    def _self(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        source = self.source[site.address]
        if self.mask is None:
            return self._on_last_chunk(lambda _q, _k, values, at: source.apply(values, at), q, k, v, site)
        own = self.base(q, k, v, site)
        free = self.mask((site.height, site.width)).flatten(1)[:, None, :, None]  # [frames, 1, cells, 1]
        edited = own[-site.frames :]
        # The mask is one value per query row, so choosing between outputs is choosing between maps.
        edited.copy_(torch.where(free, edited, source.apply(v[-site.frames :], site)))
        return own

    def _on_last_chunk(self, compute: Attend, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """`compute` on the last chunk of the batch, unedited attention on those before it."""
        rest = len(q) - site.frames
        others, own = slice(None, rest), slice(rest, None)
        last = compute(q[own], k[own], v[own], site.part(own))
        return torch.cat([self.base(q[others], k[others], v[others], site.part(others)), last]) if rest else last
