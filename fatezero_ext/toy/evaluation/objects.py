"""Measure the objects of a toy model: `python -m fatezero_ext.toy.evaluation.objects MODEL_DIR [--objects N]`.

`evaluate` measures the coloured shapes; both halves of the world have their own figures.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from ...atomic_files import whole_file
from ...editing.automatic import resolved_settings
from ...editing.edit import edit
from ...editing.settings import EditSettings
from ...inversion.controller import Controller
from ...inversion.invert import invert
from ...models.load import VideoModel
from ...models.load import load_model as load_video_model
from ...models.unet.inflate import InflationSettings
from ..training.export import load_model
from ..training.pool import CELL
from ..world.captions import caption
from ..world.clips import Clip, sample_object_clip
from ..world.outline import overlap
from ..world.render import object_mask, render
from ..world.rich import can_be_seen, rich_scene_at
from ..world.world import NO_STYLE, OBJECTS, OWN_COLOUR, STYLES, Scene
from .evaluate import decode, draw, encode, shape_word_maps
from .long_runs import picture_file, result_file, run, write_json
from .progress import picture_sheet, prompt_scenes, words_right
from .scores import flicker, psnr
from .things import read_scene

STEPS = 30
EDIT_STEPS = 20
_SEED = 5_151

Figures = dict[str, float]


@dataclass(frozen=True)
class Amounts:
    """Numbers of pictures that are drawn.

    prompts: half with one object, a quarter with a shape and a quarter with two things
    styled:  pictures of objects in each style
    held:    rendered scenes behind the VAE
    clips:   clips of which one object is exchanged for the next
    """

    prompts: int = 60
    styled: int = 8
    held: int = 100
    clips: int = 4
    frames: int = 8


def words_drawn(
    pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int, sheet: Path | None = None
) -> Figures:
    """Measure the share of pictures in which the oracle reads the words of the prompt; sheet: save them there."""
    scenes = prompt_scenes(objects, count, _SEED)
    frames = draw(pipeline, [caption(scene) for scene in scenes], STEPS)
    if sheet:
        with whole_file(sheet) as unfinished:
            picture_sheet(frames).save(unfinished, "PNG")
    return _shares(scenes, frames, objects)


def styles_drawn(pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int) -> Figures:
    """Measure the share of pictures of an object in which the oracle reads the requested style."""
    clips = {style: [_styled_clip(seed, style, objects) for seed in range(count)] for style in STYLES}
    figures = {}
    for style, asked in clips.items():
        frames = draw(pipeline, [clip.prompt for clip in asked], STEPS)
        figures[f"style {style}"] = float(np.mean([read_scene(frame).style == style for frame in frames]))
    return figures


def _styled_clip(seed: int, style: str, objects: tuple[str, ...]) -> Clip:
    return sample_object_clip(seed, frames=1, style=style, objects=objects)


def vae_keeps(pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int) -> Figures:
    """Measure the PSNR of held-out scenes with objects behind the VAE, and what the oracle reads there."""
    scenes = [scene for scene in (rich_scene_at(_SEED, index, objects) for index in range(3 * count)) if _object(scene)]
    scenes = [replace(scene, style=NO_STYLE) for scene in scenes[:count]]
    frames = np.stack([render(scene) for scene in scenes])
    behind = decode(pipeline, encode(pipeline, frames))
    masks = np.stack([object_mask(scene) for scene in scenes])
    each = [psnr(behind[i : i + 1], frames[i : i + 1]) for i in range(len(frames))]
    inside = [psnr(behind[i : i + 1], frames[i : i + 1], masks[i : i + 1]) for i in range(len(frames))]
    figures = {"VAE PSNR": float(np.mean(each)), "VAE PSNR of the objects alone": float(np.mean(inside))}
    return figures | {f"oracle behind the VAE, {n}": v for n, v in _shares(scenes, behind, objects).items()}


def _object(scene: Scene) -> bool:
    return any(thing.is_object for thing in scene.things)


def _shares(scenes: list[Scene], frames: np.ndarray, objects: tuple[str, ...]) -> Figures:
    right: dict[str, list[float]] = defaultdict(list)
    for scene, frame in zip(scenes, frames, strict=True):
        for name, value in words_right(scene, read_scene(frame, things=len(scene.things), objects=objects)).items():
            right[name].append(value)
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def attention_found(pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int) -> Figures:
    """Measure the overlap of the object word's attention with the object's true mask, at the best threshold of each."""
    scenes = [sample_object_clip(seed, frames=1, objects=objects).scenes[0] for seed in range(count)]
    maps = shape_word_maps(pipeline, scenes)
    masks = torch.from_numpy(np.stack([object_mask(scene) for scene in scenes]))[:, None]
    true = torch.nn.functional.avg_pool2d(masks, CELL).flatten(1) > 0.5
    maps = maps / maps.amax(dim=1, keepdim=True)
    found = torch.stack([maps > threshold for threshold in torch.linspace(0.05, 0.95, 19)])
    ious = (found & true).sum(-1) / (found | true).sum(-1).clamp(min=1)
    return {"attention IoU, best threshold": float(ious.amax(dim=0).mean())}


def objects_edited(model: VideoModel, objects: tuple[str, ...], amounts: Amounts) -> Figures:
    """Exchange one object for the next on clips whose exact truth is known, with the settings of an object's edit.

    Each frame reads its own keys; the source's pixels are not put back, so that the figures are the model's.
    """
    rows = [_edited(model, seed, objects, amounts.frames) for seed in range(amounts.clips)]
    return {f"edit: {name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _edited(model: VideoModel, seed: int, objects: tuple[str, ...], frames: int) -> Figures:
    source = sample_object_clip(_SEED + seed, frames=frames, objects=objects)
    scene = source.scenes[0]
    name = next_object(scene, objects)
    truth = source.edited(shape=name)
    controller = Controller(model.unet)
    latents = model.vae.encode(torch.as_tensor(source.frames))
    controller = invert(controller, model.text_encoder, latents, source.prompt, steps=EDIT_STEPS)
    settings = resolved_settings(EditSettings(kind="object"), source.prompt, truth.prompt, built_in=True)
    result = edit(controller, model.text_encoder, truth.prompt, settings)
    edited = model.vae.decode(result.latents).numpy()
    readings = [read_scene(frame, objects=objects) for frame in edited]
    stays = ((source.masks <= 0) & (truth.masks <= 0)).astype(np.float32)
    found = [reading.things[0].mask if reading.things else np.zeros_like(stays[0]) for reading in readings]
    return {
        "object right": float(np.mean([bool(one.things) and one.things[0].shape == name for one in readings])),
        "background kept": float(np.mean([one.background == scene.background for one in readings])),
        "PSNR of what stays": psnr(edited, truth.frames, stays),
        "object IoU": float(np.mean([overlap(one, mask) for one, mask in zip(found, truth.masks, strict=True)])),
        "flicker": flicker(edited, truth.frames),
    }


def next_object(scene: Scene, objects: tuple[str, ...]) -> str:
    """Choose what an object becomes: the next in the list that can be seen on its background."""
    start = objects.index(scene.shape) + 1
    for name in (*objects[start:], *objects[: start - 1]):
        if can_be_seen(name, OWN_COLOUR, scene.background):
            return name
    raise ValueError(f"no other object of {len(objects)} can be seen on '{scene.background}'. Choose another clip.")


def evaluate(
    folder: Path, objects: tuple[str, ...], amounts: Amounts, figures: Figures, sheet: Path | None = None
) -> None:
    """Measure all figures of a model; `figures` receives them by name, as soon as each is measured."""
    pipeline = load_model(folder)
    figures |= vae_keeps(pipeline, objects, amounts.held)
    figures |= words_drawn(pipeline, objects, amounts.prompts, sheet)
    figures |= styles_drawn(pipeline, objects, amounts.styled)
    figures |= attention_found(pipeline, objects, amounts.prompts)
    figures |= objects_edited(load_video_model(folder, InflationSettings(key_frames=())), objects, amounts)


def table(figures: Figures) -> Iterable[str]:
    """Write a line for every figure."""
    return (f"{name:<40}{value:>8.3f}" for name, value in figures.items())


def main(arguments: list[str] | None = None) -> int:
    """Print the figures of a model; after Ctrl-C or an error those that were measured until then."""
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.evaluation.objects", description=__doc__)
    parser.add_argument("model", type=Path, help="folder in diffusers' layout")
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help="objects that the model was trained on")
    parser.add_argument("--prompts", type=int, default=Amounts.prompts, help="pictures that are drawn of prompts")
    parser.add_argument("--styled", type=int, default=Amounts.styled, help="pictures of each style")
    parser.add_argument("--clips", type=int, default=Amounts.clips, help="clips that are edited")
    parser.add_argument("--sheet", type=picture_file, help="also save the pictures of the prompts there")
    parser.add_argument("--json", type=result_file, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    amounts = Amounts(options.prompts, options.styled, clips=options.clips)
    figures: Figures = {}
    return run(
        lambda: evaluate(options.model, OBJECTS[: options.objects], amounts, figures, options.sheet),
        lambda: _report(figures, options.json),
    )


def _report(figures: Figures, file: Path | None) -> None:
    if not figures:
        return
    sys.stdout.write("\n".join(table(figures)) + "\n")
    if file:
        write_json(file, figures)


if __name__ == "__main__":
    sys.exit(main())
