"""Seconds and peak memory of whole jobs, inversion and edit, as clips get longer.

Each length runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, peak_rss, write_json
from benchmarks.subjects import subject


def one_length(options: argparse.Namespace, frames: int) -> dict[str, float]:
    """One job in this process."""
    measured = subject(
        options.model, frames, options.side, options.steps, options.edit, device=options.device, dtype=options.dtype
    )
    before, kept = peak_rss(), []
    inversion = seconds(lambda: kept.append(measured.inverted(measured.recording(options.policy))))
    edit = seconds(lambda: measured.edited(kept[0]))
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "inversion_s": inversion,
        "edit_s": edit,
        "kept_bytes": kept[0].nbytes,
        "peak_rss_bytes": peak_rss(),
        "peak_before_bytes": before,
        "peak_gpu_bytes": on_gpu,
    }


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--model", default="reference", choices=("reference", "sd15"))
    parser.add_argument("--side", type=int, default=32, help="of the latents, cells")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--edit", default="shape", choices=("style", "shape"))
    parser.add_argument("--policy", default="features", choices=("features", "maps", "recompute"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--this-process", action="store_true", help="run one length here and print its figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    if options.this_process:
        print(json.dumps(one_length(options, options.frames[0])))
        return
    table = Table(title=f"{options.policy}, {options.steps} steps, {described()['processor']}")
    for column in ("frames", "inversion s", "edit s", "kept MB", "peak memory MB"):
        table.add_column(column, justify="right")
    figures = {}
    for frames in options.frames:
        arguments = [*_own_arguments(sys.argv[1:]), "--frames", str(frames), "--this-process"]
        ran = subprocess.run([sys.executable, "-m", "benchmarks.frames", *arguments], capture_output=True, check=True)
        run = figures[frames] = json.loads(ran.stdout.splitlines()[-1])
        peak = run["peak_gpu_bytes"] or run["peak_rss_bytes"]
        table.add_row(
            str(frames),
            f"{run['inversion_s']:.1f}",
            f"{run['edit_s']:.1f}",
            f"{run['kept_bytes'] / 1e6:.0f}",
            f"{peak / 1e6:.0f}",
        )
    console.print(table)
    first, last = options.frames[0], options.frames[-1]
    time = (figures[last]["inversion_s"] + figures[last]["edit_s"]) / (
        figures[first]["inversion_s"] + figures[first]["edit_s"]
    )
    console.print(f"{last / first:.0f} times the frames of {first} take {time:.1f} times as long")
    settings = {name: value for name, value in vars(options).items() if name not in ("json", "this_process")}
    write_json(options.json, {"settings": settings, "figures": figures})


def _own_arguments(arguments: list[str]) -> list[str]:
    """The command line without --frames and --json and their values."""
    kept, skipping = [], False
    for argument in arguments:
        if argument.startswith("--"):
            skipping = argument in ("--frames", "--json")
        if not skipping:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
