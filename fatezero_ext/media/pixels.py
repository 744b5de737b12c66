"""Decoded pictures as tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def as_floats(pictures: NDArray[np.uint8]) -> Tensor:
    """Return pictures as numbers 0..1."""
    import torch

    return torch.from_numpy(pictures).float().div_(255)


def stacked(pictures: list[NDArray[np.uint8]]) -> Tensor:
    """Stack pictures to one tensor of floats, 0..1; empties the list, to never hold the whole clip twice."""
    import torch

    frames = torch.empty(len(pictures), *pictures[0].shape)
    for number in reversed(range(len(pictures))):
        frames[number] = as_floats(pictures.pop())
    return frames
