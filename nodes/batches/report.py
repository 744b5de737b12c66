"""Reports of a batch's folder: a page that opens from disk, and a table."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment

from ...fatezero_ext.atomic_files import whole_file
from ...fatezero_ext.printable import format_bytes
from .folder import RESULT, BatchFolder, json_of
from .rows import Row

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE, TABLE = "report.html", "report.csv"
STATES = ("done", "failed", "invalid", "waiting")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First letters of cells that spreadsheets would compute."""
VIDEOS = (".mp4", ".webm", ".mov")


def write_reports(folder: BatchFolder) -> tuple[Path, Path]:
    """Write report.html and report.csv of what the folder holds now; returns their paths.

    Raises InvalidPlan where the folder holds no batch.
    """
    plan, rows = folder.rows()
    found = [_entry(folder, row) for row in rows]
    counts = Counter(entry["status"] for entry in found)
    bad = counts["failed"] + counts["invalid"]
    shown = [("all", len(rows)), ("done", counts["done"]), ("failed", bad), ("waiting", counts["waiting"])]
    gone = len(folder.finished - {row.folder for row in rows})
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(plan=plan, rows=found, counts=counts, shown=shown, gone=gone)
    paths = folder.path / PAGE, folder.path / TABLE
    for path, text in zip(paths, (page, _table(found)), strict=True):
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    return paths


def _entry(folder: BatchFolder, row: Row) -> dict[str, Any]:
    """Return what the reports show of a row."""
    entry: dict[str, Any] = {"number": row.number, "values": row.values, "name": row.folder, "status": "waiting"}
    if row.problems:
        return {**entry, "status": "invalid", "error": "\n".join(row.problems)}
    if (result := json_of(folder.result(row) / RESULT)) is not None:
        return {**entry, **_done(folder, row, result)}
    if (failure := json_of(folder.failure(row))) is not None:
        kept = {name: failure.get(name, "") for name in ("error", "traceback", "seconds")}
        return {**entry, **kept, "status": "failed"}
    return entry


def _done(folder: BatchFolder, row: Row, result: Mapping[str, Any]) -> dict[str, Any]:
    base = folder.result(row).relative_to(folder.path).as_posix()
    names = [name for name in result.get("files", ()) if isinstance(name, str)]
    files = [{"name": name, "link": quote(f"{base}/{name}")} for name in names]
    main = next((file["link"] for file in files if file["name"].endswith(VIDEOS)), files[0]["link"] if files else "")
    measures = _flat(result.get("measures") or {})
    facts = [f"{result.get('seconds', 0):.1f} s", format_bytes(result.get("peak_bytes", 0))]
    facts += [f"{name} {value:.3g}" for name, value in measures.items() if isinstance(value, float)]
    preview = result.get("preview")
    return {
        "status": "done",
        "preview": quote(f"{base}/{preview}") if preview else "",
        "main": main,
        "files": files,
        "figures": ", ".join(facts),
        "seconds": result.get("seconds", ""),
        "peak_bytes": result.get("peak_bytes", ""),
        "measures": measures,
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
    writer.writerow(["row", "status", "folder", *columns, "seconds", "peak_bytes", *figures, "file", "error"])
    for entry in found:
        values = [entry["values"].get(column, "") for column in columns]
        measures = [entry.get("measures", {}).get(name, "") for name in figures]
        facts = [entry.get("seconds", ""), entry.get("peak_bytes", ""), *measures]
        ends = [entry.get("main", ""), entry.get("error", "")]
        cells = [entry["number"], entry["status"], entry["name"], *values, *facts, *ends]
        writer.writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: Any) -> Any:  # noqa: ANN401 - a text or a number
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
