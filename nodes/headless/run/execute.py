"""Runs validated graphs, each node once per distinct result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ....fatezero_ext.media.clip import FileFrames
from ....fatezero_ext.media.streamed import StreamedFrames
from ...api import io
from ..graph import Graph, Link, Node
from ..problems import NodeFailed
from ..schemas.registry import NodeType, NodeTypes, finished
from ..schemas.validate import output_nodes
from .cache_keys import cache_keys
from .expansion import expansion
from .lists import calls_for, joined_outputs, joined_shown


class RunObserver(Protocol):
    """Observer of a run."""

    def started(self, label: str, number: int, count: int) -> None:
        """Called when node `number` of `count` (1 = first) starts."""

    def ended(self, label: str, seconds: float, *, reused: bool) -> None:
        """Called when the node has its outputs; `reused` where an earlier variant had made them."""


@dataclass(frozen=True)
class Result:
    """Outputs of a node, one list each, and what it shows ({} for nothing).

    lists: usually of one item each; of several where the node makes a list, or ran once per item of one
    """

    lists: tuple[tuple[Any, ...], ...]
    shown: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Return the first item of every output: all there is, unless lists are in play. None stands for an empty list.

        A video file's frames are decoded, and streamed ones made; raises VideoError where the file is damaged.
        """
        return tuple(_decoded(items[0]) if items else None for items in self.lists)


@dataclass(frozen=True)
class RunOrder:
    """Node ids of one graph in the order in which they run, sources first, with the key of each one's result."""

    graph: Graph
    ids: Sequence[str]
    keys: Mapping[str, str]


def run_order(graph: Graph, types: NodeTypes) -> RunOrder:
    """Return the order in which a validated graph runs."""
    ids = graph.needed_for(output_nodes(graph, types))
    return RunOrder(graph, ids, cache_keys(graph, ids, types))


def run_graphs(graphs: Sequence[Graph], types: NodeTypes, observer: RunObserver) -> Iterator[Mapping[str, Result]]:
    """Run validated graphs in turn; yields the results of each by node id.

    A result is shared by all nodes with the same key and dropped once no later graph needs it. Results of nodes that
    another has put in its place are kept while it is in a later graph, until it puts others there.
    Raises NodeFailed naming the node whose own error stopped the run.
    """
    orders, session = [run_order(graph, types) for graph in graphs], Session(types, observer)
    for number, current in enumerate(orders):
        yield session.run(current)
        session.forget_but(orders[number + 1 :])


Watcher = Callable[[Node, Mapping[str, Sequence[Any]], Result], None]
"""Function that is shown a node with its inputs and its result."""


@dataclass
class Session:
    """Graphs that run one after the other and share what they have in common.

    observer: may be another one for each run
    watch:   is shown every node of a run, also those that others have put in their place, and those that are reused
    results: by key
    inner:   by the id of a node the keys of those that it has put in its place
    """

    types: NodeTypes
    observer: RunObserver
    watch: Watcher | None = None
    results: dict[str, Result] = field(default_factory=dict)
    inner: dict[str, frozenset[str]] = field(default_factory=dict)

    def run(self, order: RunOrder) -> Mapping[str, Result]:
        """Run each node that has no result yet; returns the results by node id.

        Raises NodeFailed naming the node whose own error stopped the run; what was computed before it is kept.
        """
        self.nodes(order)
        return {node_id: self.results[order.keys[node_id]] for node_id in order.ids}

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the results of these keys, so that their nodes run again."""
        for key in keys:
            self.results.pop(key, None)

    def nodes(self, current: RunOrder) -> None:
        """Run each node that has no result yet."""
        for number, node_id in enumerate(current.ids, start=1):
            node, key = current.graph.nodes[node_id], current.keys[node_id]
            self.observer.started(node.label, number, len(current.ids))
            began, reused = time.perf_counter(), key in self.results
            if not reused:
                self.results[key] = self._result(node, current)
            if self.watch is not None:
                self.watch(node, self._inputs(node, current), self.results[key])
            self.observer.ended(node.label, time.perf_counter() - began, reused=reused)

    def forget_but(self, orders: Sequence[RunOrder]) -> None:
        """Drop all results but those that these graphs need."""
        later = {node_id for order in orders for node_id in order.ids}
        for node_id in [*self.inner]:
            if not any(node_id == other or node_id.startswith(f"{other}.") for other in later):
                del self.inner[node_id]
        wanted = {key for order in orders for key in order.keys.values()}.union(*self.inner.values())
        for key in [key for key in self.results if key not in wanted]:
            del self.results[key]

    def _inputs(self, node: Node, current: RunOrder) -> dict[str, Sequence[Any]]:
        known = self.types[node.class_type].inputs
        return {
            name: self.results[current.keys[value.node]].lists[value.slot] if isinstance(value, Link) else (value,)
            for name, value in node.inputs.items()
            if name in known
        }

    def _result(self, node: Node, current: RunOrder) -> Result:
        node_type, inputs = self.types[node.class_type], self._inputs(node, current)
        prepared = _prepared(node, node_type, current.graph)
        returned = [_call(node, prepared, arguments) for arguments in calls_for(node_type, inputs, node.label)]
        if any(output.expand is not None for output in returned):
            returned = self._expanded(node, returned, current)
        return Result(joined_outputs(node_type, returned, node.label), joined_shown(returned))

    def _expanded(self, node: Node, returned: Sequence[io.NodeOutput], current: RunOrder) -> list[io.NodeOutput]:
        """Run the nodes that a node has put in its place; return their outputs as its own."""
        found = expansion(node, returned, current.graph, self.types)
        order = [node_id for node_id in found.order if node_id not in current.keys]
        keys = cache_keys(found.graph, order, self.types, current.keys)
        made = frozenset(keys[node_id] for node_id in order)
        before, self.inner[node.id] = self.inner.get(node.id, frozenset()), made
        for key in before.difference(current.keys.values(), *self.inner.values()):
            self.results.pop(key, None)  # before the new ones take the memory
        self.nodes(RunOrder(found.graph, order, keys))
        outputs = [
            [each for value in call for each in self._linked(value, keys)] if output.expand else call
            for output, call in zip(returned, found.outputs, strict=True)
        ]
        return [io.NodeOutput(*values, ui=output.ui) for output, values in zip(returned, outputs, strict=True)]

    def _linked(self, value: Any, keys: Mapping[str, str]) -> Sequence[Any]:  # noqa: ANN401 - outputs have any type
        return self.results[keys[value.node]].lists[value.slot] if isinstance(value, Link) else (value,)


def _decoded(value: Any) -> Any:  # noqa: ANN401 - outputs have any type
    if isinstance(value, list):  # nodes that take lists
        return [_decoded(item) for item in value]
    return value.all() if isinstance(value, (FileFrames, StreamedFrames)) else value


def _accepted(value: Any, node: type[io.ComfyNode]) -> Any:  # noqa: ANN401 - inputs have any type
    """Return a value as a node takes it: one that says so takes frames that are not decoded or made yet."""
    if isinstance(value, list):  # nodes that take lists
        return [_accepted(item, node) for item in value]
    if isinstance(value, StreamedFrames) and getattr(node, "TAKES_STREAMED_FRAMES", False):
        return value
    return value if isinstance(value, FileFrames) and getattr(node, "TAKES_FILE_FRAMES", False) else _decoded(value)


def _call(node: Node, prepared: type[io.ComfyNode], arguments: dict[str, Any]) -> io.NodeOutput:
    import torch

    try:
        with torch.inference_mode():
            arguments = {name: _accepted(value, prepared) for name, value in arguments.items()}
            returned = finished(prepared.execute(**arguments))
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise NodeFailed(f"{node.label}: {reason}") from error
    return returned if isinstance(returned, io.NodeOutput) else io.NodeOutput(*(returned or ()))


def _prepared(node: Node, node_type: NodeType, graph: Graph) -> type[io.ComfyNode]:
    """Return the node's class, or a subclass that carries the hidden facts it asks for."""
    wanted = node_type.schema.hidden or ()
    if not wanted:
        return node_type.node_class
    facts: dict[str, Any] = {"unique_id": node.id} if io.Hidden.unique_id in wanted else {}
    if io.Hidden.prompt in wanted:
        facts["prompt"] = graph.api_format()
    if io.Hidden.dynprompt in wanted:
        facts["dynprompt"] = _Running(graph)
    return type(node_type.node_class.__name__, (node_type.node_class,), {"hidden": io.HiddenHolder(**facts)})


@dataclass(frozen=True, eq=False)
class _Running:
    """A graph as nodes see it that ask for the one that runs."""

    graph: Graph

    def get_node(self, node_id: str) -> dict[str, Any]:
        node: dict[str, Any] = self.graph.api_format()[node_id]
        return node
