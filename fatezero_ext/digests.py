"""What makes one inversion the same as another: a key for the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

WORD = 8  # bytes that are multiplied at once
ROW = 512  # words under one key: 4 KiB become one sum, so that little is left to hash
CPU_ROWS = 256  # at once: 1 MiB, which stays in the processor's cache between the steps of one sum
DEVICE_ROWS = 2**13  # at once: temporaries of 64 MiB in all beside the weights


def tensor_digest(x: Tensor) -> str:
    """Of a tensor's dtype, shape and bytes."""
    found = hashlib.sha256(f"{x.dtype} {list(x.shape)} ".encode())
    found.update(memoryview(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Of every weight and buffer by name, dtype, shape and content, the same on every device.

    All bytes are looked at each time, since weights may be changed in place, but where they lie: each 4 KiB become
    one 64-bit sum, and only the sums are hashed. On a processor this is three to four times as fast as hashing the
    bytes (benchmarks/fingerprint.py); an accelerator's weights stay on it.
    """
    found, named = hashlib.sha256(), sorted(weights.items())
    on_device = any(x.device.type != "cpu" for x in weights.values())  # it has threads of its own, and memory is short
    with ThreadPoolExecutor(1 if on_device else os.cpu_count()) as pool:  # summing leaves the interpreter free
        for (name, x), sums in zip(named, pool.map(row_sums, [x for _name, x in named]), strict=True):
            found.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
            found.update(sums.tobytes())
    return found.hexdigest()


def row_sums(x: Tensor) -> np.ndarray:
    """One 64-bit sum of each 4 KiB of a tensor's bytes, in the order of a contiguous tensor.

    Returns [rows] int64; the last row is filled up with zeros.
    A sum multiplies each 32-bit half word by a key of its own, modulo 2**64 (multilinear hashing). Changing one word
    always changes it, for the keys are odd. Any other change in the row leaves it as it was in about one case of
    2**64; where nothing but sign bits change, in one of 2**33.
    """
    content = x.detach().contiguous().view(-1).view(torch.uint8)
    whole = content.numel() // (ROW * WORD) * ROW * WORD
    rest = content[whole:]
    filled = rest.new_zeros(ROW * WORD if len(rest) else 0)
    filled[: len(rest)] = rest
    sums = [_words_sums(part) for part in (content[:whole], filled) if len(part)]
    return np.concatenate(sums) if sums else np.empty(0, np.int64)


def _words_sums(content: Tensor) -> np.ndarray:
    """content: whole rows of bytes"""
    if content.data_ptr() % WORD or content.storage_offset() % WORD:
        content = content.clone()  # words of 64 bits begin at every eighth byte
    rows = content.view(torch.int64).view(-1, ROW)
    if rows.device.type == "cpu":
        return np.concatenate(
            [_numpy_sums(rows.numpy()[start : start + CPU_ROWS]) for start in range(0, len(rows), CPU_ROWS)]
        )
    return torch.cat([_torch_sums(part) for part in rows.split(DEVICE_ROWS)]).cpu().numpy()


def _numpy_sums(rows: np.ndarray) -> np.ndarray:
    """NumPy multiplies and adds integers in one pass, which torch does not."""
    low, high = _keys()
    return np.einsum("rw,w->r", rows, low) + np.einsum("rw,w->r", rows >> 32, high)


def _torch_sums(rows: Tensor) -> Tensor:
    low, high = (torch.from_numpy(key).to(rows.device) for key in _keys())
    return (rows * low).add_((rows >> 32).mul_(high)).sum(1)


@cache
def _keys() -> tuple[np.ndarray, np.ndarray]:
    """[512] odd int64, twice: of a whole word, and of its upper half on top of that.

    They are fixed, so that what is saved today is found by every later program.
    """
    drawn = hashlib.shake_256(b"FateZero weights").digest(2 * ROW * WORD)
    low, high = np.frombuffer(drawn, "<i8").astype(np.int64).reshape(2, ROW) | 1
    return low, high


def combined(parts: Mapping[str, object]) -> str:
    """One digest of named parts: tensors by their bytes, all else as JSON."""
    plain = {name: tensor_digest(part) if isinstance(part, Tensor) else part for name, part in parts.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
