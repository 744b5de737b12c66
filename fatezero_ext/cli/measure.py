"""The command `measure`: compare an edited clip with its source, in figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..media.frame_sources import read_frames
from ..media.framing import AS_IS
from ..metrics.edit_metrics import EditMetrics, as_json, measure_edit, rows
from ..metrics.stability import dis_flow


def measure(options: argparse.Namespace) -> None:
    """Measure an edited clip and print the figures; `options` are those of the command."""
    measures = _measured(options)
    if options.json:
        sys.stdout.write(json.dumps(as_json(measures), indent=2, allow_nan=False) + "\n")
    else:
        _print_table(measures)


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
        flow=dis_flow,
        with_vmaf=options.vmaf,
    )


def _read_mask(path: Path) -> Tensor:
    """Return the brightness of the file's pictures, [frames, height, width]."""
    return read_frames(path, AS_IS)[0].mean(-1)


def _print_table(measures: EditMetrics) -> None:
    table = Table(show_header=False)
    for name, figure in rows(measures):
        table.add_row(name, figure)
    console = Console()
    console.print(table)
    for remark in measures.remarks:
        console.print(remark, markup=False, highlight=False)
