"""Reads the UI format (version 0.4): nodes with positional `widgets_values`, and links between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from ..graph import Graph, Link, Node, graph_of
from ..problems import InvalidWorkflow, Problem, short
from ..schemas.misspelt import MEANT, MOST_STRANGE
from ..schemas.registry import NearNames, NodeType, NodeTypes
from .promoted import AFTER_GENERATE, CONTROL
from .ui_links import PAGE_ONLY, Constant, Scope, Severed, Wiring
from .ui_nodes import UiNode

SEED_NAMES = frozenset({"seed", "noise_seed"})
PREVIEW = "$$"
"""Prefix of the names of previews, which a box lists among its widgets."""


def read_ui_format(document: Mapping[str, Any], types: NodeTypes) -> Graph:
    """Return the graph of a parsed UI-format file; raises InvalidWorkflow where its nodes or links are malformed.

    Notes are left out; reroutes, primitives, bypassed nodes and subgraphs are resolved into plain links and constants.
    A node inside a subgraph gets the id 'outer:inner'.
    """
    wiring = Wiring(document)
    nodes = list(_nodes(wiring, wiring.root, types))
    return replace(graph_of(nodes, wiring.boxes()), of_page=True)


def _nodes(wiring: Wiring, scope: Scope, types: NodeTypes) -> Iterator[Node]:
    for raw in scope.level.nodes.values():
        if not raw.runs or raw.type in PAGE_ONLY:
            continue
        inner = wiring.inner(scope, raw)
        if inner is None:
            yield _node(wiring, scope, raw, types.get(raw.type))
        else:
            yield from _nodes(wiring, inner, types)


def _node(wiring: Wiring, scope: Scope, raw: UiNode, node_type: NodeType | None) -> Node:
    title = raw.title or (node_type.schema.display_name if node_type else None) or raw.type
    inputs, severed = ({}, {}) if node_type is None else _widget_values(raw.values, node_type, wiring.near)
    for path, name, value in scope.promoted.get(raw.id, ()):
        if not path and name != CONTROL and not name.startswith(PREVIEW):
            inputs[name] = value
    linked: set[str] = set()
    for slot, socket in enumerate(raw.inputs):
        source, name = wiring.source(scope, raw, slot), socket.name
        if node_type is not None and socket.link is not None and name in linked:
            twice = f"two inputs are called '{short(name)}' and both are linked; one is meant. Remove one of the links."
            raise InvalidWorkflow([Problem(twice, f"#{scope.flat(raw.id)} {title}", name)])
        if socket.link is not None:
            linked.add(name)
        if isinstance(source, Link):
            inputs[name] = source
        elif isinstance(source, Constant):
            inputs[name] = source.value
        elif isinstance(source, Severed):
            severed[name] = source.reason
    return Node(scope.flat(raw.id), raw.type, title, MappingProxyType(inputs), MappingProxyType(severed), raw.addresses)


def _widget_values(values: Any, node_type: NodeType, near: NearNames) -> tuple[dict[str, Any], dict[str, str]]:  # noqa: ANN401 - JSON
    """Constants by input id, and why there is none.

    A widget that the file has no value for (one appended since) takes its default, but a node without any values is
    no node that the page has saved.
    """
    if values is None:
        return {}, {widget.id: "the node has no widgets_values" for widget in node_type.widgets}
    defaults = {widget.id: widget.default for widget in node_type.widgets if widget.default is not None}
    if isinstance(values, Mapping):
        meant = _meant(values, defaults, near)
        return {name: value for name, value in defaults.items() if name not in meant} | dict(values), {}
    read: dict[str, Any] = {}
    position = 0
    for widget in node_type.widgets:
        if position >= len(values):
            break
        read[widget.id] = values[position]
        position += 1
        followed = widget.id in SEED_NAMES or getattr(widget, "control_after_generate", None)
        behind = values[position] if followed and position < len(values) else None
        position += isinstance(behind, str) and behind in AFTER_GENERATE
    return defaults | read, {}


def _meant(values: Mapping[str, Any], defaults: Mapping[str, Any], near: NearNames) -> set[str]:
    """Widgets without a value whose names are near to one that no widget has: the user must say what is meant."""
    without = [name for name in defaults if name not in values]
    strange = islice((name for name in values if name not in defaults), MOST_STRANGE)
    return {meant for name in strange for meant in near.close(name, without, MEANT)}
