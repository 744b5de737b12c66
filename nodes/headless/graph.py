"""A workflow as a value: nodes with constants and links, whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from .problems import InvalidWorkflow, Problem, refuse, short, stop

MOST_NODES = 20_000
"""Nodes of a workflow once its subgraphs are taken apart; the largest published ones have a few hundred."""


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
        return f"#{short(self.id)} {short(self.title)}"

    @property
    def links(self) -> dict[str, Link]:
        """The inputs that are links."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    @property
    def constants(self) -> dict[str, Any]:
        """The inputs that are constants."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Link)}

    def with_inputs(self, inputs: Mapping[str, Any]) -> Node:
        """The same node with some inputs replaced."""
        return replace(self, inputs=MappingProxyType({**self.inputs, **inputs}))


@dataclass(frozen=True)
class Box:
    """What the page shows as one node, and a run does not have: a subgraph's box, or a primitive.

    names:   what a user may call it, beside its id; the first is shown
    widgets: by the widget's name, the inputs it feeds: (id of a node or of another box, input or widget)
    """

    id: str
    names: tuple[str, ...]
    widgets: Mapping[str, tuple[tuple[str, str], ...]]

    @property
    def label(self) -> str:
        """How messages name the box."""
        return f"#{short(self.id)} {short(self.names[0])}"


@dataclass(frozen=True)
class Graph:
    """The nodes of a workflow by id, in the order of the file.

    boxes:   what stands for several nodes, or for a value, on the page
    remarks: what a user should know of a graph that can run
    of_page: whether the page has still to fill in names of files, see `page_texts`
    """

    nodes: Mapping[str, Node]
    boxes: Mapping[str, Box] = field(default_factory=lambda: MappingProxyType({}))
    remarks: tuple[str, ...] = ()
    of_page: bool = False

    def with_inputs(self, node_id: str, inputs: Mapping[str, Any]) -> Graph:
        """The same graph with some inputs of one node replaced."""
        changed = self.nodes[node_id].with_inputs(inputs)
        return replace(self, nodes=MappingProxyType({**self.nodes, node_id: changed}))

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
        """Ids of `targets` and of all that they depend on and the graph has, sources first.

        In a graph with a cycle (see `cycle`) one of the cycle's nodes comes before its source.
        """
        order: dict[str, None] = {}
        entered: set[str] = set()
        stack = [(target, False) for target in reversed(list(targets))]
        while stack:
            node_id, sources_done = stack.pop()
            if sources_done:
                order[node_id] = None
            elif node_id in self.nodes and node_id not in entered:
                entered.add(node_id)
                stack.append((node_id, True))
                stack.extend((link.node, False) for link in reversed(self.nodes[node_id].links.values()))
        return list(order)

    def cycle(self, starts: Iterable[str]) -> list[str]:
        """Ids along one cycle that `starts` depend on, the first again at the end; empty where there is none."""
        finished: set[str] = set()
        for start in starts:
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


def graph_of(nodes: Iterable[Node], boxes: Iterable[Box] = ()) -> Graph:
    """A graph of these nodes; raises InvalidWorkflow where two have the same id, or there are too many."""
    by_id: dict[str, Node] = {}
    twice: list[Problem] = []
    for node in nodes:
        if len(by_id) >= MOST_NODES:
            raise too_many_nodes()
        if node.id in by_id:
            twice.append(Problem("another node has the same id; each needs its own. Give one a new id.", node.label))
        by_id[node.id] = node
    refuse(twice)
    return Graph(MappingProxyType(by_id), MappingProxyType({box.id: box for box in boxes}))


def too_many_nodes() -> InvalidWorkflow:
    """The refusal of a graph that is too large to check."""
    return stop(
        f"the workflow has more than {MOST_NODES} nodes with its subgraphs taken apart; at most {MOST_NODES} are run. "
        f"Split it."
    )
