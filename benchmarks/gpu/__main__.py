"""Everything that has to be seen on a GPU, in one process of at most nine minutes, written as it comes.

    python -m benchmarks.gpu --json gpu.json
    python -m benchmarks.gpu --device cpu --tiny --json tiny.json      every path of it, on one core

Parts are in the order of what they are worth. One that has less time left than it takes is left out, one that fails is
reported, and the next one runs. Nothing is downloaded or installed; all files come with the checkout.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.gpu import copies, drill, marked_tests, precision, steps, whole_job
from benchmarks.gpu.bench import Bench, Part, run_parts
from benchmarks.gpu.report import Report, described
from benchmarks.gpu.scene import full_scale, tiny_scale

MINUTES = 9.0
GRACE = 15.0
"""Seconds beyond its time after which a process that hangs is ended; what it measured is in the file."""
PARTS = (
    Part("tests", 95, "20 s to import everything anew, about 90 small tests at 0.8 s", marked_tests.run),
    Part(
        "whole job",
        65,
        "5 s to make the model; 7.2 TFLOP a call of 8 frames at 300 TFLOP/s: 24 ms, 50 + 2 x 50 of them 4 s; job and "
        "bare loop three times each, once to warm up, two edits with masks",
        whole_job.headline,
    ),
    Part("precision", 60, "3 reference runs and 2 toy edits in 3 precisions, 5 to 20 + 20 small steps each at 25 ms of "
         "launches; the oracle on the CPU", precision.run),
    Part("drill", 45, "14 edits and 5 inversions of 10 steps at 1.5 s, pages brought back each time", drill.run),
    Part("profile", 40, "10 windows of at most 10 steps, 1 s each; the profiler takes 2 s to read one", steps.run),
    Part("copies", 35, "13 inversions and edits of 10 steps, and the comparison of 1.4 GiB on the CPU", copies.run),
    Part("storages", 60, "ram 15 s, recompute and int8 10 s each, disk 25 s: 6.8 GiB hashed, written and read",
         whole_job.storages),
    Part("lengths", 70, "xformers 8 s; job and bare loop of 16 frames 17 s, of 32 frames 35 s",
         whole_job.lengths_and_kernels),
    Part("pictures", 12, "8 frames encoded and decoded, 2.5 TFLOP each, 5 times", whole_job.pictures),
)  # fmt: skip


def main() -> int:
    """Run the parts; the exit code is 0 where none failed."""
    options = _grammar().parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    if refusal := _refusal(options):
        sys.stderr.write(f"Error: {refusal}\n")
        return 2
    ends = time.monotonic() + options.minutes * 60
    faulthandler.dump_traceback_later(options.minutes * 60 + GRACE, exit=True)
    if device.type == "cpu":
        torch.set_num_threads(1)
    settings = {name: str(value) for name, value in vars(options).items()}
    scale = tiny_scale(device) if options.tiny else full_scale(device)
    settings["scale"] = {name: str(value) for name, value in vars(scale).items()}
    settings["estimates_s"] = {part.name: part.estimate for part in PARTS}
    bench = Bench(scale, Report(options.json, settings, described(device)), ends)
    bench.report.write()
    try:
        run_parts([part for part in PARTS if part.name in options.parts], bench)
    finally:
        bench.report.write()
        _show(bench.report)
        faulthandler.cancel_dump_traceback_later()
    return int(any(part.state == "failed" for part in bench.report.parts))


def _grammar() -> argparse.ArgumentParser:
    grammar = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    grammar.add_argument("--minutes", type=float, default=MINUTES, help="that the run may take (default: %(default)g)")
    grammar.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    grammar.add_argument("--tiny", action="store_true", help="small shapes, to try the program itself")
    grammar.add_argument("--parts", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    grammar.add_argument("--json", type=Path, required=True, metavar="FILE", help="written after every figure")
    return grammar


def _refusal(options: argparse.Namespace) -> str | None:
    """Why nothing can be measured; None: it can."""
    if options.device == "cuda" and not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} sees no GPU; one is measured here. Run it on a machine with a CUDA device and "
            f"a torch built for it, or try the program with --device cpu --tiny."
        )
    if options.device == "cpu" and not options.tiny:
        return "Stable Diffusion's shape takes hours on a CPU; --device cpu is for trying the program. Add --tiny."
    return None


def _show(report: Report) -> None:
    table = Table(title=str(report.machine["gpu"] or report.machine["processor"]), show_lines=False)
    for column in ("part", "what", "figure", "goal"):
        table.add_column(column, overflow="fold")
    for part in report.parts:
        told = part.state if not part.reason else f"{part.state}: {part.reason}"
        title = (part.name, f"{part.seconds:.0f} s (estimate {part.estimate:.0f} s)", told, "")
        table.add_row(*map(Text, title), style="bold")
        for line in part.lines:
            table.add_row("", *map(Text, line))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
