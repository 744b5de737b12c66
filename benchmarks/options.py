"""The command line that measurements of a UNet share."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.subjects import EDITS

POLICIES = ("features", "maps", "recompute")


def parser(description: str | None, *, frames: int, side: int, steps: int, edit: str) -> argparse.ArgumentParser:
    """The grammar, with a measurement's own defaults; it may add to it."""
    grammar = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    grammar.add_argument("--model", default="reference", choices=("reference", "sd15"))
    grammar.add_argument("--frames", type=int, nargs="+", default=[frames])
    grammar.add_argument("--side", type=int, default=side, help="of the latents, cells")
    grammar.add_argument("--steps", type=int, default=steps)
    grammar.add_argument("--edit", default=edit, choices=tuple(EDITS))
    grammar.add_argument("--policies", nargs="+", default=["features"], choices=POLICIES)
    grammar.add_argument("--threads", type=int, default=1)
    grammar.add_argument("--device", default="cpu")
    grammar.add_argument("--dtype", default="float32")
    grammar.add_argument("--json", type=Path, metavar="FILE")
    return grammar


def settings(options: argparse.Namespace) -> dict[str, object]:
    """What was asked for, for the JSON file."""
    return {name: value for name, value in vars(options).items() if name not in ("json", "this_process")}
