"""Seconds and peak memory of whole jobs, inversion and edit, as clips get longer: whole, and in parts.

Each size runs in a process of its own, so that its peak memory is its own. The built-in model edits a clip of its
world, pixels to pixels, which are made and decoded a few frames at a time as in the runner, and the first and the last
frames of the edit are read; others compute random latents. With norm "clip" the parts of a clip wait for each other.
--card GIB adds what the planner counts for the longest clip on a device of that memory, in half precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, peak_rss, write_json
from benchmarks.options import parser, settings
from benchmarks.subjects import STABLE_DIFFUSION_15, subject
from fatezero_ext import (
    Controller,
    EditSettings,
    InflationSettings,
    InversionCache,
    Pseudo3DUNet,
    Storage,
    edit,
    invert,
    load_toy,
)
from fatezero_ext.inversion.footprint import ClipShape, levels_size
from fatezero_ext.media.streamed import PART
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
NORMS = ("frame", "clip")
SEED, INDEX, CHANGE = 1, 0, "blue"
GIB = 2**30
Figures = Mapping[str, object]


def of_random_latents(options: argparse.Namespace, frames: int, at_once: int) -> Figures:
    """One job of a model with random latents and texts, in this process."""
    shape = (options.model, frames, options.side, options.steps, options.edit)
    measured = subject(*shape, device=options.device, dtype=options.dtype, norm=options.norms[0])
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
    settings = InflationSettings(key_frames=(), norm=options.norms[0])
    model = load_toy(settings, device=torch.device(options.device))
    clip, began, done = fresh_clip(SEED, INDEX, frames=frames), peak_rss(), []
    changes = {"colour": CHANGE}
    prompt = caption(clip.edited(**changes).scenes[0])

    def inversion(storage: Storage) -> None:
        pieces = (Clip(clip.scenes[first : first + PART]).frames for first in range(0, frames, PART))
        latents = torch.cat([model.vae.encode(torch.from_numpy(pixels)) for pixels in pieces])
        controller = Controller(model.unet, storage=storage)
        numbers = {"steps": options.steps, "frames_at_once": at_once}
        done.append(invert(controller, model.text_encoder, latents, clip.prompt, **numbers))

    def edited() -> None:
        latents = edit(done[0], model.text_encoder, prompt, EditSettings()).latents
        done.append(_both_ends(model.vae.decode(part) for part in latents.split(PART)))

    with _kept(options.policies[0], options.place) as storage:
        inversion_s = seconds(lambda: inversion(storage))
        edit_s = seconds(edited)
        kept_bytes = done.pop(0).trace.nbytes  # no file of the folder may be open when it goes
    peak = peak_rss()  # before reading, which is no part of the job
    first, last = (pixels.numpy() for pixels in done[0])
    return {
        "inversion_s": inversion_s,
        "edit_s": edit_s,
        "kept_bytes": kept_bytes,
        "loaded_rss_bytes": began,
        "peak_rss_bytes": peak,
        "first": _oracle(first, clip.scenes[: len(first)], changes),
        "last": _oracle(last, clip.scenes[-len(last) :], changes),
    }


@contextmanager
def _kept(policy: str, place: str) -> Iterator[Storage]:
    """Storage for one job; a folder on disk goes with it."""
    with TemporaryDirectory(prefix="long-") as folder:
        cache = InversionCache(Path(folder), limit=2**40) if place == "disk" else None
        yield Storage(policy, place, cache=cache)


def _both_ends(pieces: Iterator[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first and the last READ frames of a clip that comes in pieces; all of them if it is shorter."""
    first = last = next(pieces)
    for piece in pieces:
        first = first if len(first) >= READ else torch.cat([first, piece])[:READ]
        last = torch.cat([last, piece])[-READ:]
    return first, last


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


def in_a_process(options: argparse.Namespace, norm: str, frames: int, at_once: int) -> Figures:
    """One job in a process of its own."""
    given = {"model": options.model, "side": options.side, "steps": options.steps, "edit": options.edit, "norms": norm}
    given |= {"policies": options.policies[0], "place": options.place, "threads": options.threads, "frames": frames}
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
        unet = Pseudo3DUNet(UNet2DConditionModel(**STABLE_DIFFUSION_15).half(), InflationSettings(norm="clip"))
    weights, side = sum(each.nbytes for each in unet.net.parameters()), options.side
    a_frame, clip = unet.working_memory(2, 1, side, side), ClipShape(frames, side, side, 77)
    return {
        "frames": frames,
        "card_bytes": options.card * GIB,
        "weights_bytes": weights,
        "latents_in_ram_bytes": levels_size(unet, options.plan_steps, clip, evaluated=True),
        "waiting_in_ram_bytes": unet.waiting_memory(1, frames, side, side),
        "working_bytes_a_frame": a_frame,
        "most_frames_at_once": min(frames, int((options.card * GIB - weights) / a_frame)),
    }


def _row(norm: str, frames: int, at_once: int, found: Figures) -> list[str]:
    peak = found["peak_gpu_bytes"] or found["peak_rss_bytes"]
    read = [f"{found[end]['right']} of {found[end]['frames']}" for end in ("first", "last") if end in found]
    times = [f"{found['inversion_s']:.1f}", f"{found['edit_s']:.1f}"]
    return [
        norm, str(frames), str(at_once or "all"), *times, f"{found['kept_bytes'] / 1e6:.1f}", f"{peak / 1e6:.0f}", *read
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    grammar = parser(__doc__, frames=LENGTHS[0], side=32, steps=4, edit="shape")
    grammar.set_defaults(frames=LENGTHS, model=BUILT_IN, policies=["recompute"])
    for action in grammar._actions:
        if action.dest == "model":
            action.choices = (BUILT_IN, *action.choices)
    grammar.add_argument("--norms", nargs="+", default=list(NORMS), choices=NORMS)
    grammar.add_argument("--place", default="ram", choices=("ram", "disk"), help="of what the built-in model keeps")
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
    for column in ("norm", "frames", "at once", "inversion s", "edit s", "kept MB", "peak memory MB", *read):
        table.add_column(column, justify="right")
    ways = [(norm, at_once) for norm in options.norms for at_once in options.frames_at_once]
    figures: dict[tuple[str, int], dict[int, Figures]] = {}
    for norm, at_once in ways:
        lengths = [frames for frames in options.frames if at_once or frames <= options.longest_whole]
        found = figures[norm, at_once] = {each: in_a_process(options, norm, each, at_once) for each in lengths}
        for frames in lengths:
            table.add_row(*_row(norm, frames, at_once, found[frames]))
    console = Console()
    console.print(table)
    grown = {way: rate for way, found in figures.items() if found and (rate := growth(found))}
    for way, rate in grown.items():
        console.print(_growth_sentence(*way, rate), soft_wrap=True)
    planned = on_a_card(options, max(options.frames)) if options.card else {}
    if planned:
        console.print(_plan_sentence(options, planned), soft_wrap=True)
    named = {_named(*way): found for way, found in figures.items()}
    rates = {_named(*way): rate for way, rate in grown.items()}
    all_figures = {"figures": named, "growth": rates, "plan": planned}
    write_json(options.json, {"settings": settings(options), "machine": described(), **all_figures})


def _named(norm: str, at_once: int) -> str:
    return f"norm {norm}, {at_once or 'all'} at once"


def _growth_sentence(norm: str, at_once: int, rate: Figures) -> str:
    return (
        f"{_named(norm, at_once)}: from {rate['from']} to {rate['to']} frames the peak grows by "
        f"{rate['peak_bytes_a_frame'] / 1e6:.2f} MB a frame, to {rate['peak_ratio']:.2f} times; a frame takes "
        f"{rate['time_a_frame_ratio']:.2f} times as long"
    )


def _plan_sentence(options: argparse.Namespace, planned: Figures) -> str:
    gib = {name: nbytes / GIB for name, nbytes in planned.items() if name.endswith("_bytes")}
    side, each = options.side, planned["working_bytes_a_frame"] / 2**20
    return (
        f"planned for {planned['frames']} frames of {side}x{side} cells and {options.plan_steps} steps by recompute on "
        f"{options.card:g} GiB in half precision: weights {gib['weights_bytes']:.2f} GiB; a frame under two texts "
        f"{each:.0f} MiB, by ComfyUI's estimate for Stable Diffusion, so that {planned['most_frames_at_once']} fit at "
        f"once; {gib['latents_in_ram_bytes']:.2f} GiB of latents in RAM or on disk, with norm 'clip' up to "
        f"{gib['waiting_in_ram_bytes']:.1f} GiB more in RAM for each text"
    )


if __name__ == "__main__":
    main()
