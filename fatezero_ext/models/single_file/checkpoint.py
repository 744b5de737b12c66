"""Stable Diffusion 1.x and 2.x checkpoints in one file; nothing is ever fetched.

diffusers' own converters name the tensors; configs are derived from their shapes, since files have none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...errors import ModelError
from ...prompts.prompt import PROMPT_TOKENS
from ..checkpoint_check import SD1_TEXT_PREFIXES, SD2_TEXT_PREFIXES, VAE_PREFIXES, checked_kind, first_prefix
from ..file_kinds import UNET
from ..folder import configs as model_configs
from ..folder.empty_modules import Net, check_fit, empty, fill, shapes_of
from .configs import END, V_PREDICTION_KEY, V_PREDICTION_SPREAD, text_config, unet_config, vae_config
from .standard_names import NamedFile

log = logging.getLogger(__name__)

Prediction = Literal["epsilon", "v_prediction"]
TOKENIZER = Path(__file__).parent / "clip_tokenizer"
SD2_PAD_TOKEN = "!"  # id 0
SD2_TEXT_WIDTH = 1024
SD2_LAYERS_USED = 23  # of 24: the UNet reads the output of the last but one
PART_TENSORS = 3000
V_PREDICTION_MARK, ZERO_TERMINAL_MARK = "v_pred", "ztsnr"
"""Names of empty tensors that authors put into a file to say what it predicts, and on which schedule."""
V_PREDICTION_WORDS, EPSILON_WORDS = {"v", "v_prediction", "v-prediction"}, {"eps", "epsilon"}


class SingleFile:
    """A checkpoint of one file; each part is read on demand."""

    def __init__(self, path: str | Path) -> None:
        """Raises what `check_checkpoint` does."""
        self._file = NamedFile(path)
        self.kind = checked_kind(self._file)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all tensors, by the names that Stable Diffusion's own files have."""
        return self._file.shapes

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        """Read the 2-D UNet, not inflated."""
        with self._laid_out():
            config = model_configs.unet_config(unet_config(self.shapes, self.kind.family), self._file.path.name)
            named = convert_ldm_unet_checkpoint(self._read(UNET, dtype=dtype), config=config)
        return self._filled(lambda: UNet2DConditionModel(**config), named, dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKL:
        """Read the VAE."""
        prefix = first_prefix(self._file, VAE_PREFIXES)
        with self._laid_out():
            config = model_configs.vae_config(vae_config(self.shapes, prefix), self._file.path.name)
            named = convert_ldm_vae_checkpoint(self._read(prefix, dtype=dtype), config=config)
        return self._filled(lambda: AutoencoderKL(**config), named, dtype)

    def text_encoder(self, dtype: torch.dtype) -> CLIPTextModel:
        """Read the text encoder; of Stable Diffusion 2.x up to the last layer but one, which the UNet reads."""
        with self._laid_out():
            named = self._text_weights(dtype)
            config = text_config({name: tuple(x.shape) for name, x in named.items()}, self.kind.family)
            config = model_configs.text_config(config, self._file.path.name)
        if config["vocab_size"] <= END:
            raise ModelError(
                f"the text encoder of {self._file.path.name} knows {config['vocab_size']} tokens; CLIP's {END + 1} are "
                f"needed. Choose another checkpoint."
            )
        return self._filled(lambda: CLIPTextModel(CLIPTextConfig(**config)), named, dtype)

    def tokenizer(self) -> CLIPTokenizer:
        """Return CLIP's tokenizer, which comes with this package: files have none."""
        return _tokenizer(self.kind.family)

    def prediction(self) -> Prediction:
        """Find out what the UNet predicts: from the file's metadata, its marks, or its weights."""
        metadata = {key: value.lower() for key, value in self._file.metadata.items()}
        predictions = {value for key, value in metadata.items() if "predict" in key}
        if predictions & V_PREDICTION_WORDS or metadata.get("ss_v_parameterization") == "true":
            return "v_prediction"
        if V_PREDICTION_MARK in self._file.shapes:
            return "v_prediction"
        if predictions & EPSILON_WORDS or self.kind.family != "sd2" or V_PREDICTION_KEY not in self._file.shapes:
            return "epsilon"
        return prediction_by_spread(self._file.read([V_PREDICTION_KEY])[V_PREDICTION_KEY])

    def zero_terminal(self) -> bool:
        """Return whether the file is marked as trained on a schedule that ends in pure noise."""
        stated = self._file.metadata.get("ss_zero_terminal_snr", "").lower()
        return ZERO_TERMINAL_MARK in self._file.shapes or stated == "true"

    @contextmanager
    def _laid_out(self) -> Iterator[None]:
        """Turn errors of diffusers' converters into one about a file without the usual names and shapes."""
        try:
            yield
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # diffusers' converters raise anything
            raise ModelError(
                f"{self._file.path.name} is not laid out as {self.kind.name} is; all tensors by their usual names are "
                f"needed. Use a complete checkpoint."
            ) from error

    def _text_weights(self, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """Read the text encoder by transformers' names, with `text_model.` in front."""
        if prefix := first_prefix(self._file, SD2_TEXT_PREFIXES):
            read = self._read(prefix, dtype=dtype)
            layers = {int(key.split("resblocks.")[1].split(".")[0]) for key in read if "resblocks." in key}
            unused = f"resblocks.{max(layers)}." if len(layers) != SD2_LAYERS_USED else "text_projection"
            read = {key: x for key, x in read.items() if unused not in key and not key.endswith("text_projection")}
            width = read[f"{prefix}token_embedding.weight"].shape[1]
            holder = SimpleNamespace(config=CLIPTextConfig(hidden_size=width))
            return convert_open_clip_checkpoint(holder, read, prefix=prefix)
        prefix = first_prefix(self._file, SD1_TEXT_PREFIXES)
        named = convert_ldm_clip_checkpoint(self._read(prefix, dtype=dtype))
        return {_with_text_model(key): x for key, x in named.items() if not key.endswith("position_ids")}

    def _read(self, prefix: str, *, dtype: torch.dtype) -> dict[str, Tensor]:
        names = [name for name in self._file.shapes if name.startswith(prefix)]
        if len(names) > PART_TENSORS:
            raise ModelError(
                f"{self._file.path.name} has {len(names):,} tensors that begin with {prefix}; at most {PART_TENSORS:,} "
                f"are needed, Stable Diffusion has 700. Use a complete checkpoint."
            )
        return self._file.read(names, dtype)

    def _filled(self, build: Callable[[], Net], weights: Mapping[str, Tensor], dtype: torch.dtype) -> Net:
        """Fill a module with these weights and no others; they are not copied."""
        net = empty(build, self._file.path.name)
        wanted = shapes_of(net)
        if not any(name.startswith("text_model.") for name in wanted):  # as newer transformers have it
            weights = {name.removeprefix("text_model."): x for name, x in weights.items()}
        weights = {name: x for name, x in weights.items() if name in wanted or not _is_idle(name)}
        check_fit(wanted, {name: tuple(x.shape) for name, x in weights.items()}, self._file.path.name, _kind(net))
        return fill(net, weights, dtype, self._file.path.name)


def _kind(net: nn.Module) -> str:
    return f"{type(net).__name__} of Stable Diffusion 1.x or 2.x"


def prediction_by_spread(bias: Tensor) -> Prediction:
    """Guess what a Stable Diffusion 2.x UNet predicts from the bias of its last attention's norm (ComfyUI's rule)."""
    return "v_prediction" if bias.float().std(correction=0) > V_PREDICTION_SPREAD else "epsilon"


def _with_text_model(key: str) -> str:
    """Add the outer name, which some merged files leave out."""
    return key if key.startswith("text_model.") else f"text_model.{key}"


def _is_idle(name: str) -> bool:
    """Return whether a tensor is never used here: position numbers, projections for other uses."""
    return name.endswith(("position_ids", "text_projection.weight", "text_projection", "logit_scale"))


@cache
def _tokenizer(family: str) -> CLIPTokenizer:
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True, model_max_length=PROMPT_TOKENS)
    if family == "sd2":  # set late: a tokenizer built with it reads every "!" of a prompt as padding
        tokenizer.pad_token = SD2_PAD_TOKEN
    return tokenizer
