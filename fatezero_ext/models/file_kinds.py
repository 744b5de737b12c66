"""What a file of weights is, told from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..prompts.words import PROMPT_TOKENS

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
EMA = "model_ema."
CONTEXT_KEY = "transformer_blocks.0.attn2.to_k.weight"
FAMILIES = {768: "sd1", 1024: "sd2"}
LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
LABEL_WIDTHS = {2816: "an SDXL model", 2560: "an SDXL refiner"}
CHANNELS = {5: "depth or inpainting", 7: "upscaler", 8: "instruct-pix2pix", 9: "inpainting"}
EMBEDDING_WIDTHS = (768, 1024, 1280)
EMBEDDING, EMBEDDINGS_HOME = "a textual inversion embedding", "Put it into models/embeddings."
LOAD_SD = "Choose one of that kind"


@dataclass(frozen=True)
class Kind:
    """What a file is.

    family: "sd1" or "sd2" for a whole checkpoint that can be loaded, else ""
    name:   for people
    advice: where such a file belongs
    """

    family: str
    name: str
    advice: str = f"{LOAD_SD}."


def kind_of(shapes: Shapes) -> Kind:
    """The kind of a state dict; an unknown one has a name that says so."""
    for found in (_adapter(shapes), _other_family(shapes), _part(shapes), _checkpoint(shapes)):
        if found is not None:
            return found
    if len(shapes) <= 4 and _are_rows(shapes):
        return Kind("", EMBEDDING, EMBEDDINGS_HOME)
    return Kind("", "no kind of model that is known here")


def _any(shapes: Shapes, *parts: str) -> bool:
    return any(part in key for key in shapes for part in parts)


def _starts(shapes: Shapes, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in shapes)


def _adapter(shapes: Shapes) -> Kind | None:
    """Files that change or steer a model."""
    if _any(shapes, "lora_down.", "lora_up.", ".lora_A.", ".lora_B.", ".lora.down", "_lora.down", "hada_w1", "lokr_w"):
        return Kind("", "a LoRA", "Load a checkpoint first, then this file with Load LoRA (FateZero).")
    if _starts(shapes, "control_model.", "controlnet_cond_embedding.", "input_hint_block."):
        return Kind("", "a ControlNet", "Load it with Load ControlNet Model, beside a checkpoint.")
    if _starts(shapes, "ip_adapter.", "image_proj."):
        return Kind("", "an IP-Adapter", f"{LOAD_SD}, and this file with its own nodes.")
    if _any(shapes, "motion_modules.", "temporal_transformer."):
        return Kind("", "a motion module (AnimateDiff)", f"{LOAD_SD}; motion modules are not used here.")
    if _starts(shapes, "adapter.") or (_starts(shapes, "body.") and _any(shapes, "block1", "in_conv")):
        return Kind("", "a T2I-Adapter", f"{LOAD_SD}, and this file with Load ControlNet Model.")
    named = any(key in ("emb_params", "string_to_param", "clip_l", "clip_g", "*") for key in shapes)
    if len(shapes) <= 4 and named:
        return Kind("", EMBEDDING, EMBEDDINGS_HOME)
    return None


def _are_rows(shapes: Shapes) -> bool:
    """Whether all are a few rows as wide as a text encoder; some embeddings have no name but the user's."""
    return bool(shapes) and all(
        shape and shape[-1] in EMBEDDING_WIDTHS and (len(shape) == 1 or len(shape) == 2 and shape[0] <= PROMPT_TOKENS)
        for shape in shapes.values()
    )


def _other_family(shapes: Shapes) -> Kind | None:
    """Models of other families."""
    if _any(shapes, "double_blocks.0.img_attn", "single_transformer_blocks.0."):
        return Kind("", "a Flux model")
    if _any(shapes, "joint_blocks.0.", "transformer_blocks.0.attn.add_q_proj"):
        return Kind("", "a Stable Diffusion 3 model")
    if _any(shapes, ".time_stack.", ".time_mixer."):
        return Kind("", "a Stable Video Diffusion model")
    if any(key.startswith("conditioner.embedders.1.") for key in shapes):
        return Kind("", "an SDXL checkpoint")
    if any(
        key.startswith("conditioner.embedders.0.model.") and _side(shape, 0) == 1280 for key, shape in shapes.items()
    ):
        return Kind("", "an SDXL refiner")
    labels = next((shape for key, shape in shapes.items() if key.endswith(LABELS)), None)
    if labels is None:
        return None
    return Kind("", LABEL_WIDTHS.get(_side(labels, -1), "a UNet conditioned on more than text"))


def _side(shape: tuple[int, ...], place: int) -> int:
    """The size of one dimension; 0 where there is none, whatever the tensor's name promises."""
    return shape[place] if -len(shape) <= place < len(shape) else 0


def _part(shapes: Shapes) -> Kind | None:
    """Parts of a checkpoint."""
    if _starts(shapes, UNET, EMA):
        return None
    if _side(shapes.get("conv_in.weight", ()), 1) == 4 and _starts(shapes, "down_blocks."):
        return Kind("", "a UNet in diffusers' layout", "Keep it as a folder with its config.json in models/diffusers.")
    if _starts(shapes, "input_blocks."):
        return Kind("", "a UNet without text encoder and VAE", f"{LOAD_SD} that has all its parts.")
    if _starts(shapes, "decoder.", "encoder.down", "first_stage_model."):
        return Kind("", "a VAE", f"{LOAD_SD}, and this file with Load VAE.")
    if _starts(shapes, "text_model.", "cond_stage_model.", "encoder.block", "transformer.resblocks"):
        return Kind("", "a text encoder", f"{LOAD_SD}, and this file with Load CLIP.")
    return None


def _checkpoint(shapes: Shapes) -> Kind | None:
    """A whole checkpoint, or one for another purpose."""
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is None:
        return Kind("", "a checkpoint of averaged (EMA) weights of no UNet") if _starts(shapes, EMA) else None
    if (channels := _side(first, 1)) != 4:
        purpose = CHANNELS.get(channels, "special-purpose")
        return Kind("", f"a checkpoint for {purpose} ({channels} input channels)")
    widths = {_side(shape, 1) for key, shape in shapes.items() if key.startswith(UNET) and key.endswith(CONTEXT_KEY)}
    if len(widths) != 1:
        return Kind("", "a UNet without attention to words" if not widths else "a UNet of several text widths")
    if _starts(shapes, "cond_stage_model.model.", "conditioner.embedders.0.model."):
        return Kind("sd2", "a Stable Diffusion 2.x checkpoint")
    if _starts(shapes, "cond_stage_model.", "conditioner.embedders.0."):
        return Kind("sd1", "a Stable Diffusion 1.x checkpoint")
    family = FAMILIES.get(widths.pop())
    return Kind(family or "", "a checkpoint without its text encoder")
