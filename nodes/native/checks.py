"""Checks of a native MODEL and its conditioning, and a description of them for the disk cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ...fatezero_ext.digests import tensor_digest
from ...fatezero_ext.errors import ModelError, SettingsError

log = logging.getLogger(__name__)

GUIDANCE = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)
"""Options in which other packs and nodes such as RescaleCFG put their functions."""
CONTROL = ("control", "control_apply_to_uncond")
"""Entries that ComfyUI's ControlNet nodes add to a conditioning."""
TRAINING_STEPS = 1000
EVOLVED = "ADE"
"""AnimateDiff-Evolved's name for the parts that it attaches to a MODEL."""
VIEWS = "view_as_context"
"""AnimateDiff-Evolved's schedule that samples any clip in parts."""
MOTION_INPUTS = {
    "orig_img_latents": "a reference picture (AnimateLCM-I2V)",
    "orig_camera_entries": "camera poses (CameraCtrl)",
    "orig_pia_images": "pictures (PIA)",
    "orig_fancy_images": "pictures (FancyVideo)",
    "orig_RT": "camera poses (MotionCtrl)",
}
"""Inputs of AnimateDiff-Evolved's motion models, by the attributes that hold them."""
CONTROL_OF_FRAMES = ("ControlNet", "ControlLora", "T2IAdapter")
PATCHES_OF_FRAMES = ("nodes_freelunch", "nodes_hypernetwork")
"""Files of ComfyUI's nodes (FreeU, Load Hypernetwork) whose patches treat each frame by itself."""
COMPILED = "torch.compile"
"""ComfyUI's name for the wrapper that compiles the model."""
IGNORED = ("pooled_output",)
"""Entries that a text encoder adds beside its embedding; Stable Diffusion 1.x and 2.x do not read them."""


def check_kind(model: Any) -> str:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Return ComfyUI's name for the model's kind; raises ModelError unless it is Stable Diffusion 1.x or 2.x."""
    if model is None:
        raise ModelError(
            "nothing is connected to unet, or the loaded file contains no UNet; a UNet or a MODEL is needed. Choose a "
            "whole checkpoint of Stable Diffusion 1.x or 2.x."
        )
    inner: Any = getattr(model, "model", None)
    kind = type(getattr(inner, "model_config", inner)).__name__
    net: Any = getattr(inner, "diffusion_model", None)
    if not all(hasattr(net, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise _unfit(kind, "it has no UNet")
    transformers = [
        module.transformer_blocks
        for block in (*net.input_blocks, net.middle_block, *net.output_blocks)
        for module in block
        if hasattr(module, "transformer_blocks")
    ]
    if not transformers or any(len(blocks) != 1 for blocks in transformers):
        raise _unfit(kind, "its attention layout differs")
    if net.in_channels != 4 or inner.concat_keys:
        raise _unfit(kind, f"it takes {net.in_channels} channels")
    if getattr(net, "num_classes", None) is not None:
        raise _unfit(kind, "it is conditioned on more than text")
    kinds = {base.__name__ for base in type(model.get_model_object("model_sampling")).__mro__}
    if "ModelSamplingDiscrete" not in kinds or "EDM" in kinds or "EPS" not in kinds:
        raise _unfit(kind, "its sampling is not that of noise or velocity")
    if (steps := len(model.get_model_object("model_sampling").sigmas)) != TRAINING_STEPS:
        raise _unfit(kind, f"its sampling has {steps} steps (as lcm has), not {TRAINING_STEPS}")
    _check_additions(model)
    return kind


def _check_additions(model: Any) -> None:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Raise ModelError for additions of other nodes that edits cannot follow."""
    if model.model_options.get("context_handler") is not None:
        raise _not_together(
            "context windows (as of Context Windows (Manual))",
            "Take that node out of the MODEL's way, and take fewer frames with Prepare Frames where memory is short",
        )
    if model.model_options.get("multigpu_clones") or _attached(model).get("multigpu"):
        raise ModelError(
            "the MODEL is spread over several GPUs (as by MultiGPU CFG Split), which compute the texts of a step "
            "apart; an edit reads one while it computes the other, on one GPU. Take that node out of the MODEL's way."
        )
    for motion in _attached(model).get(EVOLVED, ()):
        state = getattr(motion, "attachments", {}).get(EVOLVED)
        inputs = [name for attribute, name in MOTION_INPUTS.items() if getattr(state, attribute, None) is not None]
        if inputs:
            raise ModelError(
                f"AnimateDiff-Evolved's motion model on the MODEL has {' and '.join(inputs)}, which only its own "
                f"sampling brings in; edits would leave it out. Use a motion model without it."
            )


def check_frames_stay_together(model: Any, frames: int) -> None:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Raise ModelError if AnimateDiff-Evolved would sample a clip in pieces."""
    params = getattr(model, "attachments", {}).get(f"{EVOLVED}_params")
    options = getattr(params, "context_options", None)
    length = getattr(options, "context_length", None)
    views = any(getattr(each, "context_schedule", "") == VIEWS for each in getattr(options, "contexts", ()))
    at_equal = bool(getattr(options, "use_on_equal_length", False))
    remedy = "Take Context Options out"
    if views:
        length = frames
    elif isinstance(length, int) and length < frames + at_equal:
        remedy += f", or give it at most {length - at_equal} frames with Prepare Frames"
    else:
        return
    raise _not_together(
        f"AnimateDiff-Evolved's Context Options, with context_length {length} for {frames} frames", remedy
    )


def _not_together(what: str, remedy: str) -> ModelError:
    return ModelError(
        f"the MODEL has {what}, which cut the clip apart; edits need all its frames seen together. {remedy}."
    )


def _attached(model: Any) -> dict[str, Any]:  # noqa: ANN401 - ComfyUI's ModelPatcher
    return getattr(model, "additional_models", {})


def _unfit(kind: str, reason: str) -> ModelError:
    return ModelError(
        f"this MODEL ({kind}) is not supported: {reason}. FateZero needs Stable Diffusion 1.x or 2.x. Load a "
        f"checkpoint of one of these."
    )


def extras_of(conditioning: Any) -> dict[str, Any]:  # noqa: ANN401 - ComfyUI's CONDITIONING
    """Return the entries of a CONDITIONING that join every prompt: its ControlNets.

    Raises SettingsError for entries that edits cannot use.
    """
    if conditioning is None:
        return {}
    if len(conditioning) != 1:
        raise SettingsError(
            f"the conditioning has {len(conditioning)} parts; one with ControlNets is needed, its text is not used. "
            f"Apply the ControlNets to a single CLIP Text Encode."
        )
    entries = conditioning[0][1]
    foreign = sorted(name for name, value in entries.items() if name not in CONTROL + IGNORED and value is not None)
    if foreign:
        raise SettingsError(
            f"the conditioning also has {', '.join(foreign)}, which edits by words cannot use; only ControlNets can "
            f"take part. Take the nodes out that set it."
        )
    return {name: entries[name] for name in CONTROL if name in entries}


def warn_of_guidance(model: Any) -> None:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Log which functions of a MODEL take no part: edits have a guidance of their own."""
    functions = [name for name in GUIDANCE if model.model_options.get(name)]
    if functions:
        log.warning("The MODEL changes how guidance is computed (%s); edits do not ask it.", ", ".join(functions))


def uncacheable_parts(model: Any, extras: dict[str, Any]) -> str:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Return the names of a MODEL's parts that are functions, which cannot be hashed; '' if there are none."""
    options = model.model_options
    transformer = options.get("transformer_options", {})
    parts = {
        "a ControlNet": extras,
        "attention patches": transformer.get("patches") or transformer.get("patches_replace"),
        "a function around the model": options.get("model_function_wrapper"),
        "wrappers": any(model.wrappers.values()),
        "injections": model.injections,
        "hooks": model.hook_patches or model.forced_hooks,
        "replaced parts": set(model.object_patches) - {"model_sampling"},
        "functions on weights": model.weight_wrapper_patches or _functions(model.patches),
    }
    return " and ".join(name for name, present in parts.items() if present)


def parts_that_may_see_all_frames(model: Any, extras: dict[str, Any]) -> str:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Return the names of a MODEL's parts that may look at more than one frame of a batch; '' if there are none.

    Those of ComfyUI that are known to treat each frame by itself are left out, and what changes weights alone.
    """
    transformer = model.model_options.get("transformer_options", {})
    patches = [patch for patches in transformer.get("patches", {}).values() for patch in patches]
    wrappers = {key for kinds in model.wrappers.values() for key, found in kinds.items() if found}
    parts = {
        "a ControlNet of another pack": not all(map(is_of_frames, control_chain(extras.get("control")))),
        "attention patches": not all(map(_patch_is_of_frames, patches)) or transformer.get("patches_replace"),
        "a function around the model": model.model_options.get("model_function_wrapper"),
        "wrappers": wrappers - {COMPILED},
        "injections": model.injections,
        "hooks": model.hook_patches or model.forced_hooks,
        "replaced parts": set(model.object_patches) - {"model_sampling"},
    }
    return " and ".join(name for name, present in parts.items() if present)


def control_chain(control: Any) -> Iterator[Any]:  # noqa: ANN401 - ComfyUI's ControlBase
    """Yield a ControlNet and those before it."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def is_of_frames(control: Any) -> bool:  # noqa: ANN401 - ComfyUI's ControlBase
    """Return whether a ControlNet is one of ComfyUI's own, which treat each picture of a batch by itself."""
    kind = type(control)
    return kind.__module__ == "comfy.controlnet" and kind.__name__ in CONTROL_OF_FRAMES


def _patch_is_of_frames(patch: Any) -> bool:  # noqa: ANN401 - a function, or an object that is called
    code = getattr(patch, "__code__", None) or getattr(type(patch).__call__, "__code__", None)
    source = Path(getattr(code, "co_filename", ""))
    return source.parent.name == "comfy_extras" and source.stem in PATCHES_OF_FRAMES


def _functions(patches: dict[str, Any]) -> bool:
    return any(callable(entry[-1]) for entries in patches.values() for entry in entries)


def described_patches(patches: dict[str, Any]) -> list[object]:
    """Describe weight patches as plain values, alike in every process: tensors by their digests."""
    return [
        [str(key), _described(entries)] for key, entries in sorted(patches.items(), key=lambda entry: str(entry[0]))
    ]


def _described(value: Any) -> object:  # noqa: ANN401 - whatever ComfyUI's adapters hold
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, (list, tuple)):
        return [_described(entry) for entry in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return [type(value).__name__, _described(getattr(value, "weights", None))]
