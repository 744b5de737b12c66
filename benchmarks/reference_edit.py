"""One whole edit of the reference model: CPU seconds and peak memory beside the authors' program.

Settings of the reference run B: 4 frames, 64x64 latents, 10 + 10 steps, guidance 7.5, Refine with an equalizer, one
thread. The result is compared with the authors' own latents before anything is reported.

CPU seconds are user and system time together. Their program allocates so much that system time depends on how memory is
handed out: their figures are those of a run that kept it (MALLOC_MMAP_MAX_=0); user seconds hardly depend on it.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
from einops import rearrange
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from benchmarks.machine import described, peak_rss, write_json
from benchmarks.subjects import STYLE
from fatezero_ext import Controller, InflationSettings, Storage, edit, invert, load_model

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
SOURCE = "a silver jeep driving down a curvy road in the countryside"
EDIT = "watercolor painting of a silver jeep driving down a curvy road in the countryside"
STEPS = 10
TOLERANCE = 3e-4
ORIGINAL = {
    "inversion_cpu_s": 24.4,
    "edit_cpu_s": 48.6,
    "total_cpu_s": 73.0,
    "total_user_s": 52.0,
    "peak_rss_gb": 4.8,
    "store_mb": 1943,
}


def measured(policy: str) -> dict[str, float]:
    """Run the edit once; figures in CPU seconds and GB, and the distance to the reference latents."""
    model = load_model(GOLDEN / "model", InflationSettings(key_frames=("mid",), least_sc_channel=32))
    latents = load_file(GOLDEN / "inv_style_n10" / "latents.safetensors")["latents_input"]
    clip = rearrange(latents, "1 c f h w -> f c h w") / model.unet.latent_format.scale
    began, user_before = time.process_time(), _user_seconds()
    controller = invert(
        Controller(model.unet, storage=Storage(policy)),
        model.text_encoder,
        clip,
        SOURCE,
        steps=STEPS,
        inversion_passes=0,
    )
    inverted = time.process_time()
    result = edit(controller, model.text_encoder, EDIT, STYLE).latents * model.unet.latent_format.scale
    ended = time.process_time()
    return {
        "inversion_cpu_s": inverted - began,
        "edit_cpu_s": ended - inverted,
        "total_cpu_s": ended - began,
        "total_user_s": _user_seconds() - user_before,
        "peak_rss_gb": peak_rss() / 1e9,
        "store_mb": controller.trace.store.nbytes / 1e6,
        "distance": _distance(result),
    }


def _user_seconds() -> float:
    """CPU time of this process outside the system's kernel."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _distance(result: torch.Tensor) -> float:
    """Relative L2 to the authors' final latents, on the cells that the reference keeps."""
    wanted = load_file(GOLDEN / "B_style" / "edit.safetensors")["latents_after_step.thinned"][-1]
    got = result.transpose(0, 1)[..., ::4, ::4]
    return ((got - wanted).norm() / wanted.norm()).item()


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="features", choices=("features", "maps", "recompute"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measured(options.policy)
    if not figures["distance"] < TOLERANCE:
        raise SystemExit(f"the result is {figures['distance']:.1e} from the reference; {TOLERANCE} is allowed")
    table = Table(title=f"reference edit B, policy {options.policy}, one thread, {described()['processor']}")
    for column in ("", "this project", "authors' program", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, original in ORIGINAL.items():
        table.add_row(name, f"{figures[name]:.2f}", f"{original:.1f}", f"{figures[name] / original:.2f}")
    console = Console()
    console.print(table)
    total, peak = figures["total_cpu_s"] / ORIGINAL["total_cpu_s"], figures["peak_rss_gb"] / ORIGINAL["peak_rss_gb"]
    console.print(
        f"{total:.2f} of the CPU time and {peak:.2f} of the memory, {figures['distance']:.0e} from its result"
    )
    write_json(options.json, {"policy": options.policy, "figures": figures, "original": ORIGINAL})


if __name__ == "__main__":
    main()
