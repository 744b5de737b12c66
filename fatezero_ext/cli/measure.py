"""`python -m fatezero_ext measure SOURCE EDITED`: what an edit changed, in figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..errors import FateZeroError
from ..media.frame_sources import read_frames
from ..media.framing import AS_IS
from ..metrics.edit_metrics import EditMetrics, as_json, measure_edit, rows

DESCRIPTION = """\
Compares an edited clip with its source.

PSNR and SSIM say how much of the source is left; with --mask only where the mask is black.
With --clip also the published figures: frame accuracy (the share of frames that are at least as close to the edit
prompt as to the source prompt) and temporal consistency (the mean cosine of consecutive frames' embeddings).

Figures go to standard output, errors to standard error.
Exit code: 0 done, 1 something cannot be measured, 2 the command is not valid, 130 stopped by Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    command = argparse.ArgumentParser(
        prog="python -m fatezero_ext measure",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("source", type=Path, metavar="SOURCE", help="a video file, or a folder of pictures")
    command.add_argument("edited", type=Path, metavar="EDITED", help="likewise, as many frames of the same size")
    command.add_argument(
        "--mask", type=Path, metavar="MASK", help="video, picture or folder of pictures: white where things may change"
    )
    command.add_argument("--clip", type=Path, metavar="DIR", help="folder of a CLIP model in Hugging Face layout")
    command.add_argument("--source-prompt", default="", metavar="TEXT", help="what the source shows (with --clip)")
    command.add_argument("--edit-prompt", default="", metavar="TEXT", help="what the edit should show (with --clip)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return command


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""
    grammar = parser()
    options = grammar.parse_args(argv)
    if options.clip is None and (options.source_prompt or options.edit_prompt):
        grammar.error("prompts are compared by a CLIP model; name its folder with --clip")
    try:
        measures = _measured(options)
    except FateZeroError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(as_json(measures), indent=2, allow_nan=False) + "\n")
    else:
        _print_table(measures)
    return 0


def _measured(options: argparse.Namespace) -> EditMetrics:
    clip = None
    if options.clip is not None:
        from ..metrics.clip_scores import load_clip  # takes seconds, which comparing pixels need not wait for

        clip = load_clip(options.clip, device="cuda" if torch.cuda.is_available() else "cpu")
    return measure_edit(
        read_frames(options.source, AS_IS)[0],
        read_frames(options.edited, AS_IS)[0],
        mask=None if options.mask is None else _read_mask(options.mask),
        clip=clip,
        source_prompt=options.source_prompt,
        edit_prompt=options.edit_prompt,
    )


def _read_mask(path: Path) -> Tensor:
    """[frames, height, width], the brightness of the file's pictures."""
    return read_frames(path, AS_IS)[0].mean(-1)


def _print_table(measures: EditMetrics) -> None:
    table = Table(show_header=False)
    for name, figure in rows(measures):
        table.add_row(name, figure)
    console = Console()
    console.print(table)
    for remark in measures.remarks:
        console.print(remark, markup=False, highlight=False)
