"""UNets that were tuned on a clip, as FateZero's and Tune-A-Video's own training write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import ModelError
from ...untrusted.plain_files import shown
from ..unet.inflate import TemporalLayers
from ..weight_files import brief
from .detect import FATEZERO, PLAIN, TUNE_A_VIDEO, UNET_CLASSES

TUNE_A_VIDEO_NAMES = {".attn_temp.": ".attn_temporal.", ".norm_temp.": ".norm_temporal."}
"""Tune-A-Video's names of the layers that attend over time, and ours, which are FateZero's."""
CONVOLUTION, RANK_KEY = ".conv_temporal.", ".conv_temporal.down.weight"
OTHER_VIDEO_UNETS = (
    ("a text-to-video UNet (ModelScope)", (".temp_convs.", ".temp_attentions.", "transformer_in.")),
    ("a UNet with motion modules (AnimateDiff)", (".motion_modules.", "motion_module.")),
)
"""Other programs' UNets of the same class name, by names of their tensors."""


def tuned_kind(config: Mapping[str, object], path: Path) -> str:
    """Return the class of a UNet tuned on a clip, or "" for a 2-D one; raises ModelError for other classes."""
    name = config.get("_class_name", PLAIN)
    if name not in UNET_CLASSES:
        raise ModelError(
            f"{path} describes {shown(name)}; a UNet of Stable Diffusion 1.x / 2.x ({', '.join(UNET_CLASSES)}) is "
            f"needed. Use a model of that kind."
        )
    return "" if name == PLAIN else str(name)


def two_dimensional(config: Mapping[str, object]) -> dict[str, object]:
    """Return the config of the 2-D UNet inside a tuned one: the same, with 2-D block names."""
    return {key: _block_name(value) for key, value in config.items()}


def our_names(shapes: Mapping[str, tuple[int, ...]], tuned: str, folder: Path) -> dict[str, str]:
    """Map our name of each tensor of a UNet to the file's.

    tuned: from `tuned_kind`
    Raises ModelError for UNets of other programs, and for tuned weights beside a plain config.
    """
    for kind, marks in OTHER_VIDEO_UNETS:
        if found := [key for key in shapes if any(mark in key for mark in marks)]:
            raise ModelError(
                f"{folder} is {kind}: it has {brief(sorted(found))}; a UNet of Stable Diffusion 1.x / 2.x, plain or "
                f"tuned on a clip, is needed. Use one of that kind."
            )
    names = {}
    for key in shapes:
        name = key
        for theirs, ours in TUNE_A_VIDEO_NAMES.items():
            name = name.replace(theirs, ours)
        names[name] = key
    over_time = sorted(key for name, key in names.items() if "_temporal." in name)
    if over_time and not tuned:
        raise ModelError(
            f"{folder} holds more than its config describes: {brief(over_time)} unknown. A UNet tuned on a clip needs "
            f"the config it was saved with ({FATEZERO} or {TUNE_A_VIDEO}); restore it."
        )
    return names


def temporal_layers(
    names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], tuned: str, requested: TemporalLayers | None
) -> TemporalLayers:
    """Recognise the temporal layers of a tuned UNet.

    names:     from `our_names`
    tuned:     from `tuned_kind`
    requested: where attention over time stands; None: behind the feed-forward, as both programs train it
    """
    found = {name: shapes[key] for name, key in names.items()}
    ranks = {
        name.removesuffix(RANK_KEY): shape[0] for name, shape in found.items() if name.endswith(RANK_KEY) and shape
    }
    return TemporalLayers(
        rank=max(ranks.values(), default=None),
        position=requested.position if requested else "after_feedforward",
        ranks=ranks,
        convolutions=tuned == FATEZERO or any(CONVOLUTION in name for name in names),
    )


def _block_name(value: object) -> object:
    if isinstance(value, list):
        return [_block_name(item) for item in value]
    return value.replace("Pseudo3D", "2D").replace("3D", "2D") if isinstance(value, str) else value
