"""Load models from diffusers folders and single files; nothing is ever fetched from the network.

Of a folder only plain files are opened, and only what `model_configs` allows of their configs reaches the libraries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..attention.kernels import kernel
from ..choices import Kernel
from ..diffusion.noise_model import LatentFormat
from ..diffusion.preview_colours import FILE as COLOURS_FILE
from ..diffusion.preview_colours import LatentColours
from ..diffusion.scheduler_config import checked_scheduler
from ..errors import ModelError
from ..plain_files import read_json, shown
from .folder import configs as model_configs
from .folder.clip_tokenizer import read_clip_tokenizer
from .folder.detect import TOY_FOLDER
from .folder.empty_modules import Net, check_fit, empty, fill, shapes_of
from .folder.tuned_unet import our_names, temporal_layers, tuned_kind, two_dimensional
from .folder.weights import TEXT, UNET_AND_VAE, Weights, folder_weights
from .single_file.checkpoint import Prediction, SingleFile
from .single_file.configs import scheduler_config
from .single_file.tensor_names import clip_names, standard_vae_name
from .text_encoder import ClipTextEncoder
from .unet.inflate import InflationSettings
from .unet.model import Pseudo3DUNet
from .vae import VideoVAE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoModel:
    """What a model folder gives: the inflated UNet, the text encoder and the VAE."""

    unet: Pseudo3DUNet
    text_encoder: ClipTextEncoder
    vae: VideoVAE


def load_toy(
    settings: InflationSettings | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> VideoModel:
    """The built-in model: small, trained from scratch by `fatezero_ext.toy`, of Stable Diffusion 1.x layout."""
    return load_model(TOY_FOLDER, settings, dtype=dtype, device=device, name="built-in toy model")


def load_model(
    path: str | Path,
    settings: InflationSettings | None = None,
    *,
    unet_folder: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: Kernel = "auto",
    name: str | None = None,
    prediction: Prediction | None = None,
    zero_terminal: bool | None = None,
) -> VideoModel:
    """Load a model of Stable Diffusion 1.x / 2.x kind: a diffusers pipeline folder, or a checkpoint of one file.

    path:        a folder with unet/, vae/, text_encoder/, tokenizer/ and scheduler/; or a .safetensors or .ckpt file
    settings:    how the UNet is inflated; None: the defaults of `InflationSettings`
    unet_folder: another folder with the UNet, for example one tuned on a clip; None: `folder/unet`
    dtype:       of the weights in memory
    device:      that all parts compute on
    attention:   the UNet's kernel, see `kernels.kernel`
    name:        what users know the model by; None: the name of the folder or file
    prediction:    what the UNet predicts; None: what the folder's scheduler says, or is found out of the file
    zero_terminal: whether its schedule ends in pure noise; None: likewise
    Raises ModelError naming the file that is missing or does not fit, or what it is instead.
    """
    path = Path(path)
    model = _from_file(path, settings, unet_folder, dtype) if path.is_file() else _from_folder(
        path, settings, unet_folder, dtype
    )  # fmt: skip
    unet, vae = model.unet, model.vae
    told = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal}
    unet.scheduler = {**unet.scheduler, **{key: value for key, value in told.items() if value is not None}}
    colours = LatentColours.read(path)
    if colours is not None and len(colours.factors) != unet.channels:
        raise ModelError(
            f"{path / COLOURS_FILE} has colours of {len(colours.factors)} channels; the UNet has {unet.channels}. "
            f"Restore the file, or remove it."
        )
    unet.latent_format = LatentFormat(vae.net.config.scaling_factor, vae.pixels_per_cell, colours)
    unet.name = name or path.name
    unet.kernel = kernel(attention, torch.device(device), dtype)
    for part in (unet, model.text_encoder, vae):
        part.net.to(device)
    log.info(
        "%s: predicts %s%s.",
        unet.name,
        unet.scheduler.get("prediction_type", "epsilon"),
        ", on a schedule that ends in pure noise" if unet.scheduler.get("rescale_betas_zero_snr") else "",
    )
    return model


def _from_folder(
    folder: Path, settings: InflationSettings | None, unet_folder: str | Path | None, dtype: torch.dtype
) -> VideoModel:
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{folder} has no model_index.json; a diffusers pipeline folder is needed, or a checkpoint of one file. "
            f"Choose the folder that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = checked_scheduler(read_json(path), path)
    vae = VideoVAE(_vae(folder / "vae", dtype))
    text_model = _text_encoder(folder / "text_encoder", dtype)
    text = ClipTextEncoder(
        tokenizer=read_clip_tokenizer(_present(folder / "tokenizer"), text_model.config.vocab_size), model=text_model
    )
    unet = load_unet(unet_folder or folder / "unet", settings, dtype=dtype)
    unet.scheduler = scheduler
    return VideoModel(unet, text, vae)


def _from_file(
    path: Path, settings: InflationSettings | None, unet_folder: str | Path | None, dtype: torch.dtype
) -> VideoModel:
    file = SingleFile(path)
    text = ClipTextEncoder(file.tokenizer(), file.text_encoder(dtype))
    vae = VideoVAE(file.vae(dtype))
    if unet_folder is None:
        unet = Pseudo3DUNet(file.unet(dtype), settings or InflationSettings())
    else:
        unet = load_unet(unet_folder, settings, dtype=dtype)
    unet.scheduler = scheduler_config(file.prediction(), zero_terminal=file.zero_terminal())
    return VideoModel(unet, text, vae)


def load_unet(
    folder: str | Path, settings: InflationSettings | None = None, *, dtype: torch.dtype = torch.float32
) -> Pseudo3DUNet:
    """Load a UNet folder: a 2-D diffusers UNet, or one tuned on a clip by FateZero's or Tune-A-Video's own training.

    A tuned UNet's temporal layers are read off its tensors: attention, and low-rank convolutions with their rank, full
    ones, or none.
    Raises ModelError for missing files, for keys that are missing or foreign, and for pickles of more than tensors.
    """
    folder, settings = _present(Path(folder)), settings or InflationSettings()
    path = folder / "config.json"
    said = read_json(path)
    tuned = tuned_kind(said, path)
    config = model_configs.unet_config(two_dimensional(said) if tuned else said, path)
    file = folder_weights(folder, UNET_AND_VAE)
    names = our_names(file.shapes, tuned, folder)
    if not tuned:
        return Pseudo3DUNet(
            _whole(empty(lambda: _unet2d(config), path), file, names, dtype), settings, name=folder.name
        )
    settings = replace(settings, temporal=temporal_layers(names, file.shapes, tuned, settings.temporal))
    unet = empty(lambda: Pseudo3DUNet(_unet2d(config), settings, name=folder.name), path)
    _whole(unet.net, file, names, dtype)
    return unet


def _unet2d(config: model_configs.Config) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**config)


def _vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    path = _present(folder) / "config.json"
    said = read_json(path)
    _check_class(said.get("_class_name"), ("AutoencoderKL",), path)
    config = model_configs.vae_config(said, path)
    file = folder_weights(folder, UNET_AND_VAE)
    names = {standard_vae_name(key): key for key in file.shapes}
    return _filled(empty(lambda: AutoencoderKL(**config), path), file, names, dtype)


def _text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    path = _present(folder) / "config.json"
    said = read_json(path)
    _check_class(said.get("model_type"), ("clip_text_model", "clip"), path)
    config = model_configs.text_config(said, path)
    file = folder_weights(folder, TEXT)
    net = empty(lambda: CLIPTextModel(CLIPTextConfig(**config)), path)
    return _filled(net, file, clip_names(file.shapes, shapes_of(net)), dtype)


def _filled(net: Net, file: Weights, names: Mapping[str, str], dtype: torch.dtype) -> Net:
    """A module with the weights of its names; others, which programs leave beside them, are passed over."""
    wanted = shapes_of(net)
    return _whole(net, file, {name: key for name, key in names.items() if name in wanted}, dtype)


def _whole(net: Net, file: Weights, names: Mapping[str, str], dtype: torch.dtype) -> Net:
    """A module with the weights of these names, which are its own and no others."""
    folder = file.path.parent
    check_fit(shapes_of(net), {name: file.shapes[key] for name, key in names.items()}, folder, type(net).__name__)
    read = file.read(names.values(), dtype)
    return fill(net, {name: read[key] for name, key in names.items()}, dtype, folder)


def _check_class(said: object, known: tuple[str, ...], path: Path) -> None:
    if said is not None and said not in known:
        raise ModelError(
            f"{path} describes {shown(said)}; {known[0]}, as of Stable Diffusion 1.x / 2.x, is needed. Use a model of "
            f"that kind."
        )


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing; a part of the model is read from it. Use a complete diffusers folder.")
    return folder
