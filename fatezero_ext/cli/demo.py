"""The command `demo`: run an example workflow with and without attention control, and measure both results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..atomic_files import whole_file
from ..pictures.contact_sheet import contact_sheet
from ..toy.evaluation.edits import EditFigures, measure
from ..toy.world.clips import Clip, sample_clip, sample_object_clip
from .examples import CAT, CIRCLE, EXAMPLE_EDITS, EXAMPLES, Example
from .node_pack import load_pack

SAMPLE_SEED, CAT_SEED = 1, 5
THUMBNAIL_CELL = 128
NO_CONTROL = (
    "FateZero_P2PEdit.kind=custom",
    "FateZero_P2PEdit.cross_replace_end=0",
    "FateZero_P2PEdit.self_replace_end=0",
    "FateZero_P2PEdit.equalizer=",
    "FateZero_P2PEdit.blend_words=",
    "FateZero_P2PEdit.blend_edit_words=",
    "FateZero_P2PEdit.blend_latents=false",
)
"""Widgets of an edit that takes nothing from its source; without a mask, Keep Source Pixels puts nothing back."""


@dataclass(frozen=True)
class Outcome:
    """Results of an example: clips [frames, H, W, 3] and the mask [frames, H, W], 0..1."""

    source: Tensor
    edited: Tensor
    uncontrolled: Tensor
    mask: Tensor
    seconds: float


def example_clip(name: str = CIRCLE) -> Clip:
    """Return the clip of a file in `example_workflows`, without its ending, with its exact truth."""
    drawn: Mapping[str, Callable[[], Clip]] = {
        CIRCLE: lambda: sample_clip(SAMPLE_SEED, shape="circle", colour="red", background="grass"),
        CAT: lambda: sample_object_clip(CAT_SEED, shape="cat", background="grass"),
    }
    return drawn[name]()


def run_demo(names: Sequence[str], output: Path) -> None:
    """Run the named examples of `EXAMPLE_EDITS`, save videos and sheets below `output` and print the figures."""
    # The built-in model is too small to gain from more threads; on a busy machine their waiting costs minutes.
    torch.set_num_threads(1)
    command, console = load_pack("nodes.headless.command"), Console(stderr=True)
    for name in names:
        _run_example(name, EXAMPLE_EDITS[name], output, command, console)


def _run_example(name: str, example: Example, output: Path, command: ModuleType, console: Console) -> None:
    outcome = run_example(example, output, command, console)
    sheet = output / f"{example.file}.png"
    rows = [outcome.source, outcome.edited, outcome.uncontrolled, _grey(outcome.mask)]
    with whole_file(sheet) as unfinished:
        contact_sheet(rows, ["source", "edit", "no control", "mask"], cell=THUMBNAIL_CELL).save(unfinished, "PNG")
    sys.stdout.write(f"{sheet}\n")
    clip = example_clip(example.clip)
    figures = {
        "this edit": measure(outcome.edited.numpy(), clip, example.changes),
        "no attention control": measure(outcome.uncontrolled.numpy(), clip, example.changes),
    }
    Console().print(_table(name, example, figures, outcome.seconds))


def run_example(example: Example, output: Path, command: ModuleType, console: Console) -> Outcome:
    """Run an example's workflow with and without attention control."""
    began = time.perf_counter()
    workflow = EXAMPLES / f"{example.file}.json"
    plain = (*NO_CONTROL, f"SaveVideo.filename_prefix=video/{example.file}_no_control")
    call = command.Command(workflow, variants=[[], list(plain)], output=output)
    controlled, uncontrolled = command.collect(call, console)
    return Outcome(
        source=controlled["GetVideoComponents"].outputs[0],
        edited=controlled["CreateVideo"].outputs[0].frames,
        uncontrolled=uncontrolled["CreateVideo"].outputs[0].frames,
        mask=controlled["FateZero_P2PEdit"].outputs[1],
        seconds=time.perf_counter() - began,
    )


def _grey(mask: Tensor) -> Tensor:
    return mask[..., None].expand(-1, -1, -1, 3).to(torch.float32)


def _table(name: str, example: Example, figures: Mapping[str, EditFigures], seconds: float) -> Table:
    change = ", ".join(f"{attribute} {value}" for attribute, value in example.changes.items())
    table = Table(title=f"{name} edit ({change}), {seconds:.0f} s with its comparison", title_justify="left")
    table.add_column("measured by the oracle against the exact truth")
    for column in figures:
        table.add_column(column, justify="right")
    rows = {
        f"frames that show the {change}": [f"{f.edited} of {f.frames}" for f in figures.values()],
        "frames whose other attributes stayed": [f"{f.kept} of {f.frames}" for f in figures.values()],
        "PSNR where nothing was to change": [f"{f.stays_psnr:.1f} dB" for f in figures.values()],
        "object IoU with the truth": [f"{f.object_iou:.2f}" for f in figures.values()],
        "flicker (1/255)": [f"{f.flicker:.1f}" for f in figures.values()],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table
