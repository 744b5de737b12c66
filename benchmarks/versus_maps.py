"""Policy against policy on one clip: bytes kept, seconds of the inversion and the edit, and how far the edits differ.

The small reference model; every policy's edit is compared with that of `maps`, the reference.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import seconds
from benchmarks.machine import described, write_json
from benchmarks.subjects import EDIT, GOLDEN, SHAPE, SHAPE_EDIT, SOURCE, STYLE
from fatezero_ext import Controller, InflationSettings, Storage, edit, invert, load_model
from fatezero_ext.cache_folder import InversionCache
from fatezero_ext.checkpoints import VideoModel

WAYS = {
    "maps": Storage("maps", "ram"),
    "features": Storage("features", "ram"),
    "features on disk": Storage("features", "disk"),
    "features, float16": Storage("features", "ram", "float16"),
    "features, bfloat16": Storage("features", "ram", "bfloat16"),
    "features, int8": Storage("features", "ram", "int8"),
    "maps, int8": Storage("maps", "ram", "int8"),
    "recompute": Storage("recompute"),
    "recompute same level": Storage("recompute same level"),
}


def measured(model: VideoModel, clip: torch.Tensor, storage: Storage, steps: int) -> dict[str, object]:
    """One inversion and its two edits."""
    kept: list[Controller] = []
    found: dict[str, torch.Tensor] = {}
    inversion = seconds(
        lambda: kept.append(invert(Controller(model.unet, storage=storage), model.text, clip, SOURCE, steps=steps))
    )
    edits = {
        name: seconds(lambda: found.update({name: edit(kept[0], model.text, prompt, how).latents}))  # noqa: B023
        for name, prompt, how in (("style", EDIT, STYLE), ("shape", SHAPE_EDIT, SHAPE))
    }
    return {"bytes": kept[0].trace.nbytes, "inversion_s": inversion, **edits, "latents": found}


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=GOLDEN / "model", help="a diffusers folder")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="of the latents, cells")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model, InflationSettings())
    clip = torch.randn(options.frames, 4, options.side, options.side, generator=torch.Generator().manual_seed(0))
    table = Table(title=f"{options.frames} frames, {options.steps} steps, {described()['processor']}")
    for column in ("kept", "MB", "inversion s", "style edit s", "shape edit s", "style edit differs", "shape edit"):
        table.add_column(column, justify="left" if column == "kept" else "right")
    figures: dict[str, dict[str, object]] = {}
    with TemporaryDirectory() as folder:
        for name, storage in WAYS.items():
            if storage.place == "disk":
                storage = Storage(storage.policy, "disk", cache=InversionCache(Path(folder) / "cache"))
            figures[name] = measured(model, clip, storage, options.steps)
            gc.collect()
    references = figures["maps"]["latents"]
    for name, run in figures.items():
        latents = run.pop("latents") if name != "maps" else references
        run["differs"] = {edit: _relative(latents[edit], wanted) for edit, wanted in references.items()}
        times = [f"{run[key]:.1f}" for key in ("inversion_s", "style", "shape")]
        table.add_row(name, f"{run['bytes'] / 1e6:.1f}", *times, *(f"{d:.1e}" for d in run["differs"].values()))
    figures["maps"].pop("latents")
    console = Console()
    console.print(table)
    share = figures["features"]["bytes"] / figures["maps"]["bytes"]
    worst = max(figures["features"]["differs"].values())
    console.print(f"features keeps {share:.3f} of the bytes of maps; its edits differ by {worst:.1e} at most")
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


def _relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


if __name__ == "__main__":
    main()
