"""The choices that settings check and nodes list."""

from __future__ import annotations

from typing import Literal, get_args

Policy = Literal["auto", "features", "maps", "recompute", "recompute same level"]
"""Form in which attention is stored; see `Storage`."""
Place = Literal["auto", "gpu", "ram", "disk"]
"""Place where attention is stored; see `Storage`."""
Precision = Literal["as computed", "float32", "float16", "bfloat16", "int8"]
"""Number format in which attention is stored; see `Storage`."""
Kernel = Literal["auto", "sdpa", "xformers", "sliced", "explicit"]
"""Implementation of attention that is neither recorded as a map nor edited; see `kernel`."""
Side = Literal["queries", "keys"]
"""Side of self-attention whose principal components are shown; see `principal_components`."""
Recipe = Literal["fatezero", "tune-a-video"]
"""Published choice of what tuning trains; see `TuningSettings`."""
World = Literal["shapes", "objects"]
"""World that a built-in model draws: coloured shapes, or animals and things beside them."""

POLICIES: tuple[Policy, ...] = get_args(Policy)
PLACES: tuple[Place, ...] = get_args(Place)
PRECISION_NAMES: tuple[Precision, ...] = get_args(Precision)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
SIDES: tuple[Side, ...] = get_args(Side)
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
