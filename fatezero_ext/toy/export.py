"""Write the trained parts as a folder that StableDiffusionPipeline loads."""

import logging
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from fatezero_ext.toy.denoiser import build_scheduler
from fatezero_ext.toy.tokenizer import build_tokenizer


def save_model(
    folder: Path,
    *,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
) -> None:
    """Save everything in half precision, in diffusers' layout. The models given are converted in place.

    The tokenizer is written anew: transformers would save one file of its own in place of vocab.json and merges.txt.
    """
    for part in (unet, vae):
        part.register_to_config(_name_or_path="")
    pipeline = StableDiffusionPipeline(
        unet=unet.half(),
        text_encoder=text_encoder.half(),
        vae=vae.half(),
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    build_tokenizer(folder / "tokenizer")


def load_model(folder: Path) -> StableDiffusionPipeline:
    """Load such a folder in single precision, from disk only, without progress bars."""
    if not (folder / "model_index.json").exists():
        raise FileNotFoundError(
            f"'{folder}' has no model_index.json; a diffusers model folder is needed. "
            f"Train one with `python -m fatezero_ext.toy.train --output {folder}`, or give another folder."
        )
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.float().eval()
    return pipeline
