"""Addresses of attention layers in a UNet, and their sites in one call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

from ..errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

Stage = Literal["down", "mid", "up"]
Kind = Literal["self", "cross"]
Projection = Callable[["Tensor"], tuple["Tensor", "Tensor"]]
"""Projects a layer's stored features to queries and keys, exactly as the layer does."""

MOST_CELLS = 32 * 32  # larger layers are left alone, as in the authors' program


@dataclass(frozen=True, order=True)
class LayerAddress:
    """One attention layer of a UNet; prints as `up.1.0.cross`.

    stage: which arm of the UNet
    block: index of the block within the stage (0 for mid)
    unit:  index of the transformer block within that block
    kind:  "self" (attn1) or "cross" (attn2)
    """

    stage: Stage
    block: int
    unit: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.stage}.{self.block}.{self.unit}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> LayerAddress:
        """Return the address that prints as `text`; raise StoreError if none does."""
        stage, *place, kind = text.split(".") if text.count(".") == 3 else ("", "")
        known = stage in get_args(Stage) and kind in get_args(Kind) and all(part.isdecimal() for part in place)
        if not known:
            raise StoreError(f"{text!r} is no attention layer; one such as 'up.1.0.cross' is needed. Invert again.")
        return cls(cast("Stage", stage), int(place[0]), int(place[1]), cast("Kind", kind))


@dataclass(frozen=True)
class Site:
    """Description of one attention layer in one call.

    address:       the layer
    frames:        frames of the clip, or of the part of it that this call computes; the batch axis is `(chunks frames)`
    height, width: cells of this level
    downscale:     latent cells per cell of this level, a power of two
    key_frames:    for self-attention, one index tensor [frames] per key frame whose
                   keys a frame attends to, in order; empty: each frame attends to itself
    upcast:        scores are computed in float32 wherever maps are made, as the layer was trained
    bias:          added to the scores, [(chunks frames), 1, 1 or cells, keys]: 0 keeps a key, a large negative number
                   drops it; None: nothing is added
    inputs:        input of a self-attention layer, from which its queries and keys are projected, [(chunks frames),
                   cells, width]; None: not known
    project:       makes queries and keys of the layer's stored features; None: features of it cannot be read
    before:        frames of earlier parts of the clip whose keys and values stand before the call's own, with their
                   places counted by `key_frames`; 0 where a call computes the whole clip
    """

    address: LayerAddress
    frames: int
    height: int
    width: int
    downscale: int
    key_frames: tuple[Tensor, ...] = ()
    upcast: bool = False
    bias: Tensor | None = None
    inputs: Tensor | None = None
    project: Projection | None = None
    before: int = 0

    @property
    def cells(self) -> int:
        """Query tokens per frame."""
        return self.height * self.width

    @property
    def key_sources(self) -> int:
        """Frames whose keys and values a layer gets, of each chunk."""
        return self.before + self.frames

    @property
    def is_cross(self) -> bool:
        return self.address.kind == "cross"

    def part(self, rows: slice) -> Site:
        """Return the site of a part of the batch."""
        if self.bias is None and self.inputs is None:
            return self
        bias, inputs = (None if x is None else x[rows] for x in (self.bias, self.inputs))
        return replace(self, bias=bias, inputs=inputs)
