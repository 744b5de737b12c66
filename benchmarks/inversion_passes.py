"""What fixed-point passes gain: clips inverted and drawn again without control, against what the VAE alone gives.

The built-in model, under each clip's own prompt, guidance 1: nothing but the inversion stands between the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, write_json
from fatezero_ext import Controller, EditSettings, InflationSettings, Storage, edit, invert, load_toy
from fatezero_ext.inversion.controller import Controller as Inverted
from fatezero_ext.models.load import VideoModel
from fatezero_ext.toy.evaluation.scores import psnr
from fatezero_ext.toy.world.clips import Clip, sample_clip

UNCONTROLLED = EditSettings("replace", cross_replace=0.0, self_replace=0.0, blend=None, guidance=1.0)


def returned(model: VideoModel, clip: Clip, steps: int, passes: int) -> tuple[float, float]:
    """One clip there and back: dB against the VAE's own reconstruction, and the inversion's seconds."""
    latents = model.vae.encode(torch.as_tensor(clip.frames))
    kept: list[Inverted] = []
    took = seconds(
        lambda: kept.append(
            invert(
                Controller(model.unet, storage=Storage("recompute")),
                model.text_encoder,
                latents,
                clip.prompt,
                steps=steps,
                inversion_passes=passes,
            )
        )
    )
    back = edit(kept[0], model.text_encoder, clip.prompt, UNCONTROLLED).latents
    return psnr(model.vae.decode(back).numpy(), model.vae.decode(latents).numpy()), took


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--seed", type=int, default=15_000, help="of the first clip")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--passes", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_toy(InflationSettings(key_frames=()))
    clips = [sample_clip(options.seed + number, frames=options.frames) for number in range(options.clips)]
    table = Table(
        title=f"{options.clips} clips of {options.frames} frames, {options.steps} steps, {described()['processor']}"
    )
    for column in ("passes", "dB", "least", "inversion s"):
        table.add_column(column, justify="right")
    figures: dict[str, dict[str, float]] = {}
    for passes in options.passes:
        found = [returned(model, clip, options.steps, passes) for clip in clips]
        decibels = [each for each, _took in found]
        figures[str(passes)] = {"mean": fmean(decibels), "least": min(decibels), "seconds": fmean(t for _, t in found)}
        row = figures[str(passes)]
        table.add_row(str(passes), f"{row['mean']:.1f}", f"{row['least']:.1f}", f"{row['seconds']:.2f}")
    Console().print(table)
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
