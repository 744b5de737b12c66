"""Rows of a batch: checked before the first one runs, named by what they depend on, grouped into units."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

from ...fatezero_ext.errors import FateZeroError
from ..checking.graph_texts import INVERT_NODE, WHOLE_EDIT_NODE
from ..clips.given_clip import UNCHOSEN
from ..headless.graph import Graph
from ..headless.problems import InvalidWorkflow
from ..headless.run.cache_keys import cache_keys
from ..headless.schemas.page_texts import PREFIX, SAVING
from ..headless.schemas.registry import NodeTypes
from ..headless.schemas.validate import output_nodes, validated
from .plan import PlanRow
from .problems import InvalidPlan, PlanProblem
from .workflow import CLIP, Targets

EDIT_ALONE = ("edit_prompt", "kind", "strength")
"""Inputs of Video Edit that its inversion does not depend on."""
LONGEST_NAME = 48
"""Letters of the readable part of a folder's name: file systems take 255 bytes, a letter has at most 4."""
MOST_OF_UNIT = 500
"""Rows of a unit; more become several, so that all workers have some, at the price of an inversion each."""
EMPTY_CLIP = (
    "the cell is empty, and the workflow names no clip that is there. Write a clip's file, or take the row out."
)
DIGITS = 16
"""Hexadecimal digits of a digest in a folder's name: with 20,000 rows two are alike once in 10^11 plans."""


@dataclass(frozen=True)
class Row:
    """One run of a batch.

    number, line: as in `PlanRow`
    values:   text by column
    key:      digest of all that its results depend on; '' where it cannot run
    unit:     digest of its clip and inversion; rows that have it in common run on one worker
    folder:   name of the folder of its results; '' where it cannot run
    problems: why it cannot run
    """

    number: int
    line: int
    values: Mapping[str, str]
    key: str = ""
    unit: str = ""
    folder: str = ""
    problems: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for JSON and for other processes."""
        return asdict(replace(self, values=dict(self.values)))

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Row:
        """Return the row of plain values."""
        return cls(**{**plain, "problems": tuple(plain["problems"])})


@dataclass(frozen=True)
class Unit:
    """Rows that share a clip and its inversion, in the order of the plan."""

    key: str
    rows: tuple[Row, ...]


def checked_rows(
    plan: Sequence[PlanRow], graph: Graph, targets: Targets, types: NodeTypes
) -> tuple[list[Row], list[PlanProblem]]:
    """Check every row by the runner's own checks; returns all rows, and what is wrong with those that cannot run.

    Call it where the host is installed and files are stamped by their bytes.
    Raises InvalidPlan where rows are the same.
    """
    rows: list[Row] = []
    units: Counter[str] = Counter()
    found: dict[tuple[int, str, str], PlanProblem] = {}
    for each in plan:
        try:
            whole = validated(targets.applied(graph, each.values, types), types)
            key, unit = digests(whole, types)
            part, units[unit] = units[unit] // MOST_OF_UNIT, units[unit] + 1
            unit = f"{unit}-{part}" if part else unit
            rows.append(Row(each.number, each.line, each.values, key, unit, f"{_readable(each)}-{key[:DIGITS]}"))
        except Exception as error:  # whatever a node's check raises, such as of a disk, concerns this row alone
            problems = _problems(error, each, graph, targets)
            rows.append(Row(each.number, each.line, each.values, problems=tuple(map(str, problems))))
            for problem in problems:
                found.setdefault((problem.row, problem.column, problem.text), problem)
    _refuse_whole(rows, list(found.values()))
    _refuse_repeated(rows)
    return rows, list(found.values())


def _refuse_whole(rows: Sequence[Row], problems: Sequence[PlanProblem]) -> None:
    """Raise InvalidPlan with what is wrong with every row and in no column: it is the workflow that is wrong."""
    if any(row.key for row in rows):
        return
    numbers: dict[str, set[int]] = {}
    for problem in problems:
        if not problem.column:
            numbers.setdefault(problem.text, set()).add(problem.row)
    every = {row.number for row in rows}
    if whole := [PlanProblem(text) for text, found in numbers.items() if found == every]:
        raise InvalidPlan(whole)


def _problems(error: Exception, row: PlanRow, graph: Graph, targets: Targets) -> list[PlanProblem]:
    if not isinstance(error, InvalidWorkflow):
        text = (
            str(error) if isinstance(error, FateZeroError) else f"its check failed ({type(error).__name__}: {error})."
        )
        return [PlanProblem(text, row.number, row.line)]
    problems = []
    # A node behind Load Video says how to choose a clip on the page; Load Video has its own problem then.
    for each in [each for each in error.problems if not each.text.startswith(UNCHOSEN)] or error.problems:
        column = targets.column(each.node, each.input, graph)
        text = each.text if column else str(each)
        if column == CLIP and CLIP not in row.values:
            text = EMPTY_CLIP
        problems.append(PlanProblem(text, row.number, row.line, column))
    return problems


def _refuse_repeated(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    repeated = []
    for row in rows:
        earlier = first.setdefault(row.key, row) if row.key else row
        if earlier is not row:
            where = (
                "it lists a value twice" if earlier.number == row.number else f"it is the same as row {earlier.number}"
            )
            text = f"{where}, so that it would be computed once more for nothing. Remove it, or change a value."
            repeated.append(PlanProblem(text, row.number, row.line))
    if repeated:
        raise InvalidPlan(repeated)


def digests(graph: Graph, types: NodeTypes) -> tuple[str, str]:
    """Return the digests of a validated graph: of all that its results depend on, and of clip and inversion alone.

    Names of saved files are left out: they may hold the time.
    """
    ids = graph.needed_for(output_nodes(graph, types))
    named_alike = {
        node_id: node.with_inputs({PREFIX: ""}) if node.class_type in SAVING else node
        for node_id, node in graph.nodes.items()
    }
    same = replace(graph, nodes=MappingProxyType(named_alike))
    keys = cache_keys(same, ids, types)
    key = _digest(keys[node_id] for node_id in output_nodes(same, types))
    shared = [node_id for node_id in ids if graph.nodes[node_id].class_type in (INVERT_NODE, WHOLE_EDIT_NODE)]
    if not shared:  # no inversion: what reads files
        shared = [node_id for node_id in ids if types[graph.nodes[node_id].class_type].overrides("fingerprint_inputs")]
    return key, _unit(same, shared, types, keys) if shared else key


def _unit(graph: Graph, shared: Sequence[str], types: NodeTypes, keys: Mapping[str, str]) -> str:
    changed = dict(keys)
    for node_id in shared:
        if graph.nodes[node_id].class_type == WHOLE_EDIT_NODE:
            bare = graph.with_inputs(node_id, dict.fromkeys(EDIT_ALONE))
            del changed[node_id]
            changed = cache_keys(bare, [node_id], types, changed)
    return _digest(changed[node_id] for node_id in shared)


def _digest(keys: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _readable(row: PlanRow) -> str:
    """Return the readable part of a folder's name: the row's own name, or its clip and edit prompt."""
    values = row.values
    clip = PureWindowsPath(PurePosixPath(values.get(CLIP, "")).name).stem
    parts = [row.name] if row.name else [clip, values.get("edit_prompt", "") or "".join([*values.values()][-1:])]
    words = re.sub(r"[^\w]+", "-", " ".join(parts), flags=re.UNICODE).strip("-_").lower()
    return words[:LONGEST_NAME].rstrip("-_") or "row"


def units_of(rows: Sequence[Row]) -> list[Unit]:
    """Group rows into units, in the order of their first rows."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.unit, []).append(row)
    return [Unit(key, tuple(members)) for key, members in grouped.items()]
