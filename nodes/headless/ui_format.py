"""Reads the UI format (version 0.4): nodes with positional `widgets_values`, and links between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from .graph import Graph, Link, Node, graph_of
from .registry import NodeType, NodeTypes
from .scopes import BYPASSED, MUTED, NOTES, Constant, Scope, Severed, Wiring

SEED_NAMES = frozenset({"seed", "noise_seed"})
AFTER_GENERATE = frozenset({"fixed", "increment", "decrement", "randomize"})
"""Values of the widget that the frontend puts behind a seed; the file has it among the node's own widgets."""


def read_ui_format(document: Mapping[str, Any], types: NodeTypes) -> Graph:
    """The graph of a parsed UI-format file; raises InvalidWorkflow where its nodes or links are malformed.

    Notes are left out; reroutes, primitives, bypassed nodes and subgraphs are resolved into plain links and constants.
    A node inside a subgraph gets the id 'outer:inner'.
    """
    wiring = Wiring(document)
    return graph_of(_nodes(wiring, wiring.root, types))


def _nodes(wiring: Wiring, scope: Scope, types: NodeTypes) -> Iterator[Node]:
    virtual = NOTES | {"Reroute", "PrimitiveNode"}
    for raw in scope.nodes.values():
        if raw.get("mode") in (MUTED, BYPASSED) or raw["type"] in virtual:
            continue
        inner = wiring.inner(scope, raw)
        if inner is None:
            yield _node(wiring, scope, raw, types.get(raw["type"]))
        else:
            yield from _nodes(wiring, inner, types)


def _node(wiring: Wiring, scope: Scope, raw: dict[str, Any], node_type: NodeType | None) -> Node:
    inputs = {} if node_type is None else _widget_values(raw.get("widgets_values"), node_type)
    severed: dict[str, str] = {}
    for slot, socket in enumerate(raw.get("inputs") or ()):
        source = wiring.source(scope, raw, slot)
        name = socket.get("name", "")
        if isinstance(source, Link):
            inputs[name] = source
        elif isinstance(source, Constant):
            inputs[name] = source.value
        elif isinstance(source, Severed):
            severed[name] = source.reason
    title = raw.get("title") or _shown_name(raw, node_type)
    return Node(f"{scope.prefix}{raw['id']}", raw["type"], title, MappingProxyType(inputs), MappingProxyType(severed))


def _shown_name(raw: dict[str, Any], node_type: NodeType | None) -> str:
    return (node_type.schema.display_name if node_type else None) or raw["type"]


def _widget_values(values: Any, node_type: NodeType) -> dict[str, Any]:  # noqa: ANN401 - unchecked JSON
    """Constants by input id. A widget the file has no value for (one appended since) takes its default."""
    defaults = {widget.id: widget.default for widget in node_type.widgets if widget.default is not None}
    if isinstance(values, dict):
        known = {widget.id for widget in node_type.widgets}
        return defaults | {name: value for name, value in values.items() if name in known}
    remaining = list(values or ())
    read: dict[str, Any] = {}
    for widget in node_type.widgets:
        if not remaining:
            break
        read[widget.id] = remaining.pop(0)
        followed = widget.id in SEED_NAMES or getattr(widget, "control_after_generate", None)
        if followed and remaining and isinstance(remaining[0], str) and remaining[0] in AFTER_GENERATE:
            remaining.pop(0)
    return defaults | read
