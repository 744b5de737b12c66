"""A workflow as a value: nodes with constants and links, independent of the file format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
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

    inputs:    by input id, a `Link` or a constant
    severed:   by input id, why a link that the file has leads to nothing ("its source #5 is muted")
    addresses: by the name of a model's file, where the workflow says that it can be downloaded
    """

    id: str
    class_type: str
    title: str
    inputs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    severed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    addresses: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def label(self) -> str:
        """Name for messages: the id and what the user sees on the node."""
        return f"#{short(self.id)} {short(self.title)}"

    @property
    def links(self) -> dict[str, Link]:
        """Inputs that are links."""
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    @property
    def constants(self) -> dict[str, Any]:
        """Inputs that are constants."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Link)}

    def with_inputs(self, inputs: Mapping[str, Any]) -> Node:
        """Return the node with some inputs replaced."""
        return replace(self, inputs=MappingProxyType({**self.inputs, **inputs}))


@dataclass(frozen=True)
class Box:
    """A node of the page that does not run: a subgraph's box, or a primitive.

    names:   what a user may call it, beside its id; the first is shown
    widgets: by the widget's name, the inputs it feeds: (id of a node or of another box, input or widget)
    """

    id: str
    names: tuple[str, ...]
    widgets: Mapping[str, tuple[tuple[str, str], ...]]

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"#{short(self.id)} {short(self.names[0])}"


@dataclass(frozen=True)
class Graph:
    """The nodes of a workflow by id, in the order of the file.

    boxes:   nodes of the page that stand for several nodes, or for a value
    remarks: what a user should know of a graph that can run
    of_page: whether the page has still to fill in names of files, see `page_texts`
    """

    nodes: Mapping[str, Node]
    boxes: Mapping[str, Box] = field(default_factory=lambda: MappingProxyType({}))
    remarks: tuple[str, ...] = ()
    of_page: bool = False

    def with_inputs(self, node_id: str, inputs: Mapping[str, Any]) -> Graph:
        """Return the graph with some inputs of one node replaced."""
        changed = self.nodes[node_id].with_inputs(inputs)
        return replace(self, nodes=MappingProxyType({**self.nodes, node_id: changed}))

    def api_format(self) -> dict[str, Any]:
        """Return the graph as ComfyUI's API writes it; a link is [node id, slot]."""
        return {
            node.id: {
                "class_type": node.class_type,
                "inputs": {n: [v.node, v.slot] if isinstance(v, Link) else v for n, v in node.inputs.items()},
            }
            for node in self.nodes.values()
        }

    def needed_for(self, targets: Iterable[str]) -> list[str]:
        """Return the ids of `targets` and of all that they depend on and the graph has, sources first.

        Depth first, so that what one target needs runs before the next one's: an edit is saved before another starts.
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

    def cycle(self, among: Iterable[str]) -> list[str]:
        """Return the ids along one cycle among these nodes, sources first, the first again at the end; [] for none."""
        try:
            TopologicalSorter({key: [link.node for link in self.nodes[key].links.values()] for key in among}).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []


def graph_of(nodes: Iterable[Node], boxes: Iterable[Box] = ()) -> Graph:
    """Return a graph of these nodes; raises InvalidWorkflow where two have the same id, or there are too many."""
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
    """Return the error for a graph that is too large to check."""
    return stop(
        f"the workflow has more than {MOST_NODES} nodes with its subgraphs taken apart; at most {MOST_NODES} are run. "
        f"Split it."
    )
