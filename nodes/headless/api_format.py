"""Reads the API format: `{id: {"class_type": ..., "inputs": {...}}}`, a link being `[id, slot]`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .graph import Graph, Link, Node, graph_of
from .problems import InvalidWorkflow, Problem


def read_api_format(document: Mapping[str, Any]) -> Graph:
    """The graph of a parsed API-format file; raises InvalidWorkflow listing every malformed node."""
    problems: list[Problem] = []
    nodes = [_node(node_id, entry, problems) for node_id, entry in document.items()]
    if problems:
        raise InvalidWorkflow(problems)
    return graph_of(nodes)


def _node(node_id: str, entry: Any, problems: list[Problem]) -> Node:  # noqa: ANN401 - unchecked JSON
    if not isinstance(entry, dict) or not isinstance(entry.get("class_type"), str):
        problems.append(
            Problem("the node has no class_type; every node needs one. Export the workflow again.", f"#{node_id}")
        )
        return Node(node_id, "", "")
    class_type, inputs = entry["class_type"], entry.get("inputs", {})
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    node = Node(node_id, class_type, title if isinstance(title, str) and title else class_type)
    if not isinstance(inputs, dict):
        problems.append(Problem("inputs are not an object; name every input. Export the workflow again.", node.label))
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
        Problem(f"{value} is not a link; a link is [node id, output number]. Correct it or give a value.", label, name)
    )
    return None
