"""Load models from diffusers folders and single files; nothing is ever fetched from the network.

Only plain files of a folder are opened, and only what `folder.configs` allows of their configs reaches the libraries.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..attention.functional import Attend
from ..attention.kernels import kernel
from ..choices import Kernel, World
from ..diffusion.noise_model import LatentFormat
from ..diffusion.preview_colours import FILE as COLOURS_FILE
from ..diffusion.preview_colours import LatentColours
from ..diffusion.scheduler_config import checked_scheduler
from ..errors import ModelError, SettingsError, as_path
from ..untrusted.config_rules import Config
from ..untrusted.plain_files import read_json, shown
from .folder import configs as model_configs
from .folder.clip_tokenizer import read_clip_tokenizer
from .folder.detect import BUILT_IN_FOLDERS, BUILT_IN_NAMES
from .folder.empty_modules import empty, fill_known, shapes_of
from .folder.unet_folder import UNetFolder
from .folder.weights import TEXT, UNET_AND_VAE, folder_weights, present
from .single_file.checkpoint import Prediction, SingleFile
from .single_file.configs import scheduler_config
from .single_file.standard_names import clip_names, standard_vae_name
from .text_encoder import ClipTextEncoder
from .unet.inflate import InflationSettings
from .unet.model import Pseudo3DUNet
from .vae import VideoVAE

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL
    from transformers import CLIPTextModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoModel:
    """A loaded model: the inflated UNet, the text encoder and the VAE."""

    unet: Pseudo3DUNet
    text_encoder: ClipTextEncoder
    vae: VideoVAE


def load_toy(
    settings: InflationSettings | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    world: World = "shapes",
) -> VideoModel:
    """Load a built-in model: small, trained from scratch by `fatezero_ext.toy`, of Stable Diffusion 1.x layout.

    world: what it draws: coloured "shapes", or "objects": animals and things beside shapes, less surely
    Raises SettingsError for another world.
    """
    if world not in tuple(BUILT_IN_FOLDERS):
        raise SettingsError(f"world is {world!r}; it is {' or '.join(BUILT_IN_FOLDERS)}. Give one of these.")
    return load_model(BUILT_IN_FOLDERS[world], settings, dtype=dtype, device=device, name=BUILT_IN_NAMES[world])


def load_model(
    path: str | Path,
    settings: InflationSettings | None = None,
    *,
    unet_folder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: Kernel | Attend = "auto",
    name: str | None = None,
    prediction: Prediction | None = None,
    zero_terminal: bool | None = None,
) -> VideoModel:
    """Load a model of Stable Diffusion 1.x / 2.x kind: a diffusers pipeline folder, or a checkpoint of one file.

    path:          a folder with unet/, vae/, text_encoder/, tokenizer/ and scheduler/; or a .safetensors or .ckpt file
    settings:      how the UNet is inflated; None: the defaults of `InflationSettings`
    unet_folder:   another folder with the UNet, for example one tuned on a clip; None: `folder/unet`
    dtype:         of the weights in memory
    device:        of all parts
    attention:     the UNet's kernel: one that `kernels.kernel` gives, or its name
    name:          what users know the model by; None: the name of the folder or file
    prediction:    what the UNet predicts; None: as the folder's scheduler says, or as the file's weights suggest
    zero_terminal: whether its schedule ends in pure noise; None: likewise
    Raises ModelError naming the file that is missing or does not fit, or what it is instead; SettingsError for a kernel
    that there is not.
    """
    path, settings = as_path(path, ModelError), settings or InflationSettings()
    computing = _kernel(attention, device, dtype)
    file = SingleFile(path) if path.is_file() else None
    scheduler, text, vae = _folder_parts(path, dtype) if file is None else _file_parts(file, dtype)
    overrides = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal}
    colours = LatentColours.read(path)
    complete = partial(
        Pseudo3DUNet,
        latent_format=LatentFormat(vae.net.config["scaling_factor"], vae.pixels_per_cell, colours),
        scheduler={**scheduler, **{key: value for key, value in overrides.items() if value is not None}},
        name=name or path.name,
        kernel=computing,
    )
    if file is None or unet_folder is not None:
        unet = UNetFolder(unet_folder or path / "unet").unet(settings, dtype, complete)
    else:
        unet = complete(file.unet(dtype), settings)
    if colours is not None and len(colours.factors) != unet.channels:
        raise ModelError(
            f"{path / COLOURS_FILE} has colours of {len(colours.factors)} channels; the UNet has {unet.channels}. "
            f"Restore the file, or remove it."
        )
    for net in (unet.net, text.net, vae.net):
        nn.Module.to(net, device)
    _log_prediction(unet)
    return VideoModel(unet, text, vae)


def load_unet(
    folder: str | Path,
    settings: InflationSettings | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: Kernel | Attend = "auto",
    name: str | None = None,
    prediction: Prediction | None = None,
    zero_terminal: bool | None = None,
) -> Pseudo3DUNet:
    """Load a UNet folder: a 2-D diffusers UNet, or one tuned on a clip by FateZero's or Tune-A-Video's own training.

    A tuned UNet's temporal layers are recognised by its tensors: attention, and low-rank convolutions with their rank,
    full ones, or none.
    dtype:         of the weights in memory
    device:        of the UNet
    attention:     its kernel: one that `kernels.kernel` gives, or its name
    name:          what users know the UNet by; None: the folder's name
    prediction:    what it predicts; None: as its weights suggest
    zero_terminal: whether its schedule ends in pure noise; None: no
    Raises ModelError for missing files, for keys that are missing or foreign, and for pickles of more than tensors,
    SettingsError for a kernel that there is not.
    """
    computing = _kernel(attention, device, dtype)
    source = UNetFolder(as_path(folder, ModelError))
    complete = partial(
        Pseudo3DUNet,
        scheduler=scheduler_config(prediction or source.prediction(), zero_terminal=bool(zero_terminal)),
        name=name or source.path.name,
        kernel=computing,
    )
    unet = source.unet(settings or InflationSettings(), dtype, complete)
    nn.Module.to(unet.net, device)
    _log_prediction(unet)
    return unet


def _kernel(attention: Kernel | Attend, device: torch.device | str, dtype: torch.dtype) -> Attend:
    return attention if callable(attention) else kernel(attention, torch.device(device), dtype)


def _log_prediction(unet: Pseudo3DUNet) -> None:
    zero_terminal = unet.scheduler.get("rescale_betas_zero_snr")
    log.info(
        "%s: predicts %s%s.",
        unet.name,
        unet.scheduler.get("prediction_type", "epsilon"),
        ", on a schedule that ends in pure noise" if zero_terminal else "",
    )


def _folder_parts(folder: Path, dtype: torch.dtype) -> tuple[Config, ClipTextEncoder, VideoVAE]:
    """Read scheduler, text encoder and VAE."""
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{folder} has no model_index.json; a diffusers pipeline folder is needed, or a checkpoint of one file. "
            f"Choose the folder that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = checked_scheduler(read_json(path), path)
    vae = VideoVAE(_vae(folder / "vae", dtype))
    text_model = _text_encoder(folder / "text_encoder", dtype)
    tokenizer = read_clip_tokenizer(present(folder / "tokenizer"), text_model.config.vocab_size)
    return scheduler, ClipTextEncoder(tokenizer, text_model), vae


def _file_parts(file: SingleFile, dtype: torch.dtype) -> tuple[Config, ClipTextEncoder, VideoVAE]:
    """Read scheduler, text encoder and VAE."""
    text = ClipTextEncoder(file.tokenizer(), file.text_encoder(dtype))
    vae = VideoVAE(file.vae(dtype))
    return scheduler_config(file.prediction(), zero_terminal=file.zero_terminal()), text, vae


def _vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    from diffusers.models import AutoencoderKL

    path = present(folder) / "config.json"
    described = read_json(path)
    _check_class(described.get("_class_name"), ("AutoencoderKL",), path)
    config = model_configs.vae_config(described, path)
    file = folder_weights(folder, UNET_AND_VAE)
    names = {standard_vae_name(key): key for key in file.shapes}
    return fill_known(empty(lambda: AutoencoderKL(**config), path), file, names, dtype)


def _text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    path = present(folder) / "config.json"
    described = read_json(path)
    _check_class(described.get("model_type"), ("clip_text_model", "clip"), path)
    config = model_configs.text_config(described, path)
    file = folder_weights(folder, TEXT)
    net = empty(lambda: CLIPTextModel(CLIPTextConfig(**config)), path)
    return fill_known(net, file, clip_names(file.shapes, shapes_of(net)), dtype)


def _check_class(name: object, known: tuple[str, ...], path: Path) -> None:
    if name is not None and name not in known:
        raise ModelError(
            f"{path} describes {shown(name)}; {known[0]}, as of Stable Diffusion 1.x / 2.x, is needed. Use a model of "
            f"that kind."
        )
