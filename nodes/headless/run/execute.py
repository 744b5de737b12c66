"""Runs validated graphs, each node once per distinct result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ....fatezero_ext.media.clip import FileFrames
from ...api import io
from ..graph import Graph, Link, Node
from ..problems import NodeFailed
from ..schemas.registry import NodeType, NodeTypes, finished
from ..schemas.validate import output_nodes
from .cache_keys import cache_keys
from .lists import Lists, calls_for, joined_outputs, joined_shown


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

        A video file's frames are decoded; raises VideoError where the file is damaged.
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

    A result is shared by all nodes with the same key and dropped once no later graph needs it.
    Raises NodeFailed naming the node whose own error stopped the run.
    """
    orders = [run_order(graph, types) for graph in graphs]
    results: dict[str, Result] = {}
    for number, current in enumerate(orders):
        _run(current, types, observer, results)
        yield {node_id: results[current.keys[node_id]] for node_id in current.ids}
        wanted = {key for later in orders[number + 1 :] for key in later.keys.values()}
        results = {key: result for key, result in results.items() if key in wanted}


def _run(current: RunOrder, types: NodeTypes, observer: RunObserver, results: dict[str, Result]) -> None:
    for number, node_id in enumerate(current.ids, start=1):
        node, key = current.graph.nodes[node_id], current.keys[node_id]
        observer.started(node.label, number, len(current.ids))
        began, reused = time.perf_counter(), key in results
        if not reused:
            inputs = {
                name: results[current.keys[value.node]].lists[value.slot] if isinstance(value, Link) else (value,)
                for name, value in node.inputs.items()
                if name in types[node.class_type].inputs
            }
            results[key] = _result(node, types[node.class_type], inputs, current.graph)
        observer.ended(node.label, time.perf_counter() - began, reused=reused)


def _result(node: Node, node_type: NodeType, inputs: Lists, graph: Graph) -> Result:
    prepared = _prepared(node, node_type, graph)
    returned = [_call(node, prepared, arguments) for arguments in calls_for(node_type, inputs, node.label)]
    return Result(joined_outputs(node_type, returned, node.label), joined_shown(returned))


def _decoded(value: Any) -> Any:  # noqa: ANN401 - outputs have any type
    if isinstance(value, list):  # nodes that take lists
        return [_decoded(item) for item in value]
    return value.all() if isinstance(value, FileFrames) else value


def _call(node: Node, prepared: type[io.ComfyNode], arguments: dict[str, Any]) -> io.NodeOutput:
    import torch

    try:
        with torch.inference_mode():
            if not getattr(prepared, "TAKES_FILE_FRAMES", False):
                arguments = {name: _decoded(value) for name, value in arguments.items()}
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
    return type(node_type.node_class.__name__, (node_type.node_class,), {"hidden": io.HiddenHolder(**facts)})
