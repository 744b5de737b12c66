"""Bytes that an inversion keeps under each policy: planned from shapes, and as a run really holds them.

The plan is for Stable Diffusion 1.5's shape in half precision. The run has that shape and random weights. It computes
in --dtype and keeps its pages in --precision: a CPU, slow in half precision, then holds the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, peak_rss, write_json
from benchmarks.subjects import STABLE_DIFFUSION_15, subject
from fatezero_ext import Capture, InflationSettings, Pseudo3DUNet
from fatezero_ext.inversion.footprint import ClipShape, levels_size, recorded_forms, step_bytes
from fatezero_ext.storage.record_store import MemoryStore

POLICIES = ("features", "maps", "recompute")
GIB = 2**30


def planned(policy: str, clip: ClipShape, steps: int, precision: str) -> int:
    """Bytes of a whole inversion in half precision; nothing of the UNet is in memory."""
    with torch.device("meta"):
        net = UNet2DConditionModel(**STABLE_DIFFUSION_15).half()
    unet = Pseudo3DUNet(net, InflationSettings())
    levels = levels_size(unet, steps, clip)
    if policy == "recompute":
        return levels
    return steps * step_bytes(unet, recorded_forms(unet, Capture(), policy, clip), precision, clip) + levels


def held(policy: str, options: argparse.Namespace) -> tuple[int, int]:
    """Bytes planned for and really held by a run of a few steps."""
    measured = subject(
        "sd15", options.frames, options.side, options.run_steps, device=options.device, dtype=options.dtype
    )
    unet = measured.unet
    recording = measured.recording(policy, MemoryStore(torch.device("cpu"), options.precision))
    trace = measured.inverted(recording)
    page = step_bytes(unet, recording.forms, options.precision, measured.clip)
    return options.run_steps * page + levels_size(unet, options.run_steps, measured.clip), trace.nbytes


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="of the latents, cells")
    parser.add_argument("--steps", type=int, default=50, help="of the plan")
    parser.add_argument("--run-steps", type=int, default=2, help="of the run; 0: plan only")
    parser.add_argument("--run-policies", nargs="*", default=["features", "recompute"], choices=POLICIES)
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--dtype", default="float32", help="the run computes in")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clip = ClipShape(options.frames, options.side, options.side, 77)
    table = Table(title=f"{options.frames} frames, {options.steps} steps, SD 1.5 shape, half precision")
    for column in ("policy", f"planned, {options.steps} steps", f"planned, {options.run_steps} steps", "held", "ratio"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    figures: dict[str, dict[str, float]] = {}
    for policy in POLICIES:
        total = planned(policy, clip, options.steps, options.precision)
        figures[policy] = {"planned_bytes": total}
        row = [policy, f"{total / GIB:.3f} GiB"]
        if options.run_steps and policy in options.run_policies:
            expected, got = held(policy, options)
            figures[policy] |= {"run_planned_bytes": expected, "run_held_bytes": got}
            row += [f"{expected / GIB:.4f} GiB", f"{got / GIB:.4f} GiB", f"{got / expected:.4f}"]
        table.add_row(*row)
    console = Console()
    console.print(table)
    features, maps = (figures[policy]["planned_bytes"] / GIB for policy in ("features", "maps"))
    recompute = figures["recompute"]["planned_bytes"] / 2**20
    console.print(
        f"features keeps {features:.2f} GiB, maps would keep {maps:.1f} GiB, recompute {recompute:.1f} MiB; "
        f"peak memory of this process {peak_rss() / GIB:.1f} GiB on {described()['processor']}"
    )
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
