"""Bytes that an inversion will store, from shapes alone, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from ..attention.controlled_layer import ControlledLayer, kept_form
from ..attention.records import FORMS, PRECISIONS, Form
from ..attention.sites import LayerAddress, Site
from ..choices import Precision
from ..diffusion.noise_model import NoiseModel
from .recording import Capture
from .trace import levels_dtype

RecordPolicy = Literal["features", "maps"]
"""Policies under which attention is stored."""


@dataclass(frozen=True)
class ClipShape:
    """Shape of a clip and its prompt: frames, height and width in latent cells, tokens of the text embedding."""

    frames: int
    height: int
    width: int
    tokens: int


def recorded_forms(
    unet: NoiseModel, capture: Capture, policy: RecordPolicy, clip: ClipShape
) -> dict[LayerAddress, Form]:
    """Return the form in which each recorded layer is stored; layers that are not recorded are left out."""
    sites = unet.sites(clip.frames, clip.height, clip.width)
    return {
        layer.address: kept_form(layer, clip.tokens) if policy == "features" else "map"
        for layer in unet.layers
        if capture.covers(sites[layer.address])
    }


def step_bytes(unet: NoiseModel, forms: Mapping[LayerAddress, Form], precision: Precision, clip: ClipShape) -> int:
    """Return the bytes of one step's records."""
    sites = unet.sites(clip.frames, clip.height, clip.width)
    itemsize = (PRECISIONS[precision] or unet.dtype).itemsize
    total = 0
    for layer in unet.layers:
        if form := forms.get(layer.address):
            shape = _kept_shape(layer, sites[layer.address], form, clip)
            total += prod(shape) * itemsize
            if precision == "int8":
                shared = {axis % len(shape) for axis in FORMS[form].shared}
                total += prod(side for axis, side in enumerate(shape) if axis not in shared) * torch.float32.itemsize
    return total


def levels_size(unet: NoiseModel, steps: int, clip: ClipShape, *, evaluated: bool = False) -> int:
    """Return the bytes of all levels' latents, of the noise that edits start from and of the prompt's embedding.

    evaluated: whether the latents that the UNet was called on are stored too, see `Trace`
    """
    stored = steps + 1 + (steps if evaluated else 0)
    level = clip.frames * unet.channels * clip.height * clip.width
    text = clip.tokens * unet.text_width * torch.float32.itemsize
    return stored * level * levels_dtype(unet.dtype).itemsize + level * torch.float32.itemsize + text


def _kept_shape(layer: ControlledLayer, site: Site, form: Form, clip: ClipShape) -> tuple[int, ...]:
    if form == "features":
        queries = (site.frames, layer.heads, site.cells, layer.dim_head)
        return queries if site.is_cross else (site.frames, site.cells, layer.query_dim)
    added = site.cells if layer.added_keys else 0
    keys = clip.tokens + added if site.is_cross else site.cells * max(1, len(site.key_frames))
    return (site.frames, layer.heads, site.cells, keys)
