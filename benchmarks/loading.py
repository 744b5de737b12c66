"""Loading a full-size checkpoint of one file: peak memory and time, beside diffusers' own loader.

Each loader runs in a process of its own, on the same file of random weights, in half precision; ours then takes one
inversion step. A bare process that only imports the libraries is measured too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import peak_rss, write_json

WAYS = ("imports", "fatezero", "diffusers")


def loaded(way: str, file: Path) -> dict[str, float]:
    """Seconds and peak memory of one loader, in this process."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel  # noqa: F401 - imported before the clock starts

    from fatezero_ext import Controller, invert, load_model

    imported = peak_rss()
    started = time.perf_counter()
    figures: dict[str, float] = {"imports_bytes": imported}
    if way == "fatezero":
        model = load_model(file, dtype=torch.float16)
        figures["seconds"] = time.perf_counter() - started
        figures["loaded_bytes"] = peak_rss()
        latents = torch.zeros(1, 4, 8, 8)
        invert(Controller(model.unet), model.text_encoder, latents, "a red jeep", steps=1, inversion_passes=0)
        figures["first_step_seconds"] = time.perf_counter() - started
    elif way == "diffusers":
        from fatezero_ext.models.single_file.checkpoint import SingleFile
        from fatezero_ext.models.single_file.configs import unet_config, vae_config

        single = SingleFile(file)
        shapes, family = single.shapes, single.kind.family
        with tempfile.TemporaryDirectory() as folder:
            for kind, config in (
                (UNet2DConditionModel, unet_config(shapes, family)),
                (AutoencoderKL, vae_config(shapes, "first_stage_model.")),
            ):
                with torch.device("meta"):
                    kind(**config).save_config(Path(folder) / kind.__name__)
            started = time.perf_counter()
            parts = [
                kind.from_single_file(
                    str(file),
                    config=str(Path(folder) / kind.__name__),
                    torch_dtype=torch.float16,
                    local_files_only=True,
                )
                for kind in (UNet2DConditionModel, AutoencoderKL)
            ]
            figures["seconds"] = time.perf_counter() - started
            assert all(part.dtype == torch.float16 for part in parts)
    return {**figures, "peak_bytes": peak_rss()}


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="of `python -m benchmarks.make_checkpoint`")
    parser.add_argument("--way", choices=WAYS, help="measure one in this process and print it as JSON")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        print(json.dumps(loaded(options.way, options.file)))
        return
    size = options.file.stat().st_size
    table = Table(title=f"{options.file.name}, {size / 1e9:.2f} GB, half precision")
    for column in ("", "seconds", "peak memory", "of the file", "to the first step"):
        table.add_column(column, justify="right" if column else "left")
    figures = {}
    for way in WAYS:
        call = [sys.executable, "-m", "benchmarks.loading", str(options.file), "--way", way]
        done = subprocess.run([*call, "--threads", str(options.threads)], capture_output=True, text=True, check=True)
        figures[way] = found = json.loads(done.stdout.splitlines()[-1])
        first = found.get("first_step_seconds")
        table.add_row(
            way,
            f"{found.get('seconds', 0):.1f}",
            f"{found['peak_bytes'] / 1e9:.2f} GB",
            f"{found['peak_bytes'] / size:.2f}",
            "" if first is None else f"{first:.1f} s",
        )
    Console().print(table)
    settings = {"file_bytes": size, "file": options.file.name, "threads": options.threads}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
