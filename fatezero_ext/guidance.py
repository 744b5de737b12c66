"""Texts as classifier-free guidance takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import SettingsError
from .noise_model import NoiseModel
from .prompts import Clip, read_prompt


def guided_text(clip: Clip, unet: NoiseModel, prompt: str, guidance: float, negative_prompt: str) -> Tensor:
    """Embeddings [2, tokens, width] of the negative prompt and the prompt; without guidance of the prompt alone.

    guidance: 1 for none
    """
    read_prompt(clip, negative_prompt, "negative prompt")
    return embedded(clip, [prompt] if guidance == 1 else [negative_prompt, prompt], unet)


def embedded(clip: Clip, texts: list[str], unet: NoiseModel) -> Tensor:
    """Text embeddings [texts, tokens, width], float32."""
    embeddings = torch.cat([_only(clip.encode_from_tokens_scheduled(clip.tokenize(text))) for text in texts])
    width = unet.text_width
    if embeddings.shape[-1] != width:
        raise SettingsError(
            f"the text encoder gives embeddings {embeddings.shape[-1]} wide; {unet.name} needs {width}. "
            f"Use the CLIP that belongs to the model."
        )
    return embeddings.float()


def _only(conditioning: list) -> Tensor:
    """The embedding of a prompt that is one for all steps, on the CPU."""
    if len(conditioning) != 1:
        raise SettingsError(
            f"the CLIP gives a prompt {len(conditioning)} embeddings, for parts of the steps; one for all steps is "
            f"needed. Take scheduled hooks off the CLIP."
        )
    return conditioning[0][0].float().cpu()
