"""Seconds and peak memory of whole jobs, inversion and edit, as clips get longer.

Each length runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, peak_rss, write_json
from benchmarks.options import parser, settings
from benchmarks.subjects import subject

LENGTHS = [4, 8, 16, 32, 64]


def one_length(options: argparse.Namespace, frames: int) -> dict[str, float]:
    """One job in this process."""
    shape = (options.model, frames, options.side, options.steps, options.edit)
    measured = subject(*shape, device=options.device, dtype=options.dtype)
    kept = []
    inversion = seconds(lambda: kept.append(measured.inverted(measured.recording(options.policies[0]))))
    edit = seconds(lambda: measured.edited(kept[0]))
    return {
        "inversion_s": inversion,
        "edit_s": edit,
        "kept_bytes": kept[0].nbytes,
        "peak_rss_bytes": peak_rss(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }


def in_a_process(options: argparse.Namespace, frames: int) -> dict[str, float]:
    """One job in a process of its own."""
    given = {"model": options.model, "side": options.side, "steps": options.steps, "edit": options.edit}
    given |= {"policies": options.policies[0], "threads": options.threads, "frames": frames}
    given |= {"device": options.device, "dtype": options.dtype}
    arguments = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.frames", *arguments, "--this-process"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    """Print the table and, with --json, write the figures."""
    grammar = parser(__doc__, frames=LENGTHS[0], side=32, steps=4, edit="shape")
    grammar.set_defaults(frames=LENGTHS)
    grammar.add_argument("--this-process", action="store_true", help="run one length here and print its figures")
    options = grammar.parse_args()
    torch.set_num_threads(options.threads)
    if options.this_process:
        print(json.dumps(one_length(options, options.frames[0])))
        return
    table = Table(
        title=f"{options.policies[0]}, {options.steps} steps, {described()['gpu'] or described()['processor']}"
    )
    for column in ("frames", "inversion s", "edit s", "kept MB", "peak memory MB"):
        table.add_column(column, justify="right")
    figures = {}
    for frames in options.frames:
        run = figures[frames] = in_a_process(options, frames)
        peak, kept = run["peak_gpu_bytes"] or run["peak_rss_bytes"], run["kept_bytes"]
        times = (f"{run['inversion_s']:.1f}", f"{run['edit_s']:.1f}")
        table.add_row(str(frames), *times, f"{kept / 1e6:.0f}", f"{peak / 1e6:.0f}")
    console = Console()
    console.print(table)
    first, last = options.frames[0], options.frames[-1]
    whole = {frames: run["inversion_s"] + run["edit_s"] for frames, run in figures.items()}
    times = whole[last] / whole[first]
    console.print(f"{last / first:.0f} times the frames of {first} take {times:.1f} times as long")
    write_json(options.json, {"settings": settings(options), "figures": figures})


if __name__ == "__main__":
    main()
