"""Attention control against the bare UNet loop: the same batches, guidance and DDIM steps, in one process, in turn.

The small reference model in the setting of reference run B; with --model sd15 the shape of Stable Diffusion 1.5.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clocks import Ratio, in_turn
from benchmarks.machine import described, write_json
from benchmarks.options import parser, settings
from benchmarks.subjects import Subject, subject


def overhead(measured: Subject, policy: str, pairs: int) -> dict[str, Ratio]:
    """Of an inversion and of an edit."""
    trace = measured.inverted(measured.recording(policy))
    noise = trace.noise.to(measured.latents.device)
    return {
        "inversion": in_turn(lambda: measured.inverted(measured.recording(policy)), measured.bare_inversion, pairs),
        "edit": in_turn(lambda: measured.edited(trace), lambda: measured.bare_edit(noise), pairs),
    }


def main() -> None:
    """Print the table and, with --json, write the figures."""
    grammar = parser(__doc__, frames=4, side=64, steps=10, edit="style")
    grammar.add_argument("--pairs", type=int, default=5)
    options = grammar.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.model, options.frames[0], options.side, options.steps, options.edit)
    measured = subject(*shape, device=options.device, dtype=options.dtype)
    table = Table(title=f"over the bare loop, {options.edit} edit, {described()['gpu'] or described()['processor']}")
    for column in ("policy", "inversion", "edit"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    figures: dict[str, dict[str, object]] = {}
    for policy in options.policies:
        found = overhead(measured, policy, options.pairs)
        table.add_row(policy, *(f"{ratio.median:.3f}" for ratio in found.values()))
        figures[policy] = {name: ratio.figures() for name, ratio in found.items()}
    console = Console()
    console.print(table)
    first = options.policies[0]
    inversion, edit = (figures[first][name]["ratio"] for name in ("inversion", "edit"))
    console.print(
        f"{first}: inversion {inversion:.3f} and edit {edit:.3f} of the bare loop, median of {options.pairs} pairs"
    )
    write_json(options.json, {"settings": settings(options), "figures": figures})


if __name__ == "__main__":
    main()
