"""`python -m fatezero_ext demo`: run an example workflow, look at the result, and measure it.

The same workflow runs once more with all attention control switched off (plain DDIM inversion and guidance), so that
the table says what the control is worth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..atomic_files import whole_file
from ..errors import FateZeroError
from ..pictures.contact_sheet import contact_sheet
from ..toy.evaluation.edits import EditFigures, measure
from ..toy.world.clips import Clip, sample_clip
from .node_pack import load_pack

EXAMPLES = Path(__file__).parents[2] / "example_workflows"
SAMPLE_SEED = 1
THUMBNAIL_CELL = 128
NO_CONTROL = (
    "FateZero_P2PEdit.cross_replace_end=0",
    "FateZero_P2PEdit.self_replace_end=0",
    "FateZero_P2PEdit.equalizer=",
    "FateZero_P2PEdit.blend_words=",
    "FateZero_P2PEdit.blend_edit_words=",
    "FateZero_P2PEdit.blend_latents=false",
)


@dataclass(frozen=True)
class Example:
    """One example workflow: its file's name without ending, and what its edit changes."""

    file: str
    changes: Mapping[str, str]


EXAMPLE_EDITS = {
    "colour": Example("1_colour_edit_with_mask", {"colour": "blue"}),
    "shape": Example("2_shape_edit", {"shape": "square"}),
    "background": Example("3_background_edit", {"background": "sand"}),
    "style": Example("4_style_edit", {"style": "watercolor"}),
}


@dataclass(frozen=True)
class Outcome:
    """What an example gave: clips [frames, H, W, 3] and the mask [frames, H, W], 0..1."""

    source: Tensor
    edited: Tensor
    uncontrolled: Tensor
    mask: Tensor
    seconds: float


def example_clip() -> Clip:
    """The clip of `example_workflows/red_circle_on_grass.mp4`, with its truth."""
    return sample_clip(SAMPLE_SEED, shape="circle", colour="red", background="grass")


def main(argv: Sequence[str]) -> int:
    """Run the named examples; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fatezero_ext demo", description=__doc__)
    parser.add_argument("examples", nargs="*", metavar="NAME", help=f"{', '.join(EXAMPLE_EDITS)}, or all")
    parser.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="default: ./output")
    options = parser.parse_args(argv)
    names = list(EXAMPLE_EDITS) if options.examples == ["all"] else options.examples or ["colour"]
    unknown = [name for name in names if name not in EXAMPLE_EDITS]
    if unknown:
        parser.error(f"there is no example {unknown[0]!r}; there are {', '.join(EXAMPLE_EDITS)}, and all")
    console = Console(stderr=True)
    # The built-in model is too small to gain from more threads; on a busy machine their waiting costs minutes.
    torch.set_num_threads(1)
    try:
        command = load_pack("nodes.headless.command")
        for name in names:
            _run_example(name, EXAMPLE_EDITS[name], options.output, command, console)
    except (FateZeroError, ValueError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


def _run_example(name: str, example: Example, output: Path, command: ModuleType, console: Console) -> None:
    outcome = run_example(example, output, command, console)
    sheet = output / f"{example.file}.png"
    rows = [outcome.source, outcome.edited, outcome.uncontrolled, _grey(outcome.mask)]
    with whole_file(sheet) as unfinished:
        contact_sheet(rows, ["source", "edit", "no control", "mask"], cell=THUMBNAIL_CELL).save(unfinished, "PNG")
    sys.stdout.write(f"{sheet}\n")
    clip = example_clip()
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
        edited=controlled["VAEDecode"].outputs[0],
        uncontrolled=uncontrolled["VAEDecode"].outputs[0],
        mask=controlled["FateZero_P2PEdit"].outputs[1],
        seconds=time.perf_counter() - began,
    )


def _grey(mask: Tensor) -> Tensor:
    return mask[..., None].expand(-1, -1, -1, 3).to(torch.float32)


def _table(name: str, example: Example, figures: Mapping[str, EditFigures], seconds: float) -> Table:
    asked = ", ".join(f"{attribute} {value}" for attribute, value in example.changes.items())
    table = Table(title=f"{name} edit ({asked}), {seconds:.0f} s with its comparison", title_justify="left")
    table.add_column("measured by the oracle against the exact truth")
    for column in figures:
        table.add_column(column, justify="right")
    rows = {
        f"frames that show the {asked}": [f"{f.edited} of {f.frames}" for f in figures.values()],
        "frames whose other attributes stayed": [f"{f.kept} of {f.frames}" for f in figures.values()],
        "PSNR where nothing was to change": [f"{f.stays_psnr:.1f} dB" for f in figures.values()],
        "object IoU with the truth": [f"{f.object_iou:.2f}" for f in figures.values()],
        "flicker (1/255)": [f"{f.flicker:.1f}" for f in figures.values()],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table
