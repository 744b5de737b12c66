"""Texts for classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, SettingsError
from ..prompts.prompt import TextEncoder, read_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from .noise_model import NoiseModel


def guided_text(
    text_encoder: TextEncoder, unet: NoiseModel, prompt: str, guidance: float, negative_prompt: str
) -> Tensor:
    """Embed the negative prompt and the prompt, [2, tokens, width]; without guidance the prompt alone.

    guidance: 1 for none
    """
    read_prompt(text_encoder, negative_prompt, "negative prompt")
    return embedded(text_encoder, [prompt] if guidance == 1 else [negative_prompt, prompt], unet)


def embedded(text_encoder: TextEncoder, texts: list[str], unet: NoiseModel) -> Tensor:
    """Embed texts, [texts, tokens, width] float32."""
    import torch

    embeddings = torch.cat(
        [_only(text_encoder.encode_from_tokens_scheduled(text_encoder.tokenize(text))) for text in texts]
    )
    width = unet.text_width
    if embeddings.shape[-1] != width:
        raise SettingsError(
            f"the text encoder gives embeddings {embeddings.shape[-1]} wide; {unet.name} needs {width}. "
            f"Use the CLIP that belongs to the model."
        )
    if not embeddings.isfinite().all():
        raise ModelError(
            f"the text encoder gives embeddings that are not finite (NaN or infinite) for {_shown(texts, embeddings)}; "
            f"numbers are needed. Load it in float32, or from another file: its weights may be damaged."
        )
    return embeddings.float()


def _shown(texts: list[str], embeddings: Tensor) -> str:
    """Return the first text whose embedding is not finite, cut short."""
    return next(repr(text[:40]) for text, x in zip(texts, embeddings, strict=True) if not x.isfinite().all())


def _only(conditioning: Sequence[Sequence[Any]]) -> Tensor:
    """Return the embedding of a prompt, on the CPU; raise SettingsError unless it is one for all steps."""
    if len(conditioning) != 1:
        raise SettingsError(
            f"the CLIP gives a prompt {len(conditioning)} embeddings, for parts of the steps; one for all steps is "
            f"needed. Take scheduled hooks off the CLIP."
        )
    embedding: Tensor = conditioning[0][0]
    return embedding.float().cpu()


def check_guidance(guidance: float) -> None:
    """Raise SettingsError unless guidance is a number that can be used."""
    if finite_number("guidance", guidance) < 0:
        raise SettingsError(f"guidance is {guidance}; it must be 0 or more. 5 to 10 suit most edits.")


def finite_number(name: str, value: float) -> float:
    """Return a number; raise SettingsError unless it is finite."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise SettingsError(f"{name} is {value!r}; a finite number is needed. Write one such as 0.5.")
    return value
