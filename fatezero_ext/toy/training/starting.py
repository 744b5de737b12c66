"""Weights of a finished model that a training goes on from."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ...errors import ModelError
from ...plain_files import read_json
from .sizes import Sizes


def sizes_of(model: Path, rate: float) -> Sizes:
    """Read the sizes of a finished model; raise ModelError if it has none. rate: that the UNet goes on learning at."""
    return Sizes(_channels(model / "unet" / "config.json"), _channels(model / "vae" / "config.json"), rate)


def _channels(config: Path) -> Any:  # noqa: ANN401 - a tuple, as long as the network has levels
    channels = read_json(config).get("block_out_channels")
    if not isinstance(channels, list):
        raise ModelError(
            f"{config} has no block_out_channels; a model of diffusers' layout is needed. Restore the file."
        )
    return tuple(channels)


@torch.no_grad()
def copy_weights(
    model: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Copy a finished model's weights; tokens that its own tokenizer does not have keep the embeddings they have."""
    stored: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True}
    unet.load_state_dict(UNet2DConditionModel.from_pretrained(model / "unet", **stored).state_dict())
    finished = CLIPTextModel.from_pretrained(model / "text_encoder", **stored)
    known = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True).get_vocab()
    ids = tokenizer.get_vocab()
    both = [token for token in ids if token in known]
    new, old = text_encoder.get_input_embeddings(), finished.get_input_embeddings()
    assert isinstance(new, nn.Embedding) and isinstance(old, nn.Embedding)
    embeddings = new.weight.clone()
    embeddings[[ids[token] for token in both]] = old.weight[[known[token] for token in both]]
    finished.set_input_embeddings(nn.Embedding.from_pretrained(embeddings))
    text_encoder.load_state_dict(finished.state_dict())
