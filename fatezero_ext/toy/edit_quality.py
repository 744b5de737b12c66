"""Measure edits by the built-in model on fresh clips: `python -m fatezero_ext.toy.edit_quality --clips N --seed S`.

Every seed gives clips that nobody has looked at, edits of every kind with the settings that suit it, and figures
against the exact truth. An inversion of 8 frames calls the UNet 40 times with 8 frames, an edit 20 times with 16, both
halves of guidance; a clip has two inversions, one where no background is edited.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import ModelError
from ..models.folder.detect import BUILT_IN_FOLDERS
from ..models.load import load_model
from ..models.unet.inflate import InflationSettings
from .evaluation.edit_runs import OWN_KEYS, SETTINGS, Outcome, Runs
from .evaluation.fresh_clips import KINDS
from .evaluation.long_runs import result_file, result_folder, run, whole_number, write_json
from .evaluation.quality_table import as_json, save_sheets, tables
from .world.world import OBJECTS, STYLES

CLIPS, FRAMES = 48, 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table; after Ctrl-C or an error that of what was measured until then."""
    options = _options(arguments)
    # The model is too small to gain from more threads; on a busy machine their waiting costs minutes.
    torch.set_num_threads(1)
    model = cache(lambda keys: load_model(options.model, InflationSettings(key_frames=keys)))
    runs = Runs(model, options.seed, options.frames, SETTINGS[options.settings], options.world)
    outcomes: list[Outcome] = []
    return run(
        lambda: _measure(_able(runs, options.model), options.clips, options.kinds, outcomes),
        lambda: _report(outcomes, options),
    )


def _able(runs: Runs, folder: Path) -> Runs:
    """Return the runs; raise ModelError where their model does not know what their clips show."""
    if runs.world == "objects" and not set(OBJECTS) <= set(runs.model(OWN_KEYS).unet.objects):
        raise ModelError(
            f"{folder} does not know all objects of the world, whose edits were to be measured. Give the folder of a "
            f"model that does as --model; docs/toy_model.md says how one is trained."
        )
    return runs


def _measure(runs: Runs, clips: int, kinds: Sequence[str], outcomes: list[Outcome]) -> None:
    """Append every edit's outcome as soon as it is measured."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("edits", total=clips * len(kinds))
        for index in range(clips):
            for outcome in runs.of_clip(index, kinds):
                outcomes.append(outcome)
                progress.advance(task)


def _report(outcomes: Sequence[Outcome], options: argparse.Namespace) -> None:
    if not outcomes:
        return
    clips = len({one.index for one in outcomes})
    title = (
        f"{clips} clips of {options.world}, {options.frames} frames, seed {options.seed}, settings: {options.settings}"
    )
    for table in tables(outcomes, title):
        Console().print(table)
    if options.json:
        of_run = {name: getattr(options, name) for name in ("world", "seed", "frames", "settings")}
        write_json(options.json, of_run | as_json(outcomes))
    if options.pictures:
        for path in save_sheets(outcomes, options.pictures):
            sys.stdout.write(f"{path}\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    known = (*KINDS[options.world], *STYLES)
    options.kinds = options.kinds or KINDS[options.world]
    options.model = options.model or BUILT_IN_FOLDERS[options.world]
    if unknown := [kind for kind in options.kinds if kind not in known]:
        parser.error(
            f"--kinds {' '.join(unknown)}; clips of {options.world} have {', '.join(known)}. Choose of those, or "
            f"another --world."
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fatezero_ext.toy.edit_quality",
        description="Measure edits by the built-in model on fresh clips, against their exact truth.",
    )
    parser.add_argument("--clips", type=_count, default=CLIPS, metavar="N", help=f"default: {CLIPS}")
    parser.add_argument("--seed", type=_seed, required=True, metavar="S", help="of clips and edits; take a new one")
    parser.add_argument("--frames", type=_count, default=FRAMES, metavar="F", help=f"of each clip; default: {FRAMES}")
    parser.add_argument(
        "--world",
        choices=tuple(KINDS),
        default="shapes",
        help="coloured shapes (the default), or objects in their own colours",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="; ".join(f"of {world}: {', '.join(kinds)}" for world, kinds in KINDS.items())
        + f" (the default: all of them; style gives the clips one style each, in turn); {', '.join(STYLES)}",
    )
    parser.add_argument("--settings", choices=tuple(SETTINGS), default="preset", help="default: preset, by kind")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a model's folder; default: the built-in model of that world"
    )
    parser.add_argument("--json", type=result_file, metavar="FILE", help="also write all figures to this file")
    parser.add_argument(
        "--pictures", type=result_folder, metavar="DIR", help="save sheets of the worst and best clips there"
    )
    return parser


def _count(text: str) -> int:
    return whole_number(text, least=1)


def _seed(text: str) -> int:
    return whole_number(text, least=0)


if __name__ == "__main__":
    sys.exit(main())
