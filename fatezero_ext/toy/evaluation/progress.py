"""Test of a model that is still being trained: draw what prompts say and read it."""

from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..training.autoencoder import SCALING
from ..training.denoiser import build_scheduler
from ..world.captions import caption
from ..world.rich import rich_scene_at
from ..world.world import NO_STYLE, Scene
from .things import SceneReading, read_scene

PROMPTS = 24
STEPS = 20
GUIDANCE = 5.0
COLUMNS = 8
_SEED = 8_484


def draw_and_read(
    folder: Path,
    objects: tuple[str, ...],
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    steps: int,
    *,
    prompts: int = PROMPTS,
) -> dict[str, float]:
    """Draw fixed prompts with a model, save the pictures as a sheet in `folder`, and measure what the oracle reads.

    folder: of a training run: holds VAE and tokenizer
    steps:  the model's age, for the name of the sheet
    Returns shares of the prompts: object, shape, colour, background; pair: both of two things.
    """
    scenes = prompt_scenes(objects, prompts)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True)
    frames = _drawn(unet, text_encoder, vae, tokenizer, [caption(scene) for scene in scenes])
    picture_sheet(frames).save(folder / f"drawn{steps:06d}.png")
    right: dict[str, list[float]] = defaultdict(list)
    for scene, frame in zip(scenes, frames, strict=True):
        for name, value in words_right(scene, read_scene(frame, things=len(scene.things), objects=objects)).items():
            right[name].append(value)
    return {name: mean(values) for name, values in sorted(right.items())}


def prompt_scenes(objects: tuple[str, ...], count: int = PROMPTS, seed: int = _SEED) -> list[Scene]:
    """Return unstyled scenes of which half have one object, a quarter a shape and a quarter two things."""
    wanted = {"one": count // 2, "shape": count // 4, "pair": count // 4} if objects else {"shape": count}
    scenes: list[Scene] = []
    index = 0
    while sum(wanted.values()):
        scene = rich_scene_at(seed, index, objects)
        kind = "pair" if scene.second else "one" if scene.things[0].is_object else "shape"
        if scene.style == NO_STYLE and wanted[kind]:
            scenes.append(scene)
            wanted[kind] -= 1
        index += 1
    return scenes


def words_right(scene: Scene, found: SceneReading) -> dict[str, float]:
    """Compare a reading with what the scene's caption says: 1 for a word that is right, 0 for one that is not."""
    wanted = sorted((thing.shape, thing.colour if not thing.is_object else "") for thing in scene.things)
    read = sorted((thing.shape, thing.colour or "") for thing in found.things)
    right = {"background": float(found.background == scene.background)}
    if scene.second is not None:
        return right | {"pair": float(read == wanted)}
    shape, colour = read[0] if read else ("", "")
    if scene.things[0].is_object:
        return right | {"object": float(shape == scene.shape)}
    return right | {"shape": float(shape == scene.shape), "colour": float(colour == scene.colour)}


@torch.no_grad()
def _drawn(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    prompts: list[str],
) -> np.ndarray:
    """Draw a picture of each prompt, at once. Returns [prompts, H, W, 3] in 0..1."""
    ids = tokenizer([*prompts, *[""] * len(prompts)], padding="max_length", return_tensors="pt").input_ids
    text = text_encoder(ids.to(unet.device)).last_hidden_state
    scheduler: DDIMScheduler = build_scheduler()
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(_SEED)
    side = unet.config["sample_size"]
    latents = torch.randn(len(prompts), 4, side, side, generator=generator).to(unet.device)
    for t in scheduler.timesteps:
        told, untold = unet(torch.cat((latents, latents)), t, text).sample.chunk(2)
        latents = scheduler.step(untold + GUIDANCE * (told - untold), t, latents, return_dict=False)[0]
    nn.Module.to(vae, unet.device)
    pixels = vae.decode(latents / SCALING).sample
    return (pixels.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).cpu().numpy()


def picture_sheet(frames: np.ndarray) -> Image.Image:
    """Put pictures [n, H, W, 3] in rows of `COLUMNS`."""
    count, height, width, _ = frames.shape
    rows = -(-count // COLUMNS)
    sheet = np.ones((rows * COLUMNS, height, width, 3), np.float32)
    sheet[:count] = frames
    grid = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    return Image.fromarray(np.round(grid * 255).astype(np.uint8))
