"""Reads the API format: `{id: {"class_type": ..., "inputs": {...}}}`, a link being `[id, slot]`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..graph import Graph, Link, Node, graph_of
from ..problems import Problem, refuse, shown
from ..schemas.registry import NodeTypes, close_names

MOST_KEYS = 100
"""Keys of a node that are compared with 'inputs'; the page writes 3."""
NO_TYPES: NodeTypes = MappingProxyType({})


def read_api_format(document: Mapping[str, Any], types: NodeTypes = NO_TYPES) -> Graph:
    """Return the graph of a parsed API-format file; raises InvalidWorkflow listing every malformed node.

    types: give nodes without a title the name that the page shows
    """
    problems: list[Problem] = []
    graph = graph_of(_node(node_id, entry, types, problems) for node_id, entry in document.items())
    refuse(problems)
    return graph


def _node(node_id: str, entry: Any, types: NodeTypes, problems: list[Problem]) -> Node:  # noqa: ANN401 - unchecked JSON
    bare = Node(node_id, "", "")
    if not isinstance(entry, dict) or not isinstance(entry.get("class_type"), str):
        problems.append(
            Problem("the node has no class_type; every node needs one. Export the workflow again.", bare.label.strip())
        )
        return bare
    class_type, inputs = entry["class_type"], entry.get("inputs", {})
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    known = types[class_type].schema.display_name if class_type in types else None
    node = Node(node_id, class_type, title if isinstance(title, str) and title else known or class_type)
    misspelt = [] if "inputs" in entry else close_names("inputs", list(entry)[:MOST_KEYS])
    if misspelt or not isinstance(inputs, dict):
        what = f"the node has {shown(misspelt[0])} where 'inputs' belongs" if misspelt else "inputs are not an object"
        problems.append(Problem(f"{what}; name every input. Export the workflow again.", node.label))
        return node
    read = {name: _value(value, name, node.label, problems) for name, value in inputs.items()}
    return Node(node_id, class_type, node.title, MappingProxyType(read))


def _value(value: Any, name: str, label: str, problems: list[Problem]) -> Any:  # noqa: ANN401 - unchecked JSON
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if not isinstance(value, list):
        return value
    match value:
        case [str() | int() as node_id, int() as slot] if not isinstance(slot, bool) and slot >= 0:
            return Link(str(node_id), slot)
    problems.append(
        Problem(
            f"{shown(value)} is not a link; a link is [node id, output number]. Correct it or give a value.",
            label,
            name,
        )
    )
    return None
