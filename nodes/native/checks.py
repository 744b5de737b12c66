"""What a native MODEL and its conditioning must be, and what of them no key can name."""

from __future__ import annotations

import logging
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
"""Where other packs and nodes such as RescaleCFG put their functions."""
CONTROL = ("control", "control_apply_to_uncond")
"""What ComfyUI's ControlNet nodes leave in a conditioning."""
TRAINING_STEPS = 1000
EVOLVED = "ADE"
"""AnimateDiff-Evolved's name for what it leaves on a MODEL."""
VIEWS = "view_as_context"
"""Its schedule that looks at parts of any clip."""
MOTION_INPUTS = {
    "orig_img_latents": "a reference picture (AnimateLCM-I2V)",
    "orig_camera_entries": "camera poses (CameraCtrl)",
    "orig_pia_images": "pictures (PIA)",
    "orig_fancy_images": "pictures (FancyVideo)",
    "orig_RT": "camera poses (MotionCtrl)",
}
"""Its motion models' inputs, by where they keep them."""
PASSED_OVER = ("pooled_output",)
"""What a text encoder leaves there beside its embedding; Stable Diffusion 1.x and 2.x do not read it."""


def check_kind(model: Any) -> str:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """The model's kind as ComfyUI names it; raises ModelError unless it is Stable Diffusion 1.x or 2.x."""
    if model is None:
        raise ModelError(
            "unet is nothing; a UNet or a MODEL is needed, and the file that was loaded may have none. Choose a whole "
            "checkpoint of Stable Diffusion 1.x or 2.x."
        )
    inner = getattr(model, "model", None)
    kind = type(getattr(inner, "model_config", inner)).__name__
    net = getattr(inner, "diffusion_model", None)
    if not all(hasattr(net, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise _unfit(kind, "it has no UNet")
    transformers = [
        module.transformer_blocks
        for block in (*net.input_blocks, net.middle_block, *net.output_blocks)
        for module in block
        if hasattr(module, "transformer_blocks")
    ]
    if not transformers or any(len(blocks) != 1 for blocks in transformers):
        raise _unfit(kind, "its attention is laid out otherwise")
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
    """Raise ModelError for what nodes in front put on a MODEL that works in a way edits cannot follow."""
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
        held = getattr(motion, "attachments", {}).get(EVOLVED)
        inputs = [name for attribute, name in MOTION_INPUTS.items() if getattr(held, attribute, None) is not None]
        if inputs:
            raise ModelError(
                f"AnimateDiff-Evolved's motion model on the MODEL has {' and '.join(inputs)}, which only its own "
                f"sampling brings in; edits would leave it out. Use a motion model without it."
            )


def check_frames_stay_together(model: Any, frames: int) -> None:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Raise ModelError where AnimateDiff-Evolved would sample a clip in pieces."""
    params = getattr(model, "attachments", {}).get(f"{EVOLVED}_params")
    options = getattr(params, "context_options", None)
    length = getattr(options, "context_length", None)
    views = any(getattr(each, "context_schedule", "") == VIEWS for each in getattr(options, "contexts", ()))
    at_equal = bool(getattr(options, "use_on_equal_length", False))
    if views or isinstance(length, int) and length < frames + at_equal:
        raise _not_together(
            f"AnimateDiff-Evolved's Context Options, with context_length {frames if views else length} for {frames} "
            f"frames",
            "Take Context Options out"
            if views
            else f"Take Context Options out, or give it at most {length - at_equal} frames with Prepare Frames",
        )


def _not_together(what: str, remedy: str) -> ModelError:
    return ModelError(
        f"the MODEL has {what}, which cut the clip apart; edits need all its frames seen together. {remedy}."
    )


def _attached(model: Any) -> dict[str, Any]:  # noqa: ANN401 - ComfyUI's ModelPatcher
    return getattr(model, "additional_models", {})


def _unfit(kind: str, reason: str) -> ModelError:
    return ModelError(
        f"the MODEL is of kind {kind}, and {reason}; FateZero works on Stable Diffusion 1.x and 2.x. Load a checkpoint "
        f"of these."
    )


def extras_of(conditioning: Any) -> dict[str, Any]:  # noqa: ANN401 - ComfyUI's CONDITIONING
    """What of a CONDITIONING joins every prompt: its ControlNets. Raises SettingsError for what cannot."""
    if conditioning is None:
        return {}
    if len(conditioning) != 1:
        raise SettingsError(
            f"the conditioning has {len(conditioning)} parts; one with ControlNets is needed, its text is not used. "
            f"Apply the ControlNets to a single CLIP Text Encode."
        )
    found = conditioning[0][1]
    foreign = sorted(name for name, value in found.items() if name not in CONTROL + PASSED_OVER and value is not None)
    if foreign:
        raise SettingsError(
            f"the conditioning also has {', '.join(foreign)}, which edits by words cannot use; only ControlNets can "
            f"take part. Take the nodes out that set it."
        )
    return {name: found[name] for name in CONTROL if name in found}


def warn_of_guidance(model: Any) -> None:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """Say what of a MODEL does not take part: edits have a guidance of their own."""
    found = [name for name in GUIDANCE if model.model_options.get(name)]
    if found:
        log.warning("The MODEL changes how guidance is computed (%s); edits do not ask it.", ", ".join(found))


def nameless_parts(model: Any, extras: dict[str, Any]) -> str:  # noqa: ANN401 - ComfyUI's ModelPatcher
    """What of a MODEL is a program and not a weight, for people; empty where all of it has a content to be named by."""
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
    return " and ".join(name for name, found in parts.items() if found)


def _functions(patches: dict[str, Any]) -> bool:
    return any(callable(entry[-1]) for entries in patches.values() for entry in entries)


def described_patches(patches: dict[str, Any]) -> list[object]:
    """Weight patches as plain values that say the same in every process: tensors by their digests."""
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
