"""Names of saved inversions: digests of all that they depend on, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from ..attention.records import Form
from ..attention.sites import LayerAddress
from ..digests import combined
from ..storage.disk_cache.completeness import LAYERS, PARTS
from ..storage.disk_cache.manifest import JSON
from ..storage.settings import Storage
from .plan import InversionPlan
from .storage_plan import kept_as

RECORDS = 2
"""Version of saved inversions. Older ones are not found: threads that shared a model could mix up their attention, and
numbers that are not finite were saved."""


def cache_key(plan: InversionPlan, text: Tensor, storage: Storage, guided: tuple[Tensor, float] | None) -> str:
    """Return the cache key: a digest of everything the stored tensors depend on.

    text:   [1, tokens, width] embedding of the source prompt
    guided: texts [2 or 1, tokens, width] and guidance of a reconstruction, if there is one
    """
    schedule = plan.schedule
    # Named only where there are some, so that inversions saved without them are found.
    passes = {"passes": plan.inversion_passes} if plan.inversion_passes else {}
    # Features once shared 8-bit scales over all frames: such inversions are not found.
    scaled = storage.policy == "features" and storage.precision == "int8"
    scales = {"scales": "of each frame"} if scaled else {}
    return combined(
        {
            "records": RECORDS,
            "unet": plan.unet.digest(),
            "dtype": str(plan.unet.dtype),
            "schedule": [schedule.timesteps, schedule.alphas, schedule.final_alpha, schedule.prediction_type],
            "latents": plan.latents,
            "text": text,
            "guided": guided and [combined({"texts": guided[0]}), guided[1]],
            "capture": [plan.capture.most_cells, plan.capture.self_attention],
            "kept": "latents" if storage.recomputes else [storage.policy, storage.precision],
            **passes,
            **scales,
        }
    )


def entry_about(
    plan: InversionPlan, storage: Storage, forms: Mapping[LayerAddress, Form], parts: Sequence[Sequence[int]]
) -> Mapping[str, JSON]:
    """Return what `cache list` shows of an entry, and what its files are.

    parts: frames of each part of a page; none: pages are whole
    """
    cell = plan.unet.latent_format.pixels_per_cell
    height, width = plan.size
    return {
        "model": plan.unet.name,
        "prompt": plan.prompt.text,
        "frames": plan.frames,
        "size": [width * cell, height * cell],
        "steps": len(plan.schedule),
        "policy": kept_as(storage),
        LAYERS: [str(at) for at in forms],
        **({PARTS: cast("JSON", parts)} if parts and forms else {}),
    }
