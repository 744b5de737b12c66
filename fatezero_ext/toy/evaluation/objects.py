"""Measure the objects of a toy model: `python -m fatezero_ext.toy.evaluation.objects [MODEL_DIR] [--objects N]`.

`evaluate` measures the coloured shapes; both halves of the world have their own figures. `edit_quality --world objects`
measures many edits.
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
from ...models.folder.detect import BUILT_IN_FOLDERS
from ..training.export import load_model
from ..training.pool import CELL
from ..world.captions import caption
from ..world.clips import Clip, sample_object_clip
from ..world.render import object_mask, render
from ..world.rich import rich_scene_at
from ..world.world import NO_STYLE, OBJECTS, STYLES, Scene
from .evaluate import EDITED_CLIPS, Settings, decode, draw, edits_made, encode, shape_word_maps
from .long_runs import picture_file, result_file, run, whole_number, write_json
from .progress import picture_sheet, prompt_scenes, words_right
from .scores import psnr
from .things import read_scene

STEPS = 30
SEED = 5_151

Figures = dict[str, float]


@dataclass(frozen=True)
class Amounts:
    """Numbers of pictures that are drawn.

    prompts: half with one object, a quarter with a shape and a quarter with two things
    styled:  pictures of objects in each style
    held:    rendered scenes behind the VAE
    edits:   fresh clips that are edited in every kind; none of a model of fewer objects, which does not know them
    seed:    of the prompts' scenes, and of those behind the VAE
    """

    prompts: int = 60
    styled: int = 8
    held: int = 100
    edits: int = EDITED_CLIPS
    seed: int = SEED


def words_drawn(
    pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int, sheet: Path | None = None, seed: int = SEED
) -> Figures:
    """Measure the share of pictures in which the oracle reads the words of the prompt; sheet: save them there."""
    scenes = prompt_scenes(objects, count, seed)
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


def vae_keeps(pipeline: StableDiffusionPipeline, objects: tuple[str, ...], count: int, seed: int = SEED) -> Figures:
    """Measure the PSNR of held-out scenes with objects behind the VAE, and what the oracle reads there."""
    scenes = [scene for scene in (rich_scene_at(seed, index, objects) for index in range(3 * count)) if _object(scene)]
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


def evaluate(
    folder: Path, objects: tuple[str, ...], amounts: Amounts, figures: Figures, sheet: Path | None = None
) -> None:
    """Measure all figures of a model; `figures` receives them by name, as soon as each is measured."""
    pipeline = load_model(folder)
    figures |= vae_keeps(pipeline, objects, amounts.held, amounts.seed)
    figures |= words_drawn(pipeline, objects, amounts.prompts, sheet, amounts.seed)
    figures |= styles_drawn(pipeline, objects, amounts.styled)
    figures |= attention_found(pipeline, objects, amounts.prompts)
    if objects == OBJECTS:
        figures |= edits_made(pipeline, Settings(edits=amounts.edits), "objects")


def table(figures: Figures) -> Iterable[str]:
    """Write a line for every figure."""
    return (f"{name:<40}{value:>8.3f}" for name, value in figures.items())


def main(arguments: list[str] | None = None) -> int:
    """Print the figures of a model; after Ctrl-C or an error those that were measured until then."""
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext.toy.evaluation.objects", description=__doc__)
    parser.add_argument(
        "model", type=Path, nargs="?", default=BUILT_IN_FOLDERS["objects"], help="folder in diffusers' layout"
    )
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help="objects that the model was trained on")
    parser.add_argument("--prompts", type=int, default=Amounts.prompts, help="pictures that are drawn of prompts")
    parser.add_argument("--styled", type=int, default=Amounts.styled, help="pictures of each style")
    parser.add_argument("--edits", type=int, default=Amounts.edits, help="clips that are edited in every kind")
    parser.add_argument(
        "--seed", type=whole_number, default=Amounts.seed, help="of the prompts and of the VAE's scenes"
    )
    parser.add_argument("--sheet", type=picture_file, help="also save the pictures of the prompts there")
    parser.add_argument("--json", type=result_file, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    amounts = Amounts(options.prompts, options.styled, edits=options.edits, seed=options.seed)
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
