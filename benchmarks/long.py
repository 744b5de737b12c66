"""Seconds and peak memory of whole jobs, inversion and edit, as clips get longer: whole, and in parts.

Each size runs in a process of its own, so that its peak memory is its own. The built-in model edits a clip of its
world, pixels to pixels, and the first and the last frames of the edit are read; others compute random latents.
--card GIB adds what the planner counts for the longest clip on a device of that memory, in half precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, peak_rss, write_json
from benchmarks.options import parser, settings
from benchmarks.subjects import STABLE_DIFFUSION_15, subject
from fatezero_ext import Controller, EditSettings, InflationSettings, Pseudo3DUNet, Storage, edit, invert, load_toy
from fatezero_ext.inversion.footprint import ClipShape, levels_size
from fatezero_ext.toy.evaluation.edits import measure
from fatezero_ext.toy.evaluation.fresh_clips import fresh_clip
from fatezero_ext.toy.world.captions import caption
from fatezero_ext.toy.world.clips import Clip

LENGTHS = [8, 16, 32, 64, 128, 256, 512]
LONGEST_WHOLE = 64
"""Frames above which no clip is computed whole, unless asked for."""
FRAMES_AT_ONCE = 8
READ = 30
"""First and last frames of an edit that are read."""
BUILT_IN = "built-in"
SEED, INDEX, CHANGE = 1, 0, "blue"
GIB = 2**30
Figures = Mapping[str, object]


def of_random_latents(options: argparse.Namespace, frames: int, at_once: int) -> Figures:
    """One job of a model with random latents and texts, in this process."""
    shape = (options.model, frames, options.side, options.steps, options.edit)
    measured = subject(*shape, device=options.device, dtype=options.dtype, norm="frame")
    parts, kept = measured.unet.parts(frames, at_once), []
    began = peak_rss()
    recording = measured.recording(options.policies[0], parts=parts)
    inversion = seconds(lambda: kept.append(measured.inverted(recording, parts)))
    return {
        "inversion_s": inversion,
        "edit_s": seconds(lambda: measured.edited(kept[0], parts)),
        "kept_bytes": kept[0].nbytes,
        "loaded_rss_bytes": began,
    }


def of_the_built_in_model(options: argparse.Namespace, frames: int, at_once: int) -> Figures:
    """One job by the built-in model on a clip of its world, in this process: the colour of the object changes."""
    model = load_toy(InflationSettings(key_frames=(), norm="frame"), device=torch.device(options.device))
    clip = fresh_clip(SEED, INDEX, frames=frames)
    began, pixels, done = peak_rss(), torch.as_tensor(clip.frames), []
    changes = {"colour": CHANGE}
    prompt, storage = caption(clip.edited(**changes).scenes[0]), Storage(options.policies[0])

    def inversion() -> None:
        latents = model.vae.encode(pixels)
        controller = Controller(model.unet, storage=storage)
        numbers = {"steps": options.steps, "frames_at_once": at_once}
        done.append(invert(controller, model.text_encoder, latents, clip.prompt, **numbers))

    inversion_s = seconds(inversion)
    edit_s = seconds(lambda: done.append(edit(done[0], model.text_encoder, prompt, EditSettings())))
    peak = peak_rss()  # before reading, which is no part of the job
    edited = model.vae.decode(done[1].latents).numpy()
    few = min(READ, frames)
    return {
        "inversion_s": inversion_s,
        "edit_s": edit_s,
        "kept_bytes": done[0].trace.nbytes,
        "loaded_rss_bytes": began,
        "peak_rss_bytes": peak,
        "first": _oracle(edited[:few], clip.scenes[:few], changes),
        "last": _oracle(edited[-few:], clip.scenes[-few:], changes),
    }


def _oracle(edited: object, scenes: object, changes: dict[str, str]) -> Figures:
    found = measure(edited, Clip(scenes), changes)
    names = ("frames", "right", "edited", "kept", "truth_psnr", "stays_psnr", "object_iou", "flicker")
    return {name: getattr(found, name) for name in names}


def one_job(options: argparse.Namespace, frames: int, at_once: int) -> Figures:
    """One job in this process, with the peaks of its memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    job = of_the_built_in_model if options.model == BUILT_IN else of_random_latents
    found = job(options, frames, at_once)
    peak_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"peak_rss_bytes": peak_rss(), "peak_gpu_bytes": peak_gpu, **found}


def in_a_process(options: argparse.Namespace, frames: int, at_once: int) -> Figures:
    """One job in a process of its own."""
    given = {"model": options.model, "side": options.side, "steps": options.steps, "edit": options.edit}
    given |= {"policies": options.policies[0], "threads": options.threads, "frames": frames}
    given |= {"device": options.device, "dtype": options.dtype, "frames-at-once": at_once}
    arguments = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.long", *arguments, "--this-process"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def growth(found: Mapping[int, Figures]) -> Figures:
    """Growth from the shortest to the longest clip: peak memory by frame and in all, time by frame in all."""
    first, last = min(found), max(found)
    if first == last:
        return {}
    peak = {frames: found[frames]["peak_gpu_bytes"] or found[frames]["peak_rss_bytes"] for frames in (first, last)}
    each = {frames: (found[frames]["inversion_s"] + found[frames]["edit_s"]) / frames for frames in (first, last)}
    return {
        "from": first,
        "to": last,
        "peak_bytes_a_frame": (peak[last] - peak[first]) / (last - first),
        "peak_ratio": peak[last] / peak[first],
        "time_a_frame_ratio": each[last] / each[first],
    }


def on_a_card(options: argparse.Namespace, frames: int) -> Figures:
    """What the planner counts in half precision, nothing of the UNet being in memory: which parts fit a device."""
    with torch.device("meta"):
        unet = Pseudo3DUNet(UNet2DConditionModel(**STABLE_DIFFUSION_15).half(), InflationSettings(norm="frame"))
    weights = sum(each.nbytes for each in unet.net.parameters())
    clip = ClipShape(frames, options.side, options.side, 77)
    working = {at_once: unet.working_memory(2, at_once, options.side, options.side) for at_once in (1, 2, 4, 8, frames)}
    fitting = [at_once for at_once, needed in working.items() if needed + weights <= options.card * GIB]
    return {
        "frames": frames,
        "card_bytes": options.card * GIB,
        "weights_bytes": weights,
        "latents_in_ram_bytes": levels_size(unet, options.plan_steps, clip, evaluated=True),
        "working_bytes_by_frames_at_once": working,
        "most_frames_at_once": max(fitting, default=0),
    }


def _row(frames: int, at_once: int, found: Figures) -> list[str]:
    peak = found["peak_gpu_bytes"] or found["peak_rss_bytes"]
    read = [f"{found[end]['right']} of {found[end]['frames']}" for end in ("first", "last") if end in found]
    times = [f"{found['inversion_s']:.1f}", f"{found['edit_s']:.1f}"]
    return [
        str(frames), str(at_once or "all"), *times, f"{found['kept_bytes'] / 1e6:.1f}", f"{peak / 1e6:.0f}", *read
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    grammar = parser(__doc__, frames=LENGTHS[0], side=32, steps=4, edit="shape")
    grammar.set_defaults(frames=LENGTHS, model=BUILT_IN, policies=["recompute"])
    for action in grammar._actions:
        if action.dest == "model":
            action.choices = (BUILT_IN, *action.choices)
    grammar.add_argument("--frames-at-once", type=int, nargs="+", default=[0, FRAMES_AT_ONCE], help="0: all")
    grammar.add_argument("--longest-whole", type=int, default=LONGEST_WHOLE, help="frames; longer ones only in parts")
    grammar.add_argument("--card", type=float, metavar="GIB", help="plan for a device of that memory too")
    grammar.add_argument("--plan-steps", type=int, default=50)
    grammar.add_argument("--this-process", action="store_true", help="run one size here and print its figures")
    return grammar


def main() -> None:
    """Print the table and, with --json, write the figures."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.this_process:
        print(json.dumps(one_job(options, options.frames[0], options.frames_at_once[0])))
        return
    table = Table(title=f"{options.model}, {options.policies[0]}, {options.steps} steps")
    read = ["first right", "last right"] if options.model == BUILT_IN else []
    for column in ("frames", "at once", "inversion s", "edit s", "kept MB", "peak memory MB", *read):
        table.add_column(column, justify="right")
    figures: dict[int, dict[int, Figures]] = {at_once: {} for at_once in options.frames_at_once}
    for at_once in options.frames_at_once:
        for frames in options.frames:
            if at_once or frames <= options.longest_whole:
                figures[at_once][frames] = in_a_process(options, frames, at_once)
                table.add_row(*_row(frames, at_once, figures[at_once][frames]))
    console = Console()
    console.print(table)
    grown = {at_once: growth(found) for at_once, found in figures.items() if found}
    for at_once, rate in grown.items():
        if rate:
            console.print(
                f"{f'{at_once} at once' if at_once else 'all at once'}: from {rate['from']} to {rate['to']} frames the "
                f"peak grows by {rate['peak_bytes_a_frame'] / 1e6:.2f} MB a frame, to {rate['peak_ratio']:.2f} times; "
                f"a frame takes {rate['time_a_frame_ratio']:.2f} times as long",
                soft_wrap=True,
            )
    planned = on_a_card(options, max(options.frames)) if options.card else {}
    if planned:
        console.print(
            f"planned for {planned['frames']} frames of {options.side}x{options.side} cells by recompute on "
            f"{options.card:g} GiB: weights {planned['weights_bytes'] / GIB:.2f} GiB, "
            f"{planned['latents_in_ram_bytes'] / GIB:.2f} GiB of latents in RAM, at most "
            f"{planned['most_frames_at_once']} frames at once of those tried",
            soft_wrap=True,
        )
    all_figures = {"figures": figures, "growth": grown, "plan": planned}
    write_json(options.json, {"settings": settings(options), "machine": described(), **all_figures})


if __name__ == "__main__":
    main()
