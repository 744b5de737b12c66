"""Attention of one step of an edit: the source's where the plan says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.functional import Attend, apply_probs, attention_probs, plain
from ..attention.sites import LayerAddress, Site
from ..inversion.source_reader import SourceRecords
from .plan import StepPlan

MaskOf = Callable[[tuple[int, int]], Tensor]


@dataclass
class EditAttention:
    """One step of an edit: the source's attention where the plan says so, for the last chunk of the batch.

    The other chunk, where there is one, is the unconditional half of classifier-free guidance and stays plain.

    plan:        the step's plan, its tensors on the UNet's device and dtype
    source:      the source's attention at the same step, of the layers that may change
    mask:        gives bool [frames, height, width] for a level's size, or None: fused self-attention is the source's
    base:        computes what is not edited
    keep_cross:  layers whose unedited cross maps of the edit are kept in `edit_maps`, for latent blending
    watch_cross: layers whose cross maps of the edit are put there while their attention is computed as without
    kernel:      computes what is edited and not the source's
    park:        where `edit_maps` wait, so that they take no room beside the call; None: where they were computed
    """

    plan: StepPlan
    source: SourceRecords
    mask: MaskOf | None = None
    base: Attend = plain
    keep_cross: tuple[LayerAddress, ...] = ()
    watch_cross: tuple[LayerAddress, ...] = ()
    kernel: Attend = plain
    park: torch.device | None = None
    edit_maps: dict[LayerAddress, Tensor] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        at = site.address
        if at in self.watch_cross:
            own = slice(len(q) - site.frames, None)
            self._keep(at, attention_probs(q[own], k[own], site.part(own)))
        if site.is_cross:
            if at in self.keep_cross or (self.plan.replace_cross and at in self.source):
                return self._on_last_chunk(self._cross, q, k, v, site)
        elif self.plan.fuse_self and at in self.source:
            if self.mask is not None:
                return self._masked_self(self.mask, q, k, v, site)
            return self._on_last_chunk(lambda _q, _k, values, _site: self.source[at].apply(values), q, k, v, site)
        return self.base(q, k, v, site)

    def _cross(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Compute A' v, A' = A_source mix + A_edit gain; mix and gain are applied to the values, not to the maps."""
        at, plan = site.address, self.plan
        if at in self.keep_cross:
            probs = attention_probs(q, k, site)
            self._keep(at, probs)

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

    def _keep(self, at: LayerAddress, probs: Tensor) -> None:
        self.edit_maps[at] = probs if self.park is None else probs.to(self.park)

    def _masked_self(self, mask: MaskOf, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        own = self.base(q, k, v, site)
        own = own if self.base is self.kernel else own.clone()  # a registered controller may keep what it returned
        free = mask((site.height, site.width)).flatten(1)[:, None, :, None]  # [frames, 1, cells, 1]
        edited = own[-site.frames :]
        # The mask is one value per query row, so choosing between outputs is choosing between maps.
        torch.where(free, edited, self.source[site.address].apply(v[-site.key_sources :]), out=edited)
        return own

    def _on_last_chunk(self, compute: Attend, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        """Apply `compute` to the last chunk of the batch, and unedited attention to those before it."""
        rest, of_keys = len(q) - site.frames, len(k) - site.key_sources
        others, own = slice(None, rest), slice(rest, None)
        last = compute(q[own], k[of_keys:], v[of_keys:], site.part(own))
        if not rest:
            return last
        # Cells before heads in memory: what the output projection reads without another copy.
        _, heads, cells, dim = last.shape
        out = last.new_empty(len(q), cells, heads, dim).transpose(1, 2)
        out[others] = self.base(q[others], k[:of_keys], v[:of_keys], site.part(others))
        out[own] = last
        return out
