"""Figures of many edits, summed up by kind: a table to print, rows for programs, sheets of the worst and the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import torch
from rich.table import Table

from ...atomic_files import whole_file
from ...pictures.contact_sheet import contact_sheet
from ..world.world import STYLES
from .edit_runs import Outcome
from .edits import EditFigures

QUARTER, KINDS_ACROSS = 4, 4
SHEET_CELL = 96
"""Pixels along a side of a sheet's pictures."""
Row = dict[str, float | None]
COLUMNS: dict[str, tuple[str, str]] = {
    "right": ("all right", ".3f"),
    "clips_right": ("clips", ".0f"),
    "edited": ("edited", ".3f"),
    "kept": ("kept", ".3f"),
    "textured": ("texture", ".3f"),
    "stays_psnr": ("stays dB", ".1f"),
    "stays_psnr_worst": ("worst ¼", ".1f"),
    "stays_psnr_ceiling": ("VAE", ".1f"),
    "truth_psnr": ("truth dB", ".1f"),
    "against_vae": ("to VAE", ".1f"),
    "object_psnr": ("object dB", ".1f"),
    "left": ("left", ".3f"),
    "object_iou": ("IoU", ".3f"),
    "object_iou_worst": ("worst ¼", ".3f"),
    "area": ("area", ".2f"),
    "distance": ("off, px", ".1f"),
    "steady": ("steady", ".1f"),
    "truth_steady": ("truth's", ".1f"),
    "flicker": ("flicker", ".1f"),
}
"""Names of a row's figures, with their headings and formats."""


def rows(outcomes: Sequence[Outcome]) -> dict[str, Row]:
    """Sum up the outcomes of each kind; the clips of "style" also by the style that each of them got."""
    return {name: _row(found) for name, found in _groups(outcomes)}


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    for kind in dict.fromkeys(one.kind for one in outcomes):
        found = [one for one in outcomes if one.kind == kind]
        yield kind, found
        if kind == "style":
            for style in STYLES:
                if of_style := [one for one in found if one.changes["style"] == style]:
                    yield f"style: {style}", of_style


def _row(outcomes: Sequence[Outcome]) -> Row:
    """Sum up edits of one kind.

    Shares are of all frames; the rest are means over clips, "worst" ones over the worst quarter of them (rounded up).
    """
    figures = [one.figures for one in outcomes]
    frames = sum(one.frames for one in figures)
    shares: Row = {
        name: sum(getattr(one, name) for one in figures) / frames for name in ("right", "edited", "kept", "textured")
    }
    means: Row = {name: _mean(figures, name) for name in COLUMNS if name in EditFigures.__dataclass_fields__}
    return {
        "clips": len(figures),
        "clips_right": sum(one.right == one.frames for one in figures),
        **means,
        **shares,
        "stays_psnr_worst": _worst_quarter([one.stays_psnr for one in figures]),
        "stays_psnr_ceiling": _mean([one.ceiling for one in outcomes], "stays_psnr"),
        "truth_psnr_ceiling": _mean([one.ceiling for one in outcomes], "truth_psnr"),
        "object_iou_worst": _worst_quarter([one.object_iou for one in figures]),
        "object_iou_ceiling": _mean([one.ceiling for one in outcomes], "object_iou"),
        "flicker_ceiling": _mean([one.ceiling for one in outcomes], "flicker"),
        "against_vae": mean(one.against_vae for one in outcomes),
    }


def _mean(figures: Sequence[EditFigures], name: str) -> float | None:
    """Average a figure over the clips that have it; None if none has."""
    found = [value for one in figures if (value := getattr(one, name)) is not None]
    return mean(found) if found else None


def _worst_quarter(values: Sequence[float]) -> float:
    return mean(sorted(values)[: math.ceil(len(values) / QUARTER)])


def tables(outcomes: Sequence[Outcome], title: str) -> Iterator[Table]:
    """Tabulate the rows, figures down and as many kinds across as a terminal has room for."""
    found = list(rows(outcomes).items())
    for first in range(0, len(found), KINDS_ACROSS):
        part = found[first : first + KINDS_ACROSS]
        shown = Table("", title="" if first else title, title_justify="left")
        for kind, _ in part:
            shown.add_column(kind, justify="right", no_wrap=True)
        for name, (heading, form) in COLUMNS.items():
            cells = ["-" if (value := row[name]) is None else format(value, form) for _, row in part]
            shown.add_row(heading, *cells)
        yield shown


def as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the rows and each clip's own figures."""
    clips = [
        {
            "clip": one.index,
            "kind": one.kind,
            "source_prompt": one.clip.prompt,
            "edit_prompt": one.prompt,
            "changes": dict(one.changes),
            "figures": asdict(one.figures),
            "ceiling": asdict(one.ceiling),
            "against_vae": one.against_vae,
        }
        for one in outcomes
    ]
    return {"kinds": rows(outcomes), "edits": clips}


def save_sheets(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Save two sheets a kind: the worst quarter of its clips, and as many of the best. Returns the files."""
    saved = []
    for name, found in _groups(outcomes):
        ranked, count = sorted(found, key=_goodness), math.ceil(len(found) / QUARTER)
        for which, chosen in (("worst", ranked[:count]), ("best", ranked[::-1][:count])):
            path = folder / f"{name.replace(': ', '_').replace('+', '_and_')}_{which}.png"
            _save_sheet(chosen, path)
            saved.append(path)
    return saved


def _goodness(outcome: Outcome) -> tuple[float, float]:
    return outcome.figures.right / outcome.figures.frames, outcome.figures.stays_psnr


def _save_sheet(outcomes: Sequence[Outcome], path: Path) -> None:
    clips, labels = [], []
    for one in outcomes:
        figures = one.figures
        clips += [torch.as_tensor(one.clip.frames), torch.from_numpy(one.frames).float().div(255)]
        clips.append(torch.as_tensor(one.clip.edited(**one.changes).frames))
        labels += [
            f"clip {one.index}",
            f"{figures.right} of {figures.frames}, {figures.stays_psnr:.1f} dB",
            ", ".join(one.changes.values()) or "the same",
        ]
    with whole_file(path) as unfinished:
        contact_sheet(clips, labels, cell=SHEET_CELL).save(unfinished, "PNG")
