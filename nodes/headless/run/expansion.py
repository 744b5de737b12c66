"""Nodes that put others in their place while they run, by ComfyUI's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...api import io
from ..graph import Graph, Link, Node
from ..problems import NodeFailed
from ..schemas.registry import NodeTypes


@dataclass(frozen=True)
class Expansion:
    """A graph with the nodes that one of its nodes has put in its place.

    outputs: for each call of that node, its outputs: values, or links to nodes of the graph
    """

    graph: Graph
    outputs: Sequence[tuple[Any, ...]]

    @property
    def order(self) -> list[str]:
        """Ids of the nodes that the outputs need, sources first; nodes that have run already are among them."""
        return self.graph.needed_for(value.node for call in self.outputs for value in call if isinstance(value, Link))


def expansion(node: Node, returned: Sequence[io.NodeOutput], graph: Graph, types: NodeTypes) -> Expansion:
    """Return the graph with the nodes that each call of `node` has put in its place.

    Their ids begin with that of the node, as in ComfyUI, and are the same in every run.
    Of these nodes only those run that its outputs need.
    Raises NodeFailed for a node that the runner does not have, and where a node of the workflow has the id of one.
    """
    nodes, outputs = dict(graph.nodes), []
    for number, output in enumerate(returned):
        given: Mapping[str, Any] = output.expand or {}
        ids = {name: f"{node.id}.{number}.{name}" for name in given}
        for name, entry in given.items():
            class_type = entry["class_type"]
            if ids[name] in graph.nodes:
                raise NodeFailed(
                    f"{node.label}: it puts a node '{ids[name]}' in its place, and the workflow has a node of that id; "
                    f"ids are unique. Rename the node of the workflow."
                )
            if class_type not in types:
                raise NodeFailed(f"{node.label}: it needs the node {class_type}, which this runner does not have.")
            inputs = {key: _value(value, ids, graph) for key, value in entry["inputs"].items()}
            title = f"{node.title} > {types[class_type].schema.display_name or class_type}"
            nodes[ids[name]] = Node(ids[name], class_type, title, MappingProxyType(inputs))
        outputs.append(tuple(_value(value, ids, graph) for value in output.args) if given else output.args)
    return Expansion(Graph(MappingProxyType(nodes), graph.boxes, graph.remarks, graph.of_page), outputs)


def _value(value: Any, ids: Mapping[str, str], graph: Graph) -> Any:  # noqa: ANN401 - inputs have any type
    """Return the `Link` of a link, any other value as it is."""
    if not (isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)):
        return value
    name = ids.get(value[0], value[0] if value[0] in graph.nodes else None)
    return value if name is None or not isinstance(value[1], int) else Link(name, value[1])
