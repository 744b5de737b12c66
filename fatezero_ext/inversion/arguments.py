"""Checks of the arguments of Python callers: an error names what came in place of what, and says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..diffusion.noise_model import NoiseModel
from ..errors import ModelError, PromptError, SettingsError, StoreError, described, is_whole

RAW = "[frames, channels, height, width] with at least one frame, raw latents of a VAE, are needed"
COLOURS = 3
MOST_PASSES = 10
"""Most fixed-point passes of an inversion step: two bring the built-in model far closer than its VAE can show."""


def check_text_encoder(text_encoder: object) -> None:
    """Raise PromptError if something came in place of a text encoder; None is left to `read_prompt`."""
    needed = ("tokenize", "encode_from_tokens_scheduled")
    if text_encoder is None or all(hasattr(text_encoder, name) for name in needed):
        return
    advice = "Give the `text_encoder` of a loaded model, or a CLIP of ComfyUI."
    if hasattr(text_encoder, "vae") and hasattr(text_encoder, "text_encoder"):
        advice = "A model's text encoder is a part of it: give model.text_encoder."
    elif hasattr(text_encoder, "tokenize") or hasattr(text_encoder, "tokenizer"):
        advice = "A tokenizer or bare network is a part of it: give the `text_encoder` of load_model(...)."
    raise PromptError(
        f"{described(text_encoder)} came in place of the text encoder; a text encoder is needed. {advice}"
    )


def check_unet(unet: object) -> None:
    """Raise ModelError if something came in place of a UNet under control."""
    if all(hasattr(unet, name) for name in ("layers", "schedule", "run")):
        return
    advice = "Load one with load_model(path).unet or load_unet(path)."
    if hasattr(unet, "unet"):
        advice = "A model's UNet is its `unet`: give model.unet."
    raise ModelError(
        f"{described(unet)} came in place of the UNet; a UNet with layers under control is needed. {advice}"
    )


def check_controller(controller: object) -> None:
    """Raise StoreError if something came in place of a Controller."""
    if not (hasattr(controller, "unet") and hasattr(controller, "storage")):
        raise StoreError(
            f"{described(controller)} came in place of the controller; a Controller is needed. Make one with "
            f"Controller(model.unet); an edit takes what invert(...) returned."
        )


def check_passes(passes: object) -> None:
    """Raise SettingsError unless this can be a number of fixed-point passes."""
    if not is_whole(passes, 0, MOST_PASSES):
        raise SettingsError(
            f"inversion_passes is {described(passes)}; a whole number of 0 to {MOST_PASSES} is needed. 1 suits most "
            f"clips; 0 is plain DDIM inversion."
        )


def check_latents(latents: object, unet: NoiseModel) -> None:
    """Raise StoreError or ModelError unless these can be a clip's raw latents [frames, channels, height, width]."""
    if not isinstance(latents, Tensor):
        raise StoreError(
            f"{described(latents)} came in place of the clip's latents; {RAW}. {_in_place_of_a_tensor(latents)}"
        )
    came = f"the clip's latents are shaped {list(latents.shape)}"
    if latents.ndim != 4 or not latents.numel():
        advice = "Encode the frames of one clip with the VAE."
        if latents.ndim == 5 and len(latents) == 1 and latents.shape[1] == unet.channels:
            advice += " If these are [1, channels, frames, height, width], give latents[0].transpose(0, 1)."
        raise StoreError(f"{came}; {RAW}. {advice}")
    frames, channels = latents.shape[:2]
    if channels != unet.channels:
        came = f"{came}, with {channels} channels; {RAW}, with {unet.channels} channels"
        if frames == unet.channels:
            raise ModelError(f"{came}. If these are [channels, frames, height, width], give latents.transpose(0, 1).")
        if COLOURS in (channels, latents.shape[-1]):
            axes = "" if latents.shape[-1] == COLOURS else ".permute(0, 2, 3, 1)"
            raise ModelError(f"{came}. These look like frames: give model.vae.encode(frames{axes}), of values 0..1.")
    unet.check_latents(latents)
    if not latents.is_floating_point():
        raise StoreError(
            f"{came} of {latents.dtype}; numbers with a fraction are needed. Convert them: latents.float()."
        )
    if not latents.isfinite().all():
        raise StoreError(
            "the clip's latents hold values that are not finite; numbers are needed. Encode the frames again, with the "
            "VAE in float32 if it was in half precision."
        )


def _in_place_of_a_tensor(latents: object) -> str:
    if isinstance(latents, (str, Path)):
        return "Read the video and encode it: model.vae.encode(read_video(path).frames)."
    if isinstance(latents, Mapping) and "samples" in latents:
        return "A LATENT of ComfyUI has them under 'samples': give latents['samples']."
    if hasattr(latents, "frames") and hasattr(latents, "fps"):
        return "Encode the frames of the video: model.vae.encode(video.frames)."
    if hasattr(latents, "__array__"):
        return "Convert the array with torch.from_numpy, if it holds latents; encode it if it holds frames."
    return "Encode the frames of one clip: model.vae.encode(frames)."
