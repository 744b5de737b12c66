"""Attention that is recorded while a clip is inverted or reconstructed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention.functional import Attend, attention_probs, plain
from ..attention.records import FeatureRecord, Form, MapRecord, Record, StoredTensor
from ..attention.sites import MOST_CELLS, LayerAddress, Site


@dataclass(frozen=True)
class Capture:
    """Choice of the layers that an inversion records and an edit may change.

    most_cells:     layers with more query cells per frame are not recorded
    self_attention: record self-attention (cross-attention always is)
    """

    most_cells: int = MOST_CELLS
    self_attention: bool = True

    def covers(self, site: Site) -> bool:
        """Return whether a layer is recorded."""
        return site.cells <= self.most_cells and (site.is_cross or self.self_attention)


class PassEnded(Exception):
    """Ends a UNet call in the middle: `RecordAttention` has all it needs."""


@dataclass
class RecordAttention:
    """Plain attention that is recorded: one step of an inversion, or of a reconstruction.

    Of several chunks only the last, conditional one is recorded.

    forms: the form in which each layer is recorded; other layers are not
    base:  computes every layer; recording does not change its result
    until: a layer after which the call may end: it raises PassEnded; None: the call goes through
    park:  where records wait, so that they take no room beside the call; None: where they were computed
    """

    forms: Mapping[LayerAddress, Form]
    base: Attend = plain
    until: LayerAddress | None = None
    park: torch.device | None = None
    records: dict[LayerAddress, Record] = field(default_factory=dict)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        form = self.forms.get(site.address)
        features = q if site.is_cross else site.inputs
        # A bias shows in the map alone, and of a layer whose input is not known there is nothing else to record.
        if form == "features" and site.bias is None and features is not None:
            self.records[site.address] = FeatureRecord(self._kept(features, site))
            self._end(site)
            return self.base(q, k, v, site)
        if form is not None:
            self.records[site.address] = MapRecord(self._kept(attention_probs(q, k, site), site))
            self._end(site)
        # Never by the recorded map: the result must not depend on what is recorded, so that it repeats bit for bit.
        return self.base(q, k, v, site)

    def _kept(self, x: Tensor, site: Site) -> StoredTensor:
        last = _last_chunk(x, site)
        return StoredTensor(last if self.park is None else last.to(self.park))

    def _end(self, site: Site) -> None:
        if site.address == self.until:
            raise PassEnded


def _last_chunk(x: Tensor, site: Site) -> Tensor:
    """Return the last `frames` of the batch, in memory of their own if there are more."""
    return x if len(x) == site.frames else x[-site.frames :].clone()
