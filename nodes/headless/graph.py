"""A workflow as a value: nodes with constants and links, whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Link:
    """Output `slot` (0 = first) of the node with id `node`."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """One node of a workflow.

    inputs:  by input id, a `Link` or a constant
    severed: by input id, why a link that the file has leads to nothing ("its source #5 is muted")
    """

    id: str
    class_type: str
    title: str
    inputs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    severed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def label(self) -> str:
        """How messages name the node: its id and what the user sees on it."""
        return f"#{self.id} {self.title}"

    @property
    def links(self) -> dict[str, Link]:
        """The inputs that are links."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    @property
    def constants(self) -> dict[str, Any]:
        """The inputs that are constants."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Link)}


@dataclass(frozen=True)
class Graph:
    """The nodes of a workflow by id, in the order of the file."""

    nodes: Mapping[str, Node]

    def with_inputs(self, node_id: str, inputs: Mapping[str, Any]) -> Graph:
        """The same graph with some inputs of one node replaced."""
        node = self.nodes[node_id]
        changed = replace(node, inputs=MappingProxyType({**node.inputs, **inputs}))
        return Graph(MappingProxyType({**self.nodes, node_id: changed}))

    def api_format(self) -> dict[str, Any]:
        """The graph as ComfyUI's API writes it; a link is [node id, slot]."""
        return {
            node.id: {
                "class_type": node.class_type,
                "inputs": {n: [v.node, v.slot] if isinstance(v, Link) else v for n, v in node.inputs.items()},
            }
            for node in self.nodes.values()
        }

    def needed_for(self, targets: Iterable[str]) -> list[str]:
        """Ids of `targets` and of all they depend on, sources first. The graph must have no cycle."""
        order: dict[str, None] = {}
        stack = [(target, False) for target in reversed(list(targets))]
        while stack:
            node_id, sources_done = stack.pop()
            if node_id in order:
                continue
            if sources_done:
                order[node_id] = None
                continue
            stack.append((node_id, True))
            stack.extend((link.node, False) for link in reversed(self.nodes[node_id].links.values()))
        return list(order)

    def cycle(self) -> list[str]:
        """Ids along one cycle, the first again at the end; empty where there is none."""
        finished: set[str] = set()
        for start in self.nodes:
            path: dict[str, None] = {}
            stack = [(start, False)]
            while stack:
                node_id, leaving = stack.pop()
                if leaving:
                    path.pop(node_id)
                    finished.add(node_id)
                elif node_id in path:
                    walked = list(path)
                    return [*walked[walked.index(node_id) :], node_id]
                elif node_id not in finished and node_id in self.nodes:
                    path[node_id] = None
                    stack.append((node_id, True))
                    stack.extend((link.node, False) for link in self.nodes[node_id].links.values())
        return []


def graph_of(nodes: Iterable[Node]) -> Graph:
    """A graph of these nodes."""
    return Graph(MappingProxyType({node.id: node for node in nodes}))
