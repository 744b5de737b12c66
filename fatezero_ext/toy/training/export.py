"""Write the trained parts as a folder that StableDiffusionPipeline loads."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from ...diffusion.preview_colours import LatentColours
from ...errors import ModelError
from ...models.folder.detect import ToyMark
from .autoencoder import SCALING, frames_and_masks
from .denoiser import build_scheduler

COLOUR_SCENES = range(256)
COLOUR_SEED = 90_000


def save_model(
    folder: Path,
    *,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    objects: tuple[str, ...] = (),
) -> None:
    """Save everything in half precision, in diffusers' layout, with its `ToyMark`. The models are converted in place.

    An older model at `folder` is there until the new one is complete.
    The tokenizer's files are copied: transformers would save one file of its own in place of vocab.json and merges.txt.
    """
    part: UNet2DConditionModel | AutoencoderKL
    for part in (unet, vae):
        part.register_to_config(_name_or_path="")
    # diffusers' annotations are narrower than what it takes.
    unannotated: dict[str, Any] = {"scheduler": build_scheduler(), "safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionPipeline(
        unet=unet.half(),
        text_encoder=text_encoder.half(),
        vae=vae.half(),
        tokenizer=tokenizer,
        requires_safety_checker=False,
        **unannotated,
    )
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    pipeline.save_pretrained(unfinished)
    shutil.rmtree(unfinished / "tokenizer")
    shutil.copytree(tokenizer.name_or_path, unfinished / "tokenizer")
    latent_colours(vae.float(), objects).save(unfinished)
    ToyMark(objects).save(unfinished / "unet")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


@torch.no_grad()
def latent_colours(vae: AutoencoderKL, objects: tuple[str, ...] = ()) -> LatentColours:
    """Fit colours for previews of a VAE's latents on drawn scenes; objects: names that may occur in them."""
    frames, _masks = frames_and_masks(COLOUR_SEED, COLOUR_SCENES, objects)
    return LatentColours.fitted(vae.encode(frames).latent_dist.mean * SCALING, (frames.movedim(1, -1) + 1) / 2)


def load_model(folder: Path) -> StableDiffusionPipeline:
    """Load such a folder in single precision, from disk only, without progress bars."""
    if not (folder / "model_index.json").exists():
        raise ModelError(
            f"'{folder}' has no model_index.json; a diffusers model folder is needed. "
            f"Train one with `python -m fatezero_ext.toy.training.train --output {folder}`, or give another folder."
        )
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.float().eval()
    return pipeline
