"""Digests of tensors and settings, by which a saved inversion is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from blake3 import blake3
from torch import Tensor

PIECE_BYTES = 2**26  # that are hashed at once, and copied at once from an accelerator


def tensor_digest(x: Tensor) -> str:
    """Digest of a tensor's dtype, shape and bytes."""
    return weights_digest({"": x})


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Digest of every weight and buffer by name, dtype, shape and bytes, the same on every device.

    All bytes are hashed each time, since weights may be changed in place. Those on an accelerator are copied to the
    computer's memory piece by piece.
    """
    hasher = blake3(max_threads=torch.get_num_threads())
    for name, x in sorted(weights.items()):
        # JSON and the count of bytes that it gives say where each tensor ends: no two mappings are hashed alike.
        hasher.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        for piece in _pieces(x):
            hasher.update(piece)
    return hasher.hexdigest()


def _pieces(x: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor in the order of a contiguous one."""
    for piece in x.detach().contiguous().view(-1).view(torch.uint8).split(PIECE_BYTES):
        yield piece.cpu().numpy().data


def combined(parts: Mapping[str, object]) -> str:
    """One digest of named parts: tensors by their digests, all else as JSON."""
    plain = {name: tensor_digest(part) if isinstance(part, Tensor) else part for name, part in parts.items()}
    return blake3(json.dumps(plain, sort_keys=True).encode()).hexdigest()
