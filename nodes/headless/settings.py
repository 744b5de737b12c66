"""Applies `NODE.INPUT=VALUE` settings to a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..api import io
from .graph import Graph, Node
from .problems import InvalidWorkflow, Problem, stop
from .registry import NodeTypes, has_widget, near_miss

SYNTAX = "A setting is NODE.INPUT=VALUE, such as 6.edit_prompt='a blue ball'."
TRUE, FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True)
class Setting:
    """A value for one input; `node` is a node's id, title, class or display name, `value` is text as typed."""

    node: str
    input: str
    value: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}={self.value}"


OWN_PREFIX = "FateZero_"
"""In front of this pack's classes; people leave it out."""


def parse_setting(text: str) -> Setting:
    """Read `NODE.INPUT=VALUE`; the value may hold any character, a node's title may hold dots."""
    target, equals, value = text.partition("=")
    node, dot, name = target.strip().rpartition(".")
    if not (equals and dot and node and name):
        raise stop(f"'{text}' is not a setting. {SYNTAX}")
    return Setting(node, name, value)


def apply_settings(graph: Graph, settings: Sequence[Setting], types: NodeTypes) -> Graph:
    """The graph with every setting made, later ones winning; raises InvalidWorkflow listing all that cannot be."""
    problems: list[Problem] = []
    for setting in settings:
        try:
            node = _find(graph, setting, types)
            graph = graph.with_inputs(node.id, {setting.input: _constant(node, setting, types)})
        except InvalidWorkflow as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidWorkflow(problems)
    return graph


def _find(graph: Graph, setting: Setting, types: NodeTypes) -> Node:
    if setting.node in graph.nodes:
        return graph.nodes[setting.node]
    found = [node for node in graph.nodes.values() if setting.node in _names(node, types)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(node.label for node in (found or graph.nodes.values()))
    if found:
        raise stop(f"setting '{setting}' fits several nodes: {listed}. Name one by its id.")
    known = {name for node in graph.nodes.values() for name in _names(node, types)}
    raise stop(f"setting '{setting}' names no node; there are {listed}.{near_miss(setting.node, known)}")


def _names(node: Node, types: NodeTypes) -> set[str]:
    shown = types[node.class_type].schema.display_name if node.class_type in types else None
    own = node.class_type.removeprefix(OWN_PREFIX)
    return {node.title, node.class_type, own} | ({shown} if shown else set())


def _constant(node: Node, setting: Setting, types: NodeTypes) -> Any:  # noqa: ANN401 - what the input holds
    node_type = types.get(node.class_type)
    if node_type is None:
        return setting.value
    socket = node_type.inputs.get(setting.input)
    if socket is None:
        known = ", ".join(widget.id for widget in node_type.widgets) or "none"
        text = f"there is no such input; settable are: {known}.{near_miss(setting.input, node_type.inputs)}"
        raise InvalidWorkflow([Problem(text, node.label, setting.input)])
    if not has_widget(socket):
        kind = socket.get_io_type()
        text = f"it takes a link of type {kind}, not the value '{setting.value}'. Change it in the workflow."
        raise InvalidWorkflow([Problem(text, node.label, setting.input)])
    return _typed(socket, setting.value)


def _typed(socket: io.Input, text: str) -> Any:  # noqa: ANN401 - what the input holds
    """`text` as the input's type; what does not convert stays text, for the validation to refuse."""
    if socket.get_io_type() == "BOOLEAN":
        word = text.strip().lower()
        return True if word in TRUE else False if word in FALSE else text
    if socket.get_io_type() == "COMBO":
        return next((option for option in socket.options or () if str(option) == text), text)
    return text
