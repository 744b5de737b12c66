"""Kinds of weight files, recognised by the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..errors import ModelError
from ..prompts.prompt import PROMPT_TOKENS
from .weight_files import brief

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
EMA = "model_ema."
CONTEXT_KEY = "transformer_blocks.0.attn2.to_k.weight"
FAMILIES = {768: "sd1", 1024: "sd2"}
CHANNELS = {5: "depth or inpainting", 7: "upscaler", 8: "instruct-pix2pix", 9: "inpainting"}
LABELS = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
LABEL_WIDTHS = {2816: "an SDXL model", 2560: "an SDXL refiner"}
EMBEDDING_WIDTHS = (768, 1024, 1280)
LOAD_SD = "Choose one of that kind"


@dataclass(frozen=True)
class Kind:
    """Kind of a weight file.

    family: "sd1" or "sd2" for a whole checkpoint that can be loaded, else ""
    name:   readable, with its article
    advice: where such a file belongs
    """

    family: str
    name: str
    advice: str = f"{LOAD_SD}."


LORA = Kind("", "a LoRA", "Load a checkpoint first, then this file with Load LoRA (FateZero).")
EMBEDDING = Kind("", "a textual inversion embedding", "Put it into models/embeddings.")
DIFFUSERS_UNET = Kind(
    "", "a UNet in diffusers' layout", "Keep it as a folder with its config.json in models/diffusers."
)
UNKNOWN = Kind("", "no kind of model that is known here")

Patterns = tuple[tuple[str, Kind], ...]
"""Kinds by a regular expression that one of the file's keys matches."""

ADAPTERS: Patterns = (
    (r"lora_(?:down|up)\.|\.lora_[AB]\.|[._]lora\.down|hada_w1|lokr_w", LORA),
    (
        r"^(?:control_model|controlnet_cond_embedding|input_hint_block)\.",
        Kind("", "a ControlNet", "Load it with Load ControlNet Model, beside a checkpoint."),
    ),
    (
        r"^(?:ip_adapter|image_proj)\.",
        Kind("", "an IP-Adapter", f"{LOAD_SD}, and this file with its own nodes."),
    ),
    (
        r"motion_modules\.|temporal_transformer\.",
        Kind("", "a motion module (AnimateDiff)", f"{LOAD_SD}; motion modules are not used here."),
    ),
    (
        r"^adapter\.|^body\..*(?:block1|in_conv)",
        Kind("", "a T2I-Adapter", f"{LOAD_SD}, and this file with Load ControlNet Model."),
    ),
)
"""Files that change or steer a model."""
OTHER_FAMILIES: Patterns = (
    (r"double_blocks\.0\.img_attn|single_transformer_blocks\.0\.", Kind("", "a Flux model")),
    (r"joint_blocks\.0\.|transformer_blocks\.0\.attn\.add_q_proj", Kind("", "a Stable Diffusion 3 model")),
    (r"\.time_(?:stack|mixer)\.", Kind("", "a Stable Video Diffusion model")),
    (r"^conditioner\.embedders\.1\.", Kind("", "an SDXL checkpoint")),
)
PARTS: Patterns = (
    (
        r"^input_blocks\.",
        Kind("", "a UNet without text encoder and VAE", f"{LOAD_SD} that has all its parts."),
    ),
    (
        r"^(?:decoder|first_stage_model)\.|^encoder\.down",
        Kind("", "a VAE", f"{LOAD_SD}, and this file with Load VAE."),
    ),
    (
        r"^(?:text_model|cond_stage_model|embeddings|encoder\.layers)\.|^encoder\.block|^transformer\.resblocks",
        Kind("", "a text encoder", f"{LOAD_SD}, and this file with Load CLIP."),
    ),
)
"""Parts of a checkpoint."""
EMBEDDING_KEYS = re.compile(r"emb_params|string_to_param|clip_[lg]|\*")

LORA_ALGORITHMS = (
    ("LoHa (Hadamard products)", r"\.hada_"),
    ("LoKr (Kronecker products)", r"\.lokr_"),
    ("DoRA (weight-decomposed)", r"\.dora_scale$|lora_magnitude_vector"),
    ("BOFT or OFT (orthogonal)", r"\.b?oft_|\.oft_diag"),
    ("IA3", r"\.on_input$|\.ia3_l"),
    ("GLoRA", r"\.[ab][12]\.weight$"),
    ("a replacement of whole weights", r"\.set_weight$"),
    ("a LoRA with biases", r"\.lora_B(\.\w+)?\.bias$|\.lora_up\.bias$"),
)
"""Ways to change a model that are not a plain LoRA."""
LORA_FAMILIES = (
    ("SD3 or Flux", r"^text_encoders\.t5"),
    ("SD3", r"joint_blocks|^lora_te3_|^text_encoder_3\.|^transformer\.transformer_blocks\.\d+\.(attn\.add_q|attn2)"),
    ("Flux", r"double_blocks|single_blocks|single_transformer_blocks"),
    (
        "a diffusion transformer such as Flux, SD3 or Wan",
        r"^(lora_)?transformer[._]|^diffusion_model\.(blocks|layers)\.",
    ),
    ("SDXL", r"^lora_te2_|^text_encoder_2\.|^text_encoders\.clip_g\.|^conditioner\.|label_emb|add_embedding"),
    ("SDXL", r"^(lora_unet_|unet\.).*transformer_blocks[._][1-9]"),
)
"""Models that a LoRA may have been made for, by the names of its layers."""


def kind_of(shapes: Shapes) -> Kind:
    """Recognise a state dict; UNKNOWN if no rule fits."""
    return (
        _first(ADAPTERS, shapes)
        or _named_embedding(shapes)
        or _first(OTHER_FAMILIES, shapes)
        or _conditioned_on_more(shapes)
        or _part(shapes)
        or _checkpoint(shapes)
        or (EMBEDDING if len(shapes) <= 4 and _are_rows(shapes) else UNKNOWN)
    )


def check_lora(shapes: Shapes, matrices: Collection[str], name: str) -> None:
    """Raise ModelError unless the keys are those of a plain LoRA of a Stable Diffusion 1.x or 2.x model.

    matrices: those of the keys that name a LoRA's matrices
    """
    for algorithm, pattern in LORA_ALGORITHMS:
        if matching := _matching(shapes, pattern):
            raise ModelError(
                f"{name} is {algorithm}: {brief(matching)}; a plain LoRA (a down and an up matrix per layer, or "
                f"differences) is needed. Use one, or merge this file into a checkpoint with the program that made it."
            )
    if not matrices:
        kind = kind_of(shapes)
        what = "no LoRA that is known" if kind in (LORA, UNKNOWN) else f"{kind.name}, not a LoRA"
        raise ModelError(f"{name} is {what}: it holds {brief(sorted(shapes))}. Choose a LoRA file.")
    for family, pattern in LORA_FAMILIES:
        if matching := _matching(matrices, pattern):
            raise ModelError(
                f"{name} was made for {family}: {brief(matching)}; a LoRA for Stable Diffusion 1.x or 2.x is needed. "
                f"Use one that was made for your model."
            )


def _matching(keys: Iterable[str], pattern: str) -> list[str]:
    return [key for key in keys if re.search(pattern, key)]


def _first(patterns: Patterns, keys: Iterable[str]) -> Kind | None:
    return next((kind for pattern, kind in patterns if any(re.search(pattern, key) for key in keys)), None)


def _starts(shapes: Shapes, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in shapes)


def _side(shape: tuple[int, ...], place: int) -> int:
    """Return the size of one dimension; 0 if the tensor has fewer, whatever its name promises."""
    return shape[place] if -len(shape) <= place < len(shape) else 0


def _named_embedding(shapes: Shapes) -> Kind | None:
    return EMBEDDING if len(shapes) <= 4 and any(map(EMBEDDING_KEYS.fullmatch, shapes)) else None


def _are_rows(shapes: Shapes) -> bool:
    """Return whether all are a few rows as wide as a text encoder: some embeddings have only their user's name."""
    return bool(shapes) and all(
        shape and shape[-1] in EMBEDDING_WIDTHS and (len(shape) == 1 or len(shape) == 2 and shape[0] <= PROMPT_TOKENS)
        for shape in shapes.values()
    )


def _conditioned_on_more(shapes: Shapes) -> Kind | None:
    """Recognise models that read more than a text: SDXL, its refiner and others."""
    text = "conditioner.embedders.0.model."
    if any(key.startswith(text) and _side(shape, 0) == 1280 for key, shape in shapes.items()):
        return Kind("", LABEL_WIDTHS[2560])
    labels = next((shape for key, shape in shapes.items() if key.endswith(LABELS)), None)
    if labels is None:
        return None
    return Kind("", LABEL_WIDTHS.get(_side(labels, -1), "a UNet conditioned on more than text"))


def _part(shapes: Shapes) -> Kind | None:
    if _starts(shapes, UNET, EMA):
        return None
    if _side(shapes.get("conv_in.weight", ()), 1) == 4 and _starts(shapes, "down_blocks."):
        return DIFFUSERS_UNET
    return _first(PARTS, shapes)


def _checkpoint(shapes: Shapes) -> Kind | None:
    """Recognise a whole checkpoint, or one for another purpose."""
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
