"""What a file is that is no LoRA this project can use, told from its keys."""

from __future__ import annotations

import re
from collections.abc import Collection

from ...errors import ModelError
from ..weight_files import brief

OTHER_ALGORITHMS = (
    ("LoHa (Hadamard products)", r"\.hada_"),
    ("LoKr (Kronecker products)", r"\.lokr_"),
    ("DoRA (weight-decomposed)", r"\.dora_scale$|lora_magnitude_vector"),
    ("BOFT or OFT (orthogonal)", r"\.b?oft_|\.oft_diag"),
    ("IA3", r"\.on_input$|\.ia3_l"),
    ("GLoRA", r"\.[ab][12]\.weight$"),
    ("a replacement of whole weights", r"\.set_weight$"),
    ("a LoRA with biases", r"\.lora_B(\.\w+)?\.bias$|\.lora_up\.bias$"),
)
OTHER_FAMILIES = (
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
OTHER_FILES = (
    ("a whole checkpoint", r"^(first_stage_model|cond_stage_model|model\.diffusion_model)\."),
    ("a ControlNet", r"^control_model\.|controlnet_"),
    ("a UNet", r"^(conv_in|down_blocks\..*|time_embedding\..*)\.(weight|bias)$"),
    ("a text encoder", r"^(text_model\.)?(embeddings|encoder\.layers)\..*\.(weight|bias)$"),
    ("a VAE", r"^(encoder|decoder)\.(conv_in|down|mid|up)"),
    ("a textual inversion", r"^(emb_params|string_to_param|clip_[lg])$"),
)


def check_kind(keys: Collection[str], matrices: Collection[str], name: str) -> None:
    """Raise ModelError unless the keys are those of a plain LoRA of a Stable Diffusion 1.x or 2.x model.

    matrices: those of the keys that name a LoRA's matrices
    """
    for kind, pattern in OTHER_ALGORITHMS:
        if found := _matching(keys, pattern):
            raise ModelError(
                f"{name} is {kind}: {brief(found)}; a plain LoRA (a down and an up matrix per layer, or differences) "
                f"is needed. Use one, or merge this file into a checkpoint with the program that made it."
            )
    if not matrices:
        kind = next((kind for kind, pattern in OTHER_FILES if _matching(keys, pattern)), None)
        what = f"{kind}, not a LoRA" if kind else "no LoRA that is known"
        raise ModelError(f"{name} is {what}: it holds {brief(sorted(keys))}. Choose a LoRA file.")
    for family, pattern in OTHER_FAMILIES:
        if found := _matching(matrices, pattern):
            raise ModelError(
                f"{name} was made for {family}: {brief(found)}; a LoRA for Stable Diffusion 1.x or 2.x is needed. Use "
                f"one that was made for your model."
            )


def _matching(keys: Collection[str], pattern: str) -> list[str]:
    return [key for key in keys if re.search(pattern, key)]
