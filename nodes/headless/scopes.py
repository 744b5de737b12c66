"""The raw nodes and links of a UI-format file; a subgraph is a scope of its own.

Links are followed from an input back to what really feeds it: through reroutes, bypassed nodes, primitives and the
borders of subgraphs, so that only links between nodes that run remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .graph import Link
from .problems import stop

MUTED, BYPASSED = 2, 4
NOTES = frozenset({"Note", "MarkdownNote"})
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20
"""Ids that stand for the border of a subgraph in its links."""
FARTHEST = 1000
"""Steps after which following a link is given up: only a circle of reroutes is that long."""


@dataclass(frozen=True)
class Constant:
    """A value that a primitive node gives to an input."""

    value: Any


@dataclass(frozen=True)
class Severed:
    """A link that leads to nothing, and why."""

    reason: str


Source = Link | Constant | Severed | None
"""What feeds an input; None where nothing does."""


@dataclass(frozen=True)
class Scope:
    """The nodes of one level of a file.

    prefix:   what ids of this scope start with in the flat graph, such as '' or '12:'
    nodes:    raw nodes by id
    origins:  by link id, the node id and output slot it comes from
    outlets:  by output slot of the subgraph, the link that leads there
    parent:   the scope and the raw node this subgraph stands in; None for the file's own level
    """

    prefix: str
    nodes: Mapping[Any, dict[str, Any]]
    origins: Mapping[Any, tuple[Any, int]]
    outlets: Mapping[int, Any]
    parent: tuple[Scope, dict[str, Any]] | None = None


def open_scope(level: Mapping[str, Any], prefix: str = "", parent: tuple[Scope, dict[str, Any]] | None = None) -> Scope:
    """The scope of a file's top level or of a subgraph's definition; raises InvalidWorkflow where it is malformed."""
    origins: dict[Any, tuple[Any, int]] = {}
    outlets: dict[int, Any] = {}
    try:
        nodes = {node["id"]: _shaped(node) for node in level["nodes"] if isinstance(node["type"], str)}
        for entry in level.get("links") or ():
            link, origin, slot, target, target_slot = _link_ends(entry)
            origins[link] = (origin, int(slot))
            if target == SUBGRAPH_OUTPUT:
                outlets[int(target_slot)] = link
    except (KeyError, TypeError, ValueError) as error:
        raise stop(
            f"the workflow's nodes or links are malformed ({type(error).__name__}: {error}); "
            f"version 0.4 of the format is needed. Export it from ComfyUI again."
        ) from error
    return Scope(prefix, nodes, origins, outlets, parent)


def _shaped(node: dict[str, Any]) -> dict[str, Any]:
    """The node itself; raises TypeError where its sockets or widgets are not what the format says."""
    for socket in node.get("inputs") or ():
        if not isinstance(socket, dict) or not isinstance(socket.get("link"), (int, str, type(None))):
            raise TypeError(f"an input of node {node['id']} is {socket!r}")
    if not isinstance(node.get("widgets_values"), (list, dict, type(None))):
        raise TypeError(f"widgets_values of node {node['id']} are {node['widgets_values']!r}")
    return node


def _link_ends(entry: Any) -> tuple[Any, Any, Any, Any, Any]:  # noqa: ANN401 - unchecked JSON
    if isinstance(entry, dict):
        return tuple(entry[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot"))
    link, origin, slot, target, target_slot = entry[:5]
    return link, origin, slot, target, target_slot


class Wiring:
    """Follows the links of a file with subgraphs; opens each subgraph where it is used."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        try:
            subgraphs = (document.get("definitions") or {}).get("subgraphs") or ()
            self._definitions = {entry["id"]: entry for entry in subgraphs}
        except (AttributeError, KeyError, TypeError) as error:
            raise stop(
                f"the workflow's subgraph definitions are malformed ({type(error).__name__}: {error}); a list of "
                f"definitions with ids is needed. Export it from ComfyUI again."
            ) from error
        self.root = open_scope(document)
        self._inner: dict[str, Scope] = {}

    def inner(self, scope: Scope, node: dict[str, Any]) -> Scope | None:
        """The scope inside a node that is a subgraph; None for any other node."""
        definition = self._definitions.get(node["type"])
        if definition is None:
            return None
        prefix = f"{scope.prefix}{node['id']}:"
        if prefix.count(":") > len(self._definitions):
            raise stop(f"subgraph '{definition.get('name', node['type'])}' contains itself. Take it out of itself.")
        if prefix not in self._inner:
            self._inner[prefix] = open_scope(definition, prefix, (scope, node))
        return self._inner[prefix]

    def source(self, scope: Scope, node: dict[str, Any], slot: int) -> Source:
        """What feeds input `slot` of a node."""
        place: tuple[Scope, dict[str, Any], int] | Source = (scope, node, slot)
        for _ in range(FARTHEST):
            if not isinstance(place, tuple):
                return place
            place = self._step_back(*place)
        return Severed("its link runs in a circle")

    def _step_back(self, scope: Scope, node: dict[str, Any], slot: int) -> tuple[Scope, dict[str, Any], int] | Source:
        """Across one link: the source itself, or the input that the link's other end hands on."""
        inputs = node.get("inputs") or ()
        link = inputs[slot].get("link") if slot < len(inputs) else None
        return None if link is None else self._behind(scope, link)

    def _behind(self, scope: Scope, link: Any) -> tuple[Scope, dict[str, Any], int] | Source:  # noqa: ANN401
        if link not in scope.origins:
            return Severed(f"its link {link} is not in the file")
        origin, slot = scope.origins[link]
        if origin == SUBGRAPH_INPUT and scope.parent is not None:
            return (*scope.parent, slot)
        node = scope.nodes.get(origin)
        if node is None:
            return Severed(f"its source #{scope.prefix}{origin} is not in the file")
        if node.get("mode") == MUTED:
            return Severed(f"its source #{scope.prefix}{origin} is muted")
        if node.get("mode") == BYPASSED:
            return _bypass(scope, node, slot)
        if node["type"] == "Reroute":
            return scope, node, 0
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or [None]
            return Constant(values[0])
        inner = self.inner(scope, node)
        if inner is None:
            return Link(f"{scope.prefix}{origin}", slot)
        if slot not in inner.outlets:
            return Severed(f"output {slot} of subgraph #{scope.prefix}{origin} has no source inside")
        return self._behind(inner, inner.outlets[slot])


def _bypass(scope: Scope, node: dict[str, Any], slot: int) -> tuple[Scope, dict[str, Any], int] | Source:
    """The input that a bypassed node hands on as output `slot`: the one beside it or the first, of the same type."""
    outputs, inputs = node.get("outputs") or (), node.get("inputs") or ()
    wanted = outputs[slot].get("type") if slot < len(outputs) else None
    for index in (slot, *range(len(inputs))):
        if index < len(inputs) and inputs[index].get("type") in (wanted, "*"):
            return scope, node, index
    return Severed(f"its source #{scope.prefix}{node['id']} is bypassed and has no {wanted} input to hand on")
