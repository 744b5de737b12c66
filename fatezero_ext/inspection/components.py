"""Principal components of self-attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ..choices import Side
from ..errors import SettingsError


def principal_components(maps: Tensor, count: int, side: Side = "queries") -> Tensor:
    """Compute the few pictures that describe self-attention best.

    maps:  [frames, height, width, key_height, key_width] of `self_attention_maps`
    count: components per frame, at most one per place
    side:  "queries": pictures of each frame itself, in which places that look at the same things have similar values
           (samples are the frame's places, their mean is subtracted). "keys": pictures of what is looked at, exactly
           the authors' formula: A minus the mean of each row, component i is row i of vh. They agree with the frame
           only if frames read their own keys.
    Returns [frames, count, height, width], each scaled to 0..1. In the first frame the strongest component comes first,
    and the value farthest from its mean is high; later frames follow the frame before in order and sign.
    Source: FateZero's show_self_attention_comp.
    """
    frames, height, width = maps.shape[:3]
    if not 1 <= count <= height * width:
        raise SettingsError(
            f"{count} components are asked for; there are 1 to {height * width} at {height}x{width} places. "
            f"Change components."
        )
    pictures: list[Tensor] = []
    for attention in maps.flatten(3, 4).flatten(1, 2):
        components = _components(attention.float(), count, side)
        pictures.append(_following(components, pictures[-1]) if pictures else _outliers_high(components))
    stacked = torch.stack(pictures)
    low, high = stacked.aminmax(dim=-1, keepdim=True)
    scaled = (stacked - low) / (high - low).clamp_min(torch.finfo(stacked.dtype).tiny)
    return scaled.unflatten(-1, (height, width))


def _components(attention: Tensor, count: int, side: Side) -> Tensor:
    """Compute the components [count, cells] of one frame's [cells, keys], of unit length, strongest first, any sign."""
    if side == "keys":
        return torch.linalg.svd(attention - attention.mean(dim=1, keepdim=True), full_matrices=False).Vh[:count]
    return torch.linalg.svd(attention - attention.mean(dim=0), full_matrices=False).U[:, :count].T


def _outliers_high(components: Tensor) -> Tensor:
    """Turn the components [count, cells] so that the entry farthest from each one's mean lies above it."""
    centred = components - components.mean(dim=1, keepdim=True)
    farthest = centred.gather(1, centred.abs().argmax(dim=1, keepdim=True))
    return torch.where(farthest < 0, -components, components)


def _following(components: Tensor, before: Tensor) -> Tensor:
    """Give the components [count, cells] the order and the signs that suit those of the frame before best."""
    similarity = before @ components.T
    free, ordered = list(range(len(components))), []
    for row in similarity:
        best = max(free, key=lambda index: row[index].abs().item())
        free.remove(best)
        ordered.append(-components[best] if row[best] < 0 else components[best])
    return torch.stack(ordered)
