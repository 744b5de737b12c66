"""Measure a toy model: `python -m fatezero_ext.toy.evaluation.evaluate MODEL_DIR [--json FILE]`."""

import argparse
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor

from ...choices import World
from ...diffusion.noise_model import LatentFormat
from ...editing.edit import edit
from ...editing.settings import EditSettings
from ...inversion.controller import Controller
from ...inversion.invert import invert
from ...inversion.recording import Capture
from ...models.folder.detect import TOY_FOLDER
from ...models.load import VideoModel
from ...models.text_encoder import ClipTextEncoder
from ...models.unet.inflate import InflationSettings
from ...models.unet.model import Pseudo3DUNet
from ...models.vae import VideoVAE
from ..training.export import load_model
from ..training.localisation import record_cross_attention
from ..training.tokenizer import token_words
from ..world.captions import caption
from ..world.clips import sample_clip
from ..world.render import object_mask, render
from ..world.world import NO_STYLE, STYLES, Scene, sample_scene
from .edit_runs import Runs
from .fresh_clips import KINDS
from .long_runs import result_file, run, write_json
from .oracle import read
from .quality_table import rows
from .scores import psnr

GUIDANCE = 5.0
STEPS = 30
PROMPTS = 40
PROMPTS_PER_STYLE = 16
READINGS_PER_STYLE = 100
EDITED_CLIPS, EDITED_FRAMES = 2, 8
EDIT_FIGURES = ("right", "stays_psnr", "object_iou", "area", "steady")
"""Figures of `edit_quality` that are shown of edits."""
ATTENTION_TIMESTEP = 301
ATTENTION_THRESHOLD = 0.3
ATTENTION_LEVELS = ("down_blocks.0", "up_blocks.3")
"""The 16x16 cross-attentions, which blending masks are read from."""
_SEED = 4_242

REFERENCE = {
    "colour": 1.0,
    "shape": 0.975,
    "background": 1.0,
    "all three": 0.975,
    "style sketch": 1.0,
    "style watercolor": 1.0,
    "style pixel": 0.25,
    "style monochrome": 1.0,
    "attention IoU, best threshold": 0.88,
    "attention IoU, threshold 0.3": 0.68,
    "inversion PSNR, 20 steps": 33.9,
    "inversion PSNR, 50 steps": 40.2,
}
"""Figures of an earlier model trained by the same recipe."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """Amounts that are drawn.

    steps:         DDIM steps per picture
    prompts:       pictures that test colour, shape and background
    style_prompts: pictures of each style
    readings:      rendered pictures of each style that test the oracle itself
    edits:         fresh clips that are edited in every kind
    """

    steps: int = STEPS
    prompts: int = PROMPTS
    style_prompts: int = PROMPTS_PER_STYLE
    readings: int = READINGS_PER_STYLE
    edits: int = EDITED_CLIPS


def evaluate(pipeline: StableDiffusionPipeline, settings: Settings, figures: Figures) -> None:
    """Measure all figures of a model; `figures` receives them by name, as soon as each is measured."""
    for measure in MEASUREMENTS:
        figures |= measure(pipeline, settings)


def plain_scenes(count: int) -> list[Scene]:
    """Return the unstyled scenes that models are tested with."""
    return [sample_scene(np.random.default_rng((_SEED, index)), styled_share=0) for index in range(count)]


@torch.no_grad()
def draw(pipeline: StableDiffusionPipeline, prompts: list[str], steps: int, seed: int = _SEED) -> np.ndarray:
    """Draw a picture of each prompt. Returns [prompts, H, W, 3] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    pictures = [
        pipeline(
            prompts[start : start + 8],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="np",
        ).images
        for start in range(0, len(prompts), 8)
    ]
    return np.concatenate(pictures)


def words_drawn(pipeline: StableDiffusionPipeline, settings: Settings) -> Figures:
    """Measure the share of pictures in which the oracle reads the words of the prompt."""
    scenes = plain_scenes(settings.prompts)
    readings = [read(frame) for frame in draw(pipeline, [caption(scene) for scene in scenes], settings.steps)]
    names = ("colour", "shape", "background")
    right = np.array(
        [
            [getattr(one, name) == getattr(scene, name) for name in names]
            for one, scene in zip(readings, scenes, strict=True)
        ]
    )
    return dict(zip(names, right.mean(axis=0).tolist(), strict=True)) | {"all three": float(right.all(axis=1).mean())}


def styles_drawn(pipeline: StableDiffusionPipeline, settings: Settings) -> Figures:
    """Measure the share of pictures in which the oracle reads the requested style."""
    figures = {}
    for style in STYLES:
        clips = [sample_clip(seed, frames=1, style=style) for seed in range(settings.style_prompts)]
        pictures = draw(pipeline, [clip.prompt for clip in clips], settings.steps)
        figures[f"style {style}"] = float(np.mean([read(picture).style == style for picture in pictures]))
    return figures


def styles_read(pipeline: StableDiffusionPipeline, settings: Settings) -> Figures:
    """Measure the share of rendered pictures whose style the oracle reads behind the VAE: its limit on drawn ones."""
    figures = {}
    for number, style in enumerate((NO_STYLE, *STYLES)):
        rng = np.random.default_rng((_SEED, number, 7))
        scenes = [replace(sample_scene(rng, styled_share=0), style=style) for _ in range(settings.readings)]
        behind = decode(pipeline, encode(pipeline, np.stack([render(scene) for scene in scenes])))
        figures[f"oracle behind the VAE, {style}"] = float(np.mean([read(frame).style == style for frame in behind]))
    return figures


def attention_found(pipeline: StableDiffusionPipeline, settings: Settings) -> Figures:
    """Measure the overlap of the shape word's attention with the true mask."""
    scenes = plain_scenes(settings.prompts)
    maps = shape_word_maps(pipeline, scenes)
    masks = torch.from_numpy(np.stack([object_mask(scene) for scene in scenes]))[:, None]
    true = torch.nn.functional.avg_pool2d(masks, 4).flatten(1) > 0.5
    maps = maps / maps.amax(dim=1, keepdim=True)
    overlaps = torch.stack([_overlaps(maps > threshold, true) for threshold in torch.linspace(0.05, 0.95, 19)])
    return {
        "attention IoU, best threshold": float(overlaps.amax(dim=0).mean()),
        "attention IoU, threshold 0.3": float(_overlaps(maps > ATTENTION_THRESHOLD, true).mean()),
    }


@torch.no_grad()
def shape_word_maps(pipeline: StableDiffusionPipeline, scenes: list[Scene]) -> Tensor:
    """Return the shape word's attention [scenes, cells] at ATTENTION_TIMESTEP, mean over heads and layers."""
    latents = encode(pipeline, np.stack([render(scene) for scene in scenes]))
    alpha = pipeline.scheduler.alphas_cumprod[ATTENTION_TIMESTEP]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(_SEED))
    prompts = [caption(scene).split() for scene in scenes]
    tokens, owners = (torch.tensor(part) for part in zip(*(token_words(pipeline.tokenizer, p) for p in prompts)))  # noqa: B905
    maps: dict[str, Tensor] = {}
    plain = pipeline.unet.attn_processors
    record_cross_attention(pipeline.unet, maps, ATTENTION_LEVELS)
    text = pipeline.text_encoder(tokens).last_hidden_state
    pipeline.unet(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, ATTENTION_TIMESTEP, text)
    pipeline.unet.set_attn_processor(plain)
    places = torch.tensor([words.index(scene.shape) for words, scene in zip(prompts, scenes, strict=True)])
    spoken = (owners == places[:, None]).float()
    return (torch.stack(list(maps.values())).mean(dim=0) @ spoken[..., None])[..., 0]


def inversion_returns(pipeline: StableDiffusionPipeline, settings: Settings) -> Figures:
    """Measure the PSNR of inverting clips and denoising them again, against the VAE alone."""
    model = video_model(pipeline, InflationSettings(key_frames=(), norm="frame"))
    uncontrolled = EditSettings("replace", cross_replace=0.0, self_replace=0.0, blend=None, guidance=1.0)
    figures = {}
    clips = [sample_clip(seed, frames=4) for seed in range(3)]
    for steps in (20, 50):
        values = []
        for clip in clips:
            latents = model.vae.encode(torch.as_tensor(clip.frames))
            controller = Controller(model.unet, Capture(self_attention=False))
            controller = invert(controller, model.text_encoder, latents, clip.prompt, steps=steps, inversion_passes=0)
            back = edit(controller, model.text_encoder, clip.prompt, uncontrolled).latents
            values.append(psnr(model.vae.decode(back).numpy(), model.vae.decode(latents).numpy()))
        figures[f"inversion PSNR, {steps} steps"] = float(np.mean(values))
    return figures


def edits_made(pipeline: StableDiffusionPipeline, settings: Settings, world: World = "shapes") -> Figures:
    """Measure a few edits of every kind, as `fatezero_ext.toy.edit_quality` measures many."""
    model = cache(lambda keys: video_model(pipeline, InflationSettings(key_frames=keys)))
    runs = Runs(model, _SEED, EDITED_FRAMES, world=world)
    outcomes = [outcome for index in range(settings.edits) for outcome in runs.of_clip(index, KINDS[world])]
    found = {kind: row for kind, row in rows(outcomes).items() if kind in KINDS[world]}
    shown = {f"{kind} edits, {name}": row[name] for kind, row in found.items() for name in EDIT_FIGURES}
    return {name: value for name, value in shown.items() if value is not None}


def video_model(pipeline: StableDiffusionPipeline, settings: InflationSettings) -> VideoModel:
    """Return a copy of a pipeline's model that edits videos."""
    text, vae = ClipTextEncoder(pipeline.tokenizer, pipeline.text_encoder), VideoVAE(pipeline.vae)
    latent_format = LatentFormat(vae.net.config["scaling_factor"], vae.pixels_per_cell)
    net, scheduler = deepcopy(pipeline.unet), pipeline.scheduler.config
    return VideoModel(Pseudo3DUNet(net, settings, latent_format=latent_format, scheduler=scheduler), text, vae)


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, frames: np.ndarray) -> Tensor:
    """Encode frames [n, H, W, 3] in 0..1 to scaled latents [n, 4, h, w]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) * 2 - 1
    return pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor


@torch.no_grad()
def decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> np.ndarray:
    """Decode scaled latents [n, 4, h, w] to frames [n, H, W, 3] in 0..1."""
    pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return (pixels.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()


def _overlaps(found: Tensor, true: Tensor) -> Tensor:
    return (found & true).sum(dim=1) / (found | true).sum(dim=1).clamp(min=1)


Measurement = Callable[[StableDiffusionPipeline, Settings], Figures]

MEASUREMENTS: tuple[Measurement, ...] = (
    words_drawn,
    styles_drawn,
    styles_read,
    attention_found,
    inversion_returns,
    edits_made,
)
"""Everything that is measured; a new figure is one more function here."""


def table(figures: Figures) -> str:
    """Tabulate the figures beside those of the earlier model."""
    rows = [("figure", "here", "reference"), *((n, f"{v:.3f}", _known(n)) for n, v in figures.items())]
    return "\n".join(f"{name:<32}{here:>8}{reference:>11}" for name, here, reference in rows)


def _known(name: str) -> str:
    return f"{REFERENCE[name]:.3f}" if name in REFERENCE else "-"


def main(arguments: list[str] | None = None) -> int:
    """Print the table of a model; after Ctrl-C or an error that of what was measured until then."""
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.evaluation.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=TOY_FOLDER, help="folder in diffusers' layout")
    parser.add_argument("--steps", type=int, default=STEPS, help="DDIM steps per picture")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="pictures that tell colour, shape and background")
    parser.add_argument("--style-prompts", type=int, default=PROMPTS_PER_STYLE, help="pictures of each style")
    parser.add_argument("--edits", type=int, default=EDITED_CLIPS, help="clips that are edited in every kind")
    parser.add_argument("--json", type=result_file, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    settings = Settings(options.steps, options.prompts, options.style_prompts, edits=options.edits)
    figures: Figures = {}
    return run(
        lambda: evaluate(load_model(options.model), settings, figures),
        lambda: _report(figures, options.json),
    )


def _report(figures: Figures, file: Path | None) -> None:
    if not figures:
        return
    sys.stdout.write(table(figures) + "\n")
    if file:
        write_json(file, figures)


if __name__ == "__main__":
    sys.exit(main())
