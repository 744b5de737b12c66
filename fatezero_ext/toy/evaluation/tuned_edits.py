"""Edits of shapes on fresh clips by the built-in model, before and after it learnt each.

    python -m fatezero_ext.toy.evaluation.tuned_edits --clips 8 --steps 200

One line of JSON for each clip goes to standard output, and the means at the end. `from noise` is the clip drawn from
seeded pure noise under its own prompt, compared with the clip: tuning must bring it nearer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from ...attention.key_frames import DEFAULT_KEY_FRAMES, KeyFrame
from ...choices import RECIPES
from ...diffusion.guided_text import embedded
from ...models.load import VideoModel, load_toy
from ...models.unet.inflate import InflationSettings, TemporalLayers
from ...tuning.settings import TuningSettings
from ...tuning.tune import tune
from .edit_runs import OWN_KEYS, STEPS, Outcome, Runs
from .fresh_clips import fresh_clip
from .scores import psnr

Figures = Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    keys: tuple[KeyFrame, ...] = DEFAULT_KEY_FRAMES if options.published_keys else OWN_KEYS
    model = load_toy(InflationSettings(key_frames=keys))
    layers = TemporalLayers(rank=options.rank) if options.recipe == "fatezero" else None
    settings = TuningSettings(
        steps=options.steps, learning_rate=options.learning_rate, recipe=options.recipe, temporal=layers
    )
    lines = []
    for index in range(options.first, options.first + options.clips):
        line = _of_clip(model, settings, options.seed, index, options.kind)
        lines.append(line)
        _say({"clip": index, **line})
    names = ("before", "after")
    means = {name: {key: fmean(line[name][key] for line in lines) for key in lines[0][name]} for name in names}
    _say({"clips": len(lines), **means, "seconds of tuning": fmean(line["tuning"]["seconds"] for line in lines)})
    return 0


def _of_clip(
    model: VideoModel, settings: TuningSettings, seed: int, index: int, kind: str
) -> dict[str, dict[str, float]]:
    """Edit clip `index` of a seed with the model as it is, tune it, and edit again."""
    clip = fresh_clip(seed, index)
    latents = model.vae.encode(torch.as_tensor(clip.frames))
    began = time.perf_counter()
    result = tune(model.unet, model.text_encoder, latents, clip.prompt, settings)
    tuning = {
        "seconds": time.perf_counter() - began,
        "first losses": fmean(result.losses[:20]),
        "last losses": fmean(result.losses[-20:]),
    }
    tuned = VideoModel(result.unet, model.text_encoder, model.vae)
    return {
        "before": _figures(model, latents, seed, index, kind),
        "after": _figures(tuned, latents, seed, index, kind),
        "tuning": tuning,
    }


def _figures(model: VideoModel, latents: Tensor, seed: int, index: int, kind: str) -> dict[str, float]:
    (outcome,) = Runs(lambda _keys: model, seed).of_clip(index, [kind])
    clip = fresh_clip(seed, index)
    drawn = model.vae.decode(_from_noise(model, latents, clip.prompt))
    return {**_of_edit(outcome), "from noise, dB": psnr(drawn.numpy(), clip.frames)}


def _of_edit(outcome: Outcome) -> dict[str, float]:
    figures = outcome.figures
    return {
        "frames edited": figures.edited / figures.frames,
        "frames kept": figures.kept / figures.frames,
        "IoU": figures.object_iou,
        "unchanged, dB": figures.stays_psnr,
        "flicker": figures.flicker,
    }


@torch.no_grad()
def _from_noise(model: VideoModel, latents: Tensor, prompt: str) -> Tensor:
    """Draw a clip from seeded noise under its prompt, without guidance; raw latents like those given."""
    unet, schedule = model.unet, model.unet.schedule(STEPS)
    text = embedded(model.text_encoder, [prompt], unet)
    x = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    for step, timestep in enumerate(schedule.timesteps):
        x = schedule.denoise(x, unet(x, timestep, text, frames=len(x)), step)
    return x / unet.latent_format.scale


def _say(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    grammar = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = grammar.add_argument
    add("--clips", type=int, default=8)
    add("--first", type=int, default=0, help="number of the first clip of the seed")
    add("--seed", type=int, default=1900)
    add("--kind", default="shape", help="of edit (default: shape)")
    add("--steps", type=int, default=200)
    add("--learning-rate", type=float, default=1e-4)
    add("--recipe", choices=RECIPES, default=RECIPES[0])
    add("--rank", type=int, default=16)
    add("--threads", type=int, default=1)
    add("--published-keys", action="store_true", help="frames read the keys of -1 and first, not their own")
    return grammar


if __name__ == "__main__":
    raise SystemExit(main())
