"""The words that users choose from, as settings check them and nodes list them; what they stand for is elsewhere."""

from __future__ import annotations

from typing import Literal, get_args

Policy = Literal["auto", "features", "maps", "recompute", "recompute same level"]
"""How attention is kept; see `Storage`."""
Place = Literal["auto", "gpu", "ram", "disk"]
"""Where it is kept."""
Precision = Literal["as computed", "float32", "float16", "bfloat16", "int8"]
"""In which numbers."""
Kernel = Literal["auto", "sdpa", "xformers", "sliced", "explicit"]
"""How attention that is neither recorded as a map nor edited is computed; see `kernel`."""
Side = Literal["queries", "keys"]
"""Whose places self-attention is looked at from; see `principal_components`."""

POLICIES: tuple[Policy, ...] = get_args(Policy)
PLACES: tuple[Place, ...] = get_args(Place)
PRECISION_NAMES: tuple[Precision, ...] = get_args(Precision)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
SIDES: tuple[Side, ...] = get_args(Side)
