"""Reports of a batch's folder: a page that opens from disk, and a table."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from pydantic import TypeAdapter, ValidationError

from ...fatezero_ext.atomic_files import whole_file
from ...fatezero_ext.printable import format_bytes
from .folder import RESULT, BatchFolder, json_of
from .rows import Row

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE, TABLE = "report.html", "report.csv"
STATES = ("done", "failed", "invalid", "damaged", "waiting")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First letters of cells that spreadsheets would compute."""
VIDEOS = (".mp4", ".webm", ".mov")
LONGEST_TRACEBACK = 1500
"""Last characters of a traceback that the page shows; all of it is in the row's file in failed/."""


@dataclass(frozen=True)
class Reports:
    """Files that were written, the page and the table, and what is remarked on their rows.

    remarked: how many rows have remarks
    remarks:  each that is the first on a row, with the number of the first such row
    """

    page: Path
    table: Path
    remarked: int
    remarks: Mapping[str, int]


@dataclass(frozen=True)
class _Shown:
    """Values of a row's result.json that the reports take."""

    files: tuple[str, ...] = ()
    preview: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    measures: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


_SHOWN = TypeAdapter(_Shown)


def write_reports(folder: BatchFolder) -> Reports:
    """Write report.html and report.csv of what the folder holds now.

    Raises InvalidPlan where the folder holds no batch.
    """
    plan, rows = folder.rows()
    found = [_entry(folder, row) for row in rows]
    counts = Counter(entry["status"] for entry in found)
    bad = counts["failed"] + counts["invalid"] + counts["damaged"]
    shown = [("all", len(rows)), ("done", counts["done"]), ("failed", bad), ("waiting", counts["waiting"])]
    gone = len(folder.finished - {row.folder for row in rows})
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(plan=plan, rows=found, counts=counts, shown=shown, gone=gone)
    paths = folder.path / PAGE, folder.path / TABLE
    for path, text in zip(paths, (page, _table(found)), strict=True):
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    remarked = [entry for entry in found if entry.get("remarks")]
    remarks = {entry["remarks"][0]: entry["number"] for entry in reversed(remarked)}
    return Reports(*paths, len(remarked), dict(reversed(remarks.items())))


def _entry(folder: BatchFolder, row: Row) -> dict[str, Any]:
    """Return what the reports show of a row."""
    entry: dict[str, Any] = {"number": row.number, "values": row.values, "name": row.folder, "status": "waiting"}
    if row.problems:
        return {**entry, "status": "invalid", "error": "\n".join(row.problems)}
    if folder.is_done(row):
        try:
            return {**entry, **_done(row, _SHOWN.validate_python(json_of(folder.result(row) / RESULT)))}
        except ValidationError:
            text = f"rows/{row.folder}/{RESULT} cannot be read. Delete that folder and run the command again."
            return {**entry, "status": "damaged", "error": text}
    if (failure := json_of(folder.failure(row))) is not None:
        kept = {name: failure.get(name, "") for name in ("error", "seconds")}
        trace, link = str(failure.get("traceback", ""))[-LONGEST_TRACEBACK:], quote(f"failed/{row.folder}.json")
        return {**entry, **kept, "traceback": trace, "failure": link, "status": "failed"}
    return entry


def _done(row: Row, result: _Shown) -> dict[str, Any]:
    base = f"rows/{row.folder}"
    files = [{"name": name, "link": quote(f"{base}/{name}")} for name in result.files]
    main = next((name for name in result.files if name.endswith(VIDEOS)), "".join(result.files[:1]))
    measures = _flat(result.measures)
    facts = [f"{result.seconds:.1f} s", format_bytes(result.peak_bytes)]
    facts += [f"{name} {value:.3g}" for name, value in measures.items() if isinstance(value, float)]
    return {
        "status": "done",
        "preview": quote(f"{base}/{result.preview}") if result.preview else "",
        "main": quote(f"{base}/{main}") if main else "",
        "file": f"{base}/{main}" if main else "",
        "files": files,
        "figures": ", ".join(facts),
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
        "measures": measures,
        "remarks": [remark.partition("\n")[0] for remark in result.remarks],  # without the lists of words below it
    }


def _flat(measures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return figures by one name each; remarks and sizes are left out."""
    found: dict[str, Any] = {}
    for name, value in measures.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name} ")
        elif isinstance(value, float):
            found[f"{prefix}{name}".replace("_", " ")] = value
    return found


def _table(found: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for entry in found for column in entry["values"]))
    figures = list(dict.fromkeys(name for entry in found for name in entry.get("measures", ())))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["row", "status", "folder", *columns, "seconds", "peak_bytes", *figures, "file", "remarks", "error"]
    )
    for entry in found:
        values = [entry["values"].get(column, "") for column in columns]
        measures = [entry.get("measures", {}).get(name, "") for name in figures]
        facts = [entry.get("seconds", ""), entry.get("peak_bytes", ""), *measures]
        ends = [entry.get("file", ""), " ".join(entry.get("remarks", ())), entry.get("error", "")]
        cells = [entry["number"], entry["status"], entry["name"], *values, *facts, *ends]
        writer.writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: Any) -> Any:  # noqa: ANN401 - a text or a number
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
