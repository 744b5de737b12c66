"""Choice of the kernel for attention that is neither recorded as a map nor edited, by what the machine can do."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..choices import KERNELS, Kernel
from ..errors import SettingsError
from .functional import Attend, explicit, gather_key_frames, plain, sliced
from .sites import Site

MAPS_AT_ONCE = 8  # of 64x64 cells with two key frames in half precision: 0.5 GiB
KEYS_ALIGNMENT = 8  # 16 bytes in half precision, 32 in float32
_PROBING = threading.Lock()
"""Torch's choice of kernels is a setting of the whole process: two probes at once would restore each other's."""
HEAD_DIM = 40  # the smallest of Stable Diffusion 1.x, whose rows are the least aligned


def memory_efficient(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """Compute the same attention with xformers, which is imported when it is first used.

    Source: xformers, memory_efficient_attention; it takes the heads behind the tokens.
    """
    ops = import_module("xformers.ops")
    keys, values = gather_key_frames(k, site), gather_key_frames(v, site)
    bias = None if site.bias is None else _aligned(site.bias.to(q.dtype), q, keys)
    heads_last = (x.transpose(1, 2) for x in (q, keys, values))
    out: Tensor = ops.memory_efficient_attention(*heads_last, attn_bias=bias)
    return out.transpose(1, 2)


def _aligned(bias: Tensor, q: Tensor, keys: Tensor) -> Tensor:
    """Return a bias as xformers takes it, expanded over the heads.

    Its rows must begin at multiples of 16 bytes, which 77 keys do not give: they are a slice of wider ones.
    """
    batch, heads, cells, _dim = q.shape
    count = keys.shape[2]
    wide = bias.new_empty(batch, bias.shape[1], cells, -(-count // KEYS_ALIGNMENT) * KEYS_ALIGNMENT)
    return wide[..., :count].copy_(bias).expand(-1, heads, -1, -1)


def kernel(name: Kernel, device: torch.device, dtype: torch.dtype) -> Attend:
    """Return the kernel of a name; "auto": the first of sdpa, xformers and sliced that never makes whole maps there.

    Raises SettingsError for xformers if it cannot compute on the device.
    """
    if name not in KERNELS:
        raise SettingsError(f"the attention kernel is {name!r}; it must be one of {', '.join(KERNELS)}. Choose one.")
    if name == "auto":
        name = "sdpa" if has_fused_sdpa(device, dtype) else "xformers" if has_xformers(device) else "sliced"
    if name == "xformers" and not has_xformers(device):
        raise SettingsError(
            f"xformers is asked for, but it is not installed, is broken or has no kernels for the device "
            f"{device.type!r}; sdpa computes the same. Choose auto or sdpa, or install xformers for a GPU."
        )
    kernels = {"sdpa": plain, "xformers": memory_efficient, "sliced": sliced(MAPS_AT_ONCE), "explicit": explicit}
    return kernels[name]


def has_xformers(device: torch.device) -> bool:
    """Return whether xformers can be imported and has kernels for the device; it has none for CPUs."""
    if device.type != "cuda":
        return False
    try:  # one that was built for another torch is installed all the same
        import_module("xformers.ops")
    except (ImportError, OSError, AttributeError, RuntimeError):
        return False
    return True


@cache
def has_fused_sdpa(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch computes attention on the device without making whole maps."""
    if device.type != "cuda":
        return device.type in ("cpu", "mps")
    row = torch.zeros(1, 1, 16, HEAD_DIM, device=device, dtype=dtype)
    try:
        with _PROBING, sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            F.scaled_dot_product_attention(row, row, row)
    except RuntimeError:  # "no available kernel"
        return False
    return True
