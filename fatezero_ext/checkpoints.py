"""Load models from diffusers folders and single files; nothing is ever fetched from the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from .errors import ModelError
from .kernels import Kernel, kernel
from .latent_colours import FILE as COLOURS_FILE
from .latent_colours import LatentColours
from .ldm_configs import scheduler_config
from .model_folders import TOY_FOLDER
from .noise_model import LatentFormat
from .single_file import Prediction, SingleFile
from .text import TextEncoder
from .unet import InflationSettings, Pseudo3DUNet, TemporalLayers
from .vae import VideoVAE
from .weight_files import check_pickles_are_safe, read_weights, some

log = logging.getLogger(__name__)

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED_WEIGHTS = "diffusion_pytorch_model.bin"
WEIGHT_FILES = {ModelMixin: (WEIGHTS, PICKLED_WEIGHTS), CLIPTextModel: ("model.safetensors", "pytorch_model.bin")}
RANK_KEY = ".conv_temporal.down.weight"
PSEUDO_3D_CLASS = "UNetPseudo3DConditionModel"


@dataclass(frozen=True)
class VideoModel:
    """What a model folder gives: the inflated UNet, the text encoder and the VAE."""

    unet: Pseudo3DUNet
    text: TextEncoder
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
    unet.latents = LatentFormat(vae.net.config.scaling_factor, vae.pixels_per_cell, colours)
    unet.name = name or path.name
    unet.kernel = kernel(attention, torch.device(device), dtype)
    for part in (unet, model.text, vae):
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
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    vae = VideoVAE(_load(AutoencoderKL, folder / "vae", dtype))
    text = TextEncoder(
        tokenizer=_load(CLIPTokenizer, folder / "tokenizer", None),
        model=_load(CLIPTextModel, folder / "text_encoder", dtype),
    )
    unet = load_unet(unet_folder or folder / "unet", settings, dtype=dtype)
    unet.scheduler = scheduler
    return VideoModel(unet, text, vae)


def _from_file(
    path: Path, settings: InflationSettings | None, unet_folder: str | Path | None, dtype: torch.dtype
) -> VideoModel:
    file = SingleFile(path)
    text = TextEncoder(file.tokenizer(), file.text_encoder(dtype))
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
    """Load a UNet folder: a 2-D diffusers UNet, or a pseudo-3D one tuned on a clip.

    A tuned UNet's temporal layers are read off its tensors: low-rank ones with their rank, or full convolutions.
    Raises ModelError for missing files, for keys that are missing or foreign, and for pickles of more than tensors.
    """
    folder, settings = Path(folder), settings or InflationSettings()
    config = _read_json(folder / "config.json")
    if config.get("_class_name") != PSEUDO_3D_CLASS:
        return Pseudo3DUNet(_load(UNet2DConditionModel, folder, dtype), settings, name=folder.name)
    pickled = folder / PICKLED_WEIGHTS
    path = pickled if pickled.exists() and not (folder / WEIGHTS).exists() else folder / WEIGHTS
    weights = read_weights(path)
    net = _empty_unet(config, folder, dtype)
    position = settings.temporal.position if settings.temporal else "after_feedforward"
    ranks = {key.removesuffix(RANK_KEY): len(w) for key, w in weights.items() if key.endswith(RANK_KEY)}
    temporal = TemporalLayers(rank=max(ranks.values(), default=None), position=position, ranks=ranks)
    unet = Pseudo3DUNet(net, replace(settings, temporal=temporal), name=folder.name)
    try:
        missing, foreign = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not fit its config: {error}. Use weights and config of the same checkpoint."
        ) from error
    if missing or foreign:
        raise ModelError(
            f"{path} does not fit its config: {some(missing)} missing, {some(foreign)} unknown. "
            f"Use a complete pseudo-3D checkpoint."
        )
    return unet


def _empty_unet(config: Mapping[str, object], folder: Path, dtype: torch.dtype) -> UNet2DConditionModel:
    """The 2-D UNet that a pseudo-3D config describes, not yet with its weights."""
    try:
        return nn.Module.to(UNet2DConditionModel.from_config(_two_dimensional(config)), dtype)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder / 'config.json'} describes no UNet that can be built: {error}. Restore the checkpoint's config."
        ) from error


def _load(kind: type, folder: Path, dtype: torch.dtype | None) -> object:
    """`kind.from_pretrained` on a local folder; its errors become one that names the folder."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing; {kind.__name__} is read from it. Use a complete diffusers folder.")
    options = {} if dtype is None else _weight_options(kind, folder, dtype)
    try:
        with _no_progress_bars():
            loaded = kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"{folder} cannot be read as {kind.__name__}: {error}. It needs its config and safetensors weights; "
            f"save the model again with save_pretrained."
        ) from error
    if dtype is None:
        return loaded
    model, found = loaded
    if kind is UNet2DConditionModel and found["unexpected_keys"]:
        raise ModelError(
            f"{folder} holds more than its config describes: {some(sorted(found['unexpected_keys']))} unknown. A UNet "
            f"tuned on a clip needs the config it was saved with ({PSEUDO_3D_CLASS}); restore it."
        )
    if found["missing_keys"]:
        raise ModelError(
            f"{folder} is no complete {kind.__name__}: {some(sorted(found['missing_keys']))} missing. They would be "
            f"left random; use a complete checkpoint."
        )
    return model


def _weight_options(kind: type, folder: Path, dtype: torch.dtype) -> dict[str, object]:
    """Safetensors where there are any, else pickles, which both libraries open with `weights_only`."""
    safe, pickled = WEIGHT_FILES[ModelMixin if issubclass(kind, ModelMixin) else CLIPTextModel]
    safe = _has(folder, safe) or not _has(folder, pickled)
    if not safe:
        check_pickles_are_safe(folder)
    options = {"torch_dtype": dtype, "use_safetensors": safe, "output_loading_info": True}
    if issubclass(kind, ModelMixin):
        options["low_cpu_mem_usage"] = is_accelerate_available()  # without it diffusers only warns and goes on
    return options


def _has(folder: Path, weights: str) -> bool:
    """Whether the folder has these weights, in one file or in several with an index."""
    return (folder / weights).exists() or (folder / f"{weights}.index.json").exists()


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a moment; bars about it would only hide the bars that matter."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _read_json(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({error}); a JSON config is needed. Restore the file.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds {type(config).__name__}; a JSON object is needed. Restore the file.")
    return config


def _two_dimensional(config: Mapping[str, object]) -> dict[str, object]:
    """The config of the 2-D UNet inside a pseudo-3D one: the same, with 2-D block names."""
    renamed = {key: _block_name(value) for key, value in config.items() if not key.startswith("_")}
    allowed = UNet2DConditionModel.load_config.__self__._get_init_keys(UNet2DConditionModel)
    return {key: value for key, value in renamed.items() if key in allowed}


def _block_name(value: object) -> object:
    if isinstance(value, list):
        return [_block_name(item) for item in value]
    return value.replace("Pseudo3D", "2D") if isinstance(value, str) else value
