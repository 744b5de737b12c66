"""The subgraphs that a UI-format file defines, and how large it is with all of them taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ..graph import MOST_NODES, too_many_nodes
from ..problems import InvalidWorkflow, short, stop
from ..schemas.registry import NearNames
from .promoted import Definitions
from .ui_nodes import EXPORT_AGAIN, Level, read_level

DEEPEST = 100
"""Subgraphs inside each other; the page itself follows no widget through more."""
MOST_INPUTS = 200_000
"""Inputs of all nodes together, once the subgraphs are taken apart."""


@dataclass(frozen=True)
class _Size:
    """Size of a level with its subgraphs taken apart."""

    nodes: int
    inputs: int
    depth: int


def read_definitions(document: Mapping[str, Any], near: NearNames) -> Definitions:
    """Return the subgraphs by id, those defined inside others too; raises InvalidWorkflow where they are malformed."""
    found: dict[str, Level] = {}
    waiting = [document]
    while waiting:
        for raw in _listed(waiting.pop()):
            key, name = raw.get("id"), raw.get("name")
            if not isinstance(key, str):
                raise _malformed("one has no id")
            title = short(name if isinstance(name, str) and name else key)
            if key in found:
                raise _malformed(f"two, one of them '{title}', have the same id")
            found[key] = read_level(raw, near, f" in subgraph '{title}'")
            waiting.append(raw)
    return found


def _listed(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    definitions = raw.get("definitions") or {}
    listed = (definitions.get("subgraphs") or []) if isinstance(definitions, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise _malformed("they are no list of objects")
    return listed


def _malformed(what: str) -> InvalidWorkflow:
    return stop(
        f"the workflow's subgraph definitions are malformed: {what}; each needs an id of its own. {EXPORT_AGAIN}"
    )


def check_size(root: Level, definitions: Definitions) -> None:
    """Count what a file holds before anything is taken apart.

    Raises InvalidWorkflow where a subgraph contains itself, or there are too many nodes, inputs or levels.
    """
    inside: dict[str | None, list[str]] = {}
    waiting: list[str | None] = [None]
    while waiting:
        key = waiting.pop()
        if key not in inside:
            inside[key] = list(_used(root if key is None else definitions[key], definitions))
            waiting.extend(inside[key])
    sizes: dict[str | None, _Size] = {}
    try:
        for key in TopologicalSorter(inside).static_order():
            level = root if key is None else definitions[key]
            sizes[key] = _checked(level, [sizes[used] for used in inside[key]])
    except CycleError as error:
        name = definitions[error.args[1][0]].name or error.args[1][0]
        raise stop(f"subgraph '{short(name)}' contains itself. Take it out of itself.") from error


def _used(level: Level, definitions: Definitions) -> Iterator[str]:
    return (node.type for node in level.nodes.values() if node.runs and node.type in definitions)


def _inputs(level: Level) -> int:
    """Inputs and promoted widgets of a level, all that is gone through where it is used."""
    return len(level.inputs) + sum(len(node.inputs) + len(node.promotions or ()) for node in level.nodes.values())


def _checked(level: Level, inside: list[_Size]) -> _Size:
    size = _Size(
        len(level.nodes) + sum(size.nodes for size in inside),
        _inputs(level) + sum(size.inputs for size in inside),
        1 + max((size.depth for size in inside), default=0),
    )
    if size.nodes > MOST_NODES:
        raise too_many_nodes()
    if size.inputs > MOST_INPUTS:
        raise stop(f"the nodes of the workflow have more than {MOST_INPUTS} inputs; that many are not run. Split it.")
    if size.depth > DEEPEST + 1:
        raise stop(
            f"the workflow has more than {DEEPEST} subgraphs inside each other; at most {DEEPEST} are run. "
            f"Unpack some of them."
        )
    return size
