"""Attention control against the bare UNet loop: the same batches, guidance and DDIM steps, in one process, in turn.

The small reference model in the setting of reference run B; with --model sd15 the shape of Stable Diffusion 1.5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import in_turn
from benchmarks.machine import described, write_json
from benchmarks.subjects import EDITS, subject

POLICIES = ("features", "maps", "recompute")


def main() -> None:
    """Print the table and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference", choices=("reference", "sd15"))
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="of the latents, cells")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--edit", default="style", choices=tuple(EDITS))
    parser.add_argument("--policies", nargs="+", default=["features"], choices=POLICIES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = subject(
        options.model,
        options.frames,
        options.side,
        options.steps,
        options.edit,
        device=options.device,
        dtype=options.dtype,
    )
    table = Table(title=f"overhead over the bare loop, {options.edit} edit, {described()['processor']}")
    for column in ("policy", "inversion", "edit"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    figures: dict[str, object] = {}
    for policy in options.policies:
        trace = measured.inverted(measured.recording(policy))
        noise = trace.noise.to(options.device)
        inversion = in_turn(
            lambda: measured.inverted(measured.recording(policy)),  # noqa: B023 - runs before the loop goes on
            measured.bare_inversion,
            options.pairs,
        )
        edit = in_turn(
            lambda: measured.edited(trace),  # noqa: B023
            lambda: measured.bare_edit(noise),  # noqa: B023
            options.pairs,
        )
        table.add_row(policy, f"{inversion.median:.3f}", f"{edit.median:.3f}")
        figures[policy] = {"inversion": inversion.figures(), "edit": edit.figures()}
    console = Console()
    console.print(table)
    first = figures[options.policies[0]]
    console.print(
        f"{options.policies[0]}: inversion {first['inversion']['ratio']:.3f} and edit {first['edit']['ratio']:.3f} of "
        f"the bare loop, median of {options.pairs} pairs"
    )
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    write_json(options.json, {"settings": settings, "figures": figures})


if __name__ == "__main__":
    main()
