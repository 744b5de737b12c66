"""What computes attention while a clip is inverted, and while it is edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.functional import Attend, apply_probs, attention_probs, plain
from ..attention.records import FeatureRecord, Form, Kept, MapRecord, Record
from ..attention.sites import MOST_CELLS, LayerAddress, Site
from ..editing.plan import StepPlan

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


class PassEnded(Exception):
    """Raised by `RecordAttention` in the middle of a UNet call, once it has all it was asked to record."""


@dataclass
class RecordAttention:
    """Plain attention that leaves a page behind: one step of an inversion, or of a reconstruction.

    Of several chunks only the last, conditional one is recorded.

    forms: how each layer is recorded; layers not named are not
    base:  computes every layer; recording only looks on
    until: a layer after which the call may end: it raises PassEnded; None: the call goes through
    """

    forms: Mapping[LayerAddress, Form]
    base: Attend = plain
    until: LayerAddress | None = None
    page: dict[LayerAddress, Record] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        form = self.forms.get(site.address)
        features = q if site.is_cross else site.inputs
        # A bias is part of the map alone, and a layer that does not tell its input has nothing else to keep.
        if form == "features" and site.bias is None and features is not None:
            self.page[site.address] = FeatureRecord(Kept(_last_chunk(features, site)))
            self._end(site)
            return self.base(q, k, v, site)
        if form is not None:
            self.page[site.address] = MapRecord(Kept(_last_chunk(attention_probs(q, k, site), site)))
            self._end(site)
        # Never by the recorded map: what is computed must not depend on what is kept, so that it repeats bit for bit.
        return self.base(q, k, v, site)

    def _end(self, site: Site) -> None:
        if site.address == self.until:
            raise PassEnded


def _last_chunk(x: Tensor, site: Site) -> Tensor:
    """The last `frames` of the batch, in memory of its own where there are more."""
    return x if len(x) == site.frames else x[-site.frames :].clone()


@dataclass(frozen=True)
class SourceAttention:
    """One layer's attention of the source, where the UNet computes.

    site:   of the call that was recorded
    kernel: computes attention from kept features
    """

    record: Record
    site: Site
    kernel: Attend = plain

    def apply(self, v: Tensor) -> Tensor:
        """The source's attention applied to values [frames, heads, tokens, dim]."""
        return self.record.apply(v, self.site, self.kernel)

    def probs(self, like: Tensor) -> Tensor:
        """The source's map [frames, heads, cells, keys], with the device and dtype of `like`."""
        return self.record.probs(like, self.site)


SourcePage = Mapping[LayerAddress, SourceAttention]


@dataclass
class EditAttention:
    """One step of an edit: the source's attention where the plan says so, for the last chunk of the batch.

    The other chunk, where there is one, is the unconditional half of classifier-free guidance and stays plain.

    plan:        the step's plan, its tensors on the UNet's device and dtype
    source:      the source's attention at the same step, of the layers that may change
    mask:        gives bool [frames, height, width] for a level's size, or None: fused self-attention is the source's
    base:        computes what is not edited
    keep_cross:  layers whose unedited cross maps of the edit are kept for latent blending
    kernel:      computes what is edited and not the source's
    """

    plan: StepPlan
    source: SourcePage
    mask: MaskOf | None = None
    base: Attend = plain
    keep_cross: tuple[LayerAddress, ...] = ()
    kernel: Attend = plain
    kept: dict[LayerAddress, Tensor] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        at = site.address
        if site.is_cross:
            if at in self.keep_cross or (self.plan.replace_cross and at in self.source):
                return self._on_last_chunk(self._cross, q, k, v, site)
        elif self.plan.fuse_self and at in self.source:
            if self.mask is not None:
                return self._masked_self(q, k, v, site)
            return self._on_last_chunk(lambda _q, _k, values, _site: self.source[at].apply(values), q, k, v, site)
        return self.base(q, k, v, site)

    def _cross(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """A' v with A' = A_source mix + A_edit gain: linear in v, so mix and gain meet the few values, not the maps."""
        at, plan = site.address, self.plan
        if at in self.keep_cross:
            probs = self.kept[at] = attention_probs(q, k, site)

        def own(values: Tensor) -> Tensor:
            return apply_probs(probs, values, site) if at in self.keep_cross else self.kernel(q, k, values, site)

        if not (plan.replace_cross and at in self.source):
            return own(v)
        words = len(plan.gain)
        mixed, gain = plan.mix @ v[..., :words, :], plan.gain
        if added_keys := v.shape[-2] - words:  # keys behind the words' stay the edit's own
            mixed, gain = F.pad(mixed, (0, 0, 0, added_keys)), F.pad(gain, (0, added_keys), value=1.0)
        taken = self.source[at].apply(mixed)
        if not plan.own_cross and not added_keys:
            return taken
        return own(gain[:, None] * v).add_(taken)

    def _masked_self(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        own = self.base(q, k, v, site)
        own = own if self.base is self.kernel else own.clone()  # a registered control may keep what it returned
        free = self.mask((site.height, site.width)).flatten(1)[:, None, :, None]  # [frames, 1, cells, 1]
        edited = own[-site.frames :]
        # The mask is one value per query row, so choosing between outputs is choosing between maps.
        torch.where(free, edited, self.source[site.address].apply(v[-site.frames :]), out=edited)
        return own

    def _on_last_chunk(self, compute: Attend, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """`compute` on the last chunk of the batch, unedited attention on those before it."""
        rest = len(q) - site.frames
        others, own = slice(None, rest), slice(rest, None)
        last = compute(q[own], k[own], v[own], site.part(own))
        if not rest:
            return last
        # Cells before heads in memory: what the output projection reads without another copy.
        _, heads, cells, dim = last.shape
        out = last.new_empty(len(q), cells, heads, dim).transpose(1, 2)
        out[others] = self.base(q[others], k[others], v[others], site.part(others))
        out[own] = last
        return out
