"""Weights of a finished model that a training goes on from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ...errors import ModelError
from ...untrusted.plain_files import read_json, shown
from .autoencoder import build_autoencoder
from .denoiser import build_text_encoder, build_unet
from .sizes import Sizes
from .tokenizer import build_tokenizer

STORED: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True}
"""Options for reading parts of a finished model."""
_BUILT = (
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "norm_num_groups",
    "mid_block_add_attention",
    "latent_channels",
    "scaling_factor",
)


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


def check_start(model: Path, *, objects: bool) -> None:
    """Raise ModelError unless a training can go on from every part of a finished model; they are small, and read once.

    objects: whether the training's words are those of scenes that have objects
    """
    with TemporaryDirectory(prefix="fatezero-tokenizer-") as folder:
        tokenizer = build_tokenizer(Path(folder), objects=objects)
    with _part(model / "unet"):
        unet = build_unet(sizes_of(model, 0.0).unet)
    copy_weights(model, unet, build_text_encoder(tokenizer), tokenizer)
    with _part(model / "vae"):
        vae = AutoencoderKL.from_pretrained(model / "vae", **STORED)
        _check_layout(vae, build_autoencoder(sizes_of(model, 0.0).vae))


def _check_layout(vae: AutoencoderKL, wanted: AutoencoderKL) -> None:
    """Raise ValueError unless a VAE is built as those of this training."""
    for name in _BUILT:
        found, needed = (
            tuple(value) if isinstance(value := model.config[name], list) else value for model in (vae, wanted)
        )
        if found != needed:
            raise ValueError(f"its {name} is {found}, those of this training have {needed}")


@torch.no_grad()
def copy_weights(
    model: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Copy a finished model's weights; tokens that its own tokenizer does not have keep the embeddings they have.

    Raises ModelError where one of its parts is not there, cannot be read, or has another size.
    """
    with _part(model / "unet"):
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(model / "unet", **STORED).state_dict())
    with _part(model / "tokenizer"):
        known = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True).get_vocab()
    with _part(model / "text_encoder"):
        finished = CLIPTextModel.from_pretrained(model / "text_encoder", **STORED)
        ids = tokenizer.get_vocab()
        both = [token for token in ids if token in known]
        new, old = text_encoder.get_input_embeddings(), finished.get_input_embeddings()
        assert isinstance(new, nn.Embedding) and isinstance(old, nn.Embedding)
        embeddings = new.weight.clone()
        embeddings[[ids[token] for token in both]] = old.weight[[known[token] for token in both]]
        finished.set_input_embeddings(nn.Embedding.from_pretrained(embeddings))
        text_encoder.load_state_dict(finished.state_dict())


@contextmanager
def _part(folder: Path) -> Iterator[None]:
    """Raise ModelError for whatever goes wrong with this part of a finished model within the block."""
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # diffusers and transformers raise anything
        # What they say of missing files is of networks and repositories.
        reason = "a file is missing or cannot be read" if isinstance(error, OSError) else " ".join(str(error).split())
        raise ModelError(
            f"{folder} is nothing that a training can go on from ({shown(reason)}); every part of a finished model of "
            f"the toy's layout is needed. Restore it, or give the folder of another model."
        ) from error
