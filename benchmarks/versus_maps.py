"""Policy against policy on one clip: bytes kept, seconds of the inversion and of two edits, how far the edits differ.

The built-in model and its sample clip; every way's edits are compared with those of `maps`, the reference.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.clocks import seconds
from benchmarks.machine import described, write_json
from fatezero_ext import BlendSettings, Controller, EditSettings, InflationSettings, Storage, edit, invert, load_toy
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.models.load import VideoModel
from fatezero_ext.storage.disk_cache.cache import InversionCache

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
BLEND = BlendSettings(("red circle",), ("blue circle",), latents=True)
EDITS = {
    "colour": ("a blue circle on the grass", EditSettings("replace", 0.8, self_replace=0.8, guidance=3.0, blend=BLEND)),
    "style": (
        "a watercolor painting of a red circle on the grass",
        EditSettings("refine", 0.5, self_replace=0.8, equalizer={"watercolor": 2.0}, blend=None, guidance=3.0),
    ),
}


def measured(model: VideoModel, clip: Tensor, storage: Storage, steps: int) -> tuple[dict[str, float], list[Tensor]]:
    """Figures of one inversion and its edits, and the edits' latents."""
    prompt = example_clip().prompt
    kept: list[Controller] = []
    inversion = seconds(
        lambda: kept.append(
            invert(
                Controller(model.unet, storage=storage),
                model.text_encoder,
                clip,
                prompt,
                steps=steps,
                inversion_passes=0,
            )
        )
    )
    figures, found = {"bytes": kept[0].trace.nbytes, "inversion_s": inversion}, []
    for name, (text, settings) in EDITS.items():
        took = seconds(lambda: found.append(edit(kept[0], model.text_encoder, text, settings).latents))  # noqa: B023
        figures[f"{name}_edit_s"] = took
    return figures, found


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_toy(InflationSettings(key_frames=()))
    clip = model.vae.encode(torch.as_tensor(example_clip().frames))
    table = Table(title=f"{len(clip)} frames, {options.steps} steps, {described()['processor']}")
    for column in (
        "kept",
        "MB",
        "inversion s",
        *(f"{name} edit {what}" for name in EDITS for what in ("s", "differs")),
    ):
        table.add_column(column, justify="left" if column == "kept" else "right")
    figures: dict[str, dict[str, float]] = {}
    references: list[Tensor] = []
    with TemporaryDirectory() as folder:
        measured(model, clip, WAYS["features"], 2)  # to warm up
        for name, storage in WAYS.items():
            if storage.place == "disk":
                storage = Storage(storage.policy, "disk", cache=InversionCache(Path(folder) / "cache"))
            figures[name], found = measured(model, clip, storage, options.steps)
            references = references or found
            row = [name, f"{figures[name]['bytes'] / 1e6:.1f}", f"{figures[name]['inversion_s']:.2f}"]
            for edited, got, wanted in zip(EDITS, found, references, strict=True):
                figures[name][f"{edited}_edit_differs"] = ((got - wanted).norm() / wanted.norm()).item()
                row += [
                    f"{figures[name][f'{edited}_edit_{what}']:{form}}"
                    for what, form in (("s", ".2f"), ("differs", ".0e"))
                ]
            table.add_row(*row)
            gc.collect()
    console = Console()
    console.print(table)
    share = figures["features"]["bytes"] / figures["maps"]["bytes"]
    worst = max(figures["features"][f"{name}_edit_differs"] for name in EDITS)
    console.print(f"features keeps {share:.3f} of the bytes of maps; its edits differ by {worst:.0e} at most")
    settings = {name: str(value) for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
