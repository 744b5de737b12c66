"""What makes one inversion the same as another: a key for the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn


def tensor_digest(x: Tensor) -> str:
    """Of a tensor's dtype, shape and bytes."""
    found = hashlib.sha256(f"{x.dtype} {list(x.shape)} ".encode())
    found.update(memoryview(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def weights_digest(net: nn.Module) -> str:
    """Of every weight and buffer by name: all bytes are read, since weights may be changed in place."""
    weights = sorted(net.state_dict().items())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter free
        digests = pool.map(tensor_digest, [tensor for _name, tensor in weights])
        lines = [f"{name} {digest}" for (name, _tensor), digest in zip(weights, digests, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def combined(parts: Mapping[str, object]) -> str:
    """One digest of named parts: tensors by their bytes, all else as JSON."""
    plain = {name: tensor_digest(part) if isinstance(part, Tensor) else part for name, part in parts.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
