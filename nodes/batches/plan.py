"""Reads a plan: a table of clips and values as CSV, JSONL or YAML."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..authors_configs.errors import ConfigError
from ..authors_configs.yaml_reader import PlainLoader
from ..headless.formats.read import unrepeated, whole_number
from ..headless.problems import short, shown
from .problems import InvalidPlan, PlanProblem, stop

MOST_BYTES = 32 * 2**20
"""Size of a plan's file; one of 20,000 rows with two prompts has some 4 MB."""
MOST_ROWS = 20_000
"""Rows of a plan, all combinations counted; checking these takes minutes, and a page of them can still be opened."""
MOST_COLUMNS = 100
BAR = "|"
"""Mark between the values of a cell in a CSV file."""
DELIMITERS = ",;\t"
"""Marks between cells; spreadsheets write the second in countries with a decimal comma."""
EXCEL_MARK = re.compile(rf'"?sep=([{DELIMITERS}])"?[{DELIMITERS}]*', re.IGNORECASE)
"""A first line that is no header: Excel reads the mark between cells from it, and other programs write it for Excel."""
NAME = "name"
"""Column of the name that a row's folder gets."""
ENDINGS = (".csv", ".jsonl", ".yaml", ".yml")

Scalar = str | bool | int | float | None
_ROW = TypeAdapter(dict[str, Scalar | list[Scalar]], config=ConfigDict(strict=True))


@dataclass(frozen=True)
class PlanRow:
    """One run that a plan asks for: a row, or one of its combinations.

    number: of the plan's row, 1 is the first
    line:   of the file, 0 where it is not known
    values: text by column, without `name`; what is not given is left out
    name:   of its folder, '' for one made of the values
    """

    number: int
    line: int
    values: Mapping[str, str]
    name: str = ""


Cells = Mapping[str, Sequence[str]]
"""Values by column; a column of several stands for as many runs."""


def read_plan(path: Path) -> list[PlanRow]:
    """Return the runs of the plan at `path`, all combinations of the values that its cells list.

    Raises InvalidPlan where the file is no plan; what single values mean is not checked.
    """
    readers: Mapping[str, Callable[[str], Iterator[tuple[int, Cells]]]] = {
        ".csv": _csv_rows,
        ".jsonl": _jsonl_rows,
        ".yaml": _yaml_rows,
        ".yml": _yaml_rows,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise stop(f"{path.name} is not a plan by its ending; there are {', '.join(ENDINGS)}. Save it as one of these.")
    runs: list[PlanRow] = []
    for number, (line, cells) in enumerate(reader(_text(path)), start=1):
        count = math.prod(map(len, cells.values()))
        if len(runs) + count > MOST_ROWS:
            text = f"with its combinations the plan has more than {MOST_ROWS} rows; at most that are run. Split it."
            raise InvalidPlan([PlanProblem(text, number, line)])
        runs += [_run(number, line, dict(zip(cells, values, strict=True))) for values in product(*cells.values())]
    if not runs:
        raise stop(f"{path.name} has no rows; at least one is needed. Write a clip and its prompts into it.")
    return runs


def _run(number: int, line: int, values: dict[str, str]) -> PlanRow:
    name = values.pop(NAME, "")
    return PlanRow(number, line, values, name)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise stop(f"cannot read the plan {path}: {error.strerror}. Check the path.") from error
    if len(content) > MOST_BYTES:
        raise stop(f"the plan {path} has more than {MOST_BYTES >> 20} MB; at most that is read. Split it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise stop(f"the plan {path} is not text in UTF-8 ({error.reason}); save it as CSV UTF-8.") from error


def _csv_rows(text: str) -> Iterator[tuple[int, Cells]]:
    """Yield line and cells of each row; a cell lists several values with `BAR` between them."""
    first, _, rest = text.partition("\n")
    told = EXCEL_MARK.fullmatch(first.strip(" \r"))
    delimiter = told[1] if told else max(DELIMITERS, key=first.count)
    skipped = int(told is not None)
    reader = csv.reader(io.StringIO(rest if told else text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    number, before = 0, skipped
    try:
        for cells in reader:
            line, before = before + 1, skipped + reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _columns([cell.strip() for cell in cells])
                continue
            number += 1
            if len(cells) != len(columns):
                raise _uneven(number, line, len(cells), len(columns))
            pairs = zip(columns, cells, strict=True)
            yield line, {name: _listed(cell, number, line, name) for name, cell in pairs if cell.strip()}
    except csv.Error as error:
        text = f"the quotes are wrong ({error}); a cell with quotes, commas or line breaks is quoted as a whole, and "
        text += "quotes inside are doubled. Correct it, or save the table from a spreadsheet."
        raise InvalidPlan([PlanProblem(text, number + 1, before + 1)]) from error


def _uneven(number: int, line: int, cells: int, columns: int) -> InvalidPlan:
    text = f"it has {cells} cells and the header has {columns}; as many are needed. Put a cell that holds the mark "
    return InvalidPlan([PlanProblem(f"{text}between cells into quotes.", number, line)])


def _columns(names: list[str]) -> list[str]:
    if "" in names:
        raise stop(f"column {names.index('') + 1} has no name in the header; each needs one. Name or remove it.")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise stop(f"the column '{short(twice)}' is there twice; one of its values would be lost. Keep one.")
    if len(names) > MOST_COLUMNS:
        raise stop(f"the plan has {len(names)} columns; at most {MOST_COLUMNS} are read. Take out what is not set.")
    return names


def _listed(cell: str, number: int, line: int, column: str) -> list[str]:
    if column == NAME:
        return [cell.strip()]
    values = [value.strip() for value in cell.split(BAR)]
    if "" in values:
        text = f"there is no value beside a '{BAR}', which stands between values; write one, or take the bar out."
        raise InvalidPlan([PlanProblem(text, number, line, column)])
    return values


def _jsonl_rows(text: str) -> Iterator[tuple[int, Cells]]:
    number = 0
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        number += 1
        try:
            found = json.loads(row, object_pairs_hook=unrepeated, parse_int=whole_number)
        except (ValueError, RecursionError) as error:
            text = f"it is not a JSON object on one line ({error}). Correct it."
            raise InvalidPlan([PlanProblem(text, number, line)]) from error
        yield line, _cells(found, number, line)


def _yaml_rows(text: str) -> Iterator[tuple[int, Cells]]:
    try:
        found = yaml.load(text, PlainLoader)
    except (yaml.YAMLError, ConfigError, ValueError) as error:
        raise stop(f"the plan is not YAML ({' '.join(str(error).split())}). Correct it.") from error
    except RecursionError as error:
        raise stop("the plan is nested too deeply to be one; a list of rows is needed. Write '- clip: ...'.") from error
    if not isinstance(found, list):
        raise stop(f"the plan holds {shown(found)}; a list of rows is needed. Begin each row with '- clip: ...'.")
    for number, row in enumerate(found, start=1):
        yield 0, _cells(row, number, 0)


def _cells(row: Any, number: int, line: int) -> Cells:  # noqa: ANN401 - unchecked JSON or YAML
    try:
        checked = _ROW.validate_python(row)
    except ValidationError as error:
        column = str(error.errors()[0]["loc"][0]) if isinstance(row, dict) and error.errors()[0]["loc"] else ""
        came = row.get(column) if isinstance(row, dict) else row
        text = f"it holds {shown(came)}; texts, numbers, true, false or a list of these by column are needed."
        raise InvalidPlan([PlanProblem(f"{text} Correct it.", number, line, column)]) from error
    if len(checked) > MOST_COLUMNS:
        raise InvalidPlan(
            [PlanProblem(f"it has {len(checked)} columns; at most {MOST_COLUMNS} are read.", number, line)]
        )
    cells = {}
    for column, value in checked.items():
        values = [_written(each) for each in value if each is not None] if isinstance(value, list) else []
        if isinstance(value, list) and len(values) < max(len(value), 1):
            text = "its list has no value, or an empty one; values are needed. Write them, or leave the column out."
            raise InvalidPlan([PlanProblem(text, number, line, column)])
        if value is not None:
            cells[column] = values if isinstance(value, list) else [_written(value)]
    return cells


def _written(value: Scalar) -> str:
    """Write a value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
