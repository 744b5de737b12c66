"""Controllers in the style of Prompt-to-Prompt: called with every attention map, they return the one to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import StoreError
from .functional import Attend, apply_probs, attention_probs, plain
from .sites import MOST_CELLS, Site


@runtime_checkable
class MapController(Protocol):
    """A controller that works on maps, as `register_attention_control` takes it.

    Two attributes are set on controllers that have them: `num_att_layers` when it is registered, and `LOW_RESOURCE`
    before every call: True where the batch is one clip without classifier-free guidance.
    """

    def __call__(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        """Return the map to use.

        attn:          softmax probabilities [(chunks frames), heads, cells, keys], a tensor of the call's own; with
                       guidance the first half is the unconditional chunk
        is_cross:      whether the keys are the text's
        place_in_unet: "down", "mid" or "up"
        """
        ...

    def step_callback(self, x_t: Tensor) -> Tensor:
        """Take the scaled latents [frames, channels, height, width] after a step; return those to go on with.

        Registered with `clip_axes` it gets them as [1, channels, frames, height, width].
        """
        ...


@dataclass(eq=False)
class MapControlAttention:
    """An `Attend` that makes every map and hands it to a map controller.

    most_cells: larger layers are computed without the controller, as in the authors' program
    kernel:     computes these
    clip_axes:  latents are handed over as [1, channels, frames, height, width], as in the authors' program
    per_frame:  it does with the maps of a frame the same whatever other frames it gets, so that it may get a clip's a
                few at a time
    """

    controller: MapController
    most_cells: int = MOST_CELLS
    kernel: Attend = plain
    clip_axes: bool = False
    per_frame: bool = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.cells > self.most_cells:
            return self.kernel(q, k, v, site)
        if hasattr(self.controller, "LOW_RESOURCE"):
            self.controller.LOW_RESOURCE = len(q) == site.frames
        probs = attention_probs(q, k, site)
        shape = probs.shape
        changed = self.controller(probs, site.is_cross, site.address.stage)
        changed = checked_map(changed, shape, f"{type(self.controller).__name__}, called for {site.address},")
        return apply_probs(changed.to(v), v, site)

    def after_step(self, latents: Tensor) -> Tensor:
        """Tell the controller that a step is done; return the latents to go on with.

        latents: [frames, channels, height, width], scaled
        Raises StoreError if it returns something else.
        """
        handed = latents.transpose(0, 1)[None] if self.clip_axes else latents
        changed = self.controller.step_callback(handed)
        if not isinstance(changed, Tensor) or changed.shape != handed.shape:
            raise StoreError(
                f"step_callback of {type(self.controller).__name__} gave {described(changed)}; latents shaped "
                f"{list(handed.shape)} are needed. Return x_t, changed or not."
            )
        return changed[0].transpose(0, 1).contiguous() if self.clip_axes else changed


def checked_map(value: object, shape: torch.Size, giver: str) -> Tensor:
    """Return the map that a controller returned; raise StoreError unless it is a tensor of that shape."""
    if isinstance(value, Tensor) and value.shape == shape:
        return value
    raise StoreError(f"{giver} gave {described(value)}; a map shaped {list(shape)} is needed. Return one.")


def described(value: object) -> str:
    """Describe a value for an error."""
    return f"a tensor shaped {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
