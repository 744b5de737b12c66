"""What is kept of one attention layer at one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .attention import apply_probs, attention_probs, plain
from .layers import LayerAddress, Site


class Record(Protocol):
    """One layer's attention, in whatever form it is kept. Its tensors are read-only."""

    def apply(self, v: Tensor, site: Site) -> Tensor:
        """The recorded attention applied to values [frames, heads, tokens, dim], not gathered over key frames."""
        ...

    def probs(self, site: Site, like: Tensor) -> Tensor:
        """The attention map itself [frames, heads, cells, keys], with the device and dtype of `like`."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Record:
        """The same record elsewhere or in another precision; None keeps the precision."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors it holds."""
        ...


Page = Mapping[LayerAddress, Record]


@dataclass(frozen=True)
class MapRecord:
    """The attention map itself: [frames, heads, cells, keys]."""

    map: Tensor

    def apply(self, v: Tensor, site: Site) -> Tensor:
        return apply_probs(self.map.to(v), v, site)

    def probs(self, site: Site, like: Tensor) -> Tensor:
        return self.map.to(like)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> MapRecord:
        return MapRecord(self.map.to(device, dtype or self.map.dtype))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.map,)


@dataclass(frozen=True)
class FeatureRecord:
    """The queries and keys a map comes from, one set per frame: [frames, heads, cells, dim] each.

    The map is never made unless asked for: applying it is one fused attention call.
    """

    q: Tensor
    k: Tensor

    def apply(self, v: Tensor, site: Site) -> Tensor:
        return plain(self.q.to(v), self.k.to(v), v, site)

    def probs(self, site: Site, like: Tensor) -> Tensor:
        return attention_probs(self.q.to(like), self.k.to(like), site)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> FeatureRecord:
        dtype = dtype or self.q.dtype
        return FeatureRecord(self.q.to(device, dtype), self.k.to(device, dtype))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.q, self.k)
