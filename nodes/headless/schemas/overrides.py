"""Applies `NODE.INPUT=VALUE` settings to a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...api import io
from ..graph import Box, Graph, Node
from ..problems import InvalidWorkflow, Problem, short, shown, stop
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


MOST_LISTED = 20
"""Nodes that a message lists."""
OWN_PREFIX = "FateZero_"
"""Prefix of this pack's classes; users may leave it out."""


def parse_setting(text: str) -> Setting:
    """Read `NODE.INPUT=VALUE`; the value may hold any character, a node's title may hold dots."""
    target, equals, value = text.partition("=")
    node, dot, name = target.strip().rpartition(".")
    if not (equals and dot and node and name):
        raise stop(f"'{text}' is not a setting. {SYNTAX}")
    return Setting(node, name, value)


def apply_settings(graph: Graph, settings: Sequence[Setting], types: NodeTypes) -> Graph:
    """Return the graph with every setting made, later ones winning; raises InvalidWorkflow listing those that fail."""
    problems: list[Problem] = []
    for setting in settings:
        try:
            for node_id, name in meant_inputs(graph, setting, types):
                value = _constant(graph.nodes[node_id], replace(setting, input=name), types)
                graph = graph.with_inputs(node_id, {name: value})
        except InvalidWorkflow as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidWorkflow(problems)
    return graph


def meant_inputs(graph: Graph, setting: Setting, types: NodeTypes) -> list[tuple[str, str]]:
    """Return the inputs that a setting means, by node id and name: one of a node, or all that a widget of a box feeds.

    Raises InvalidWorkflow where it names no node, or no widget of a box.
    """
    found = _find(graph, setting, types)
    if isinstance(found, Node):
        return [(found.id, setting.input)]
    if setting.input not in found.widgets:
        known = ", ".join(short(name) for name in found.widgets) or "none"
        text = f"there is no such widget; settable are: {known}.{near_miss(setting.input, found.widgets)}"
        raise InvalidWorkflow([Problem(text, found.label, setting.input)])
    reached: dict[tuple[str, str], None] = {}
    waiting, met = list(found.widgets[setting.input]), set()
    while waiting:
        target = node_id, name = waiting.pop()
        if target in met:
            continue
        met.add(target)
        if node_id in graph.nodes:
            reached[target] = None
        elif node_id in graph.boxes:
            waiting.extend(graph.boxes[node_id].widgets.get(name, ()))
    if not reached:
        text = "the widget leads to no node that runs. Unmute the nodes inside, or leave the setting out."
        raise InvalidWorkflow([Problem(text, found.label, setting.input)])
    return list(reached)


def _find(graph: Graph, setting: Setting, types: NodeTypes) -> Node | Box:
    by_id = graph.nodes.get(setting.node) or graph.boxes.get(setting.node)
    if by_id is not None:
        return by_id
    named: list[tuple[Node | Box, set[str]]] = [(node, _names(node, types)) for node in graph.nodes.values()]
    named += [(box, set(box.names)) for box in graph.boxes.values()]
    found = [thing for thing, names in named if setting.node in names]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(thing.label for thing in (found or [thing for thing, _ in named])[:MOST_LISTED])
    if found:
        raise stop(f"setting '{setting}' fits several nodes: {listed}. Name one by its id.")
    known = {name for _, names in named for name in names}
    raise stop(f"setting '{setting}' names no node; there are {listed}.{near_miss(setting.node, known)}")


def _names(node: Node, types: NodeTypes) -> set[str]:
    displayed = types[node.class_type].schema.display_name if node.class_type in types else None
    own = node.class_type.removeprefix(OWN_PREFIX)
    return {node.title, node.class_type, own} | ({displayed} if displayed else set())


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
        text = f"it takes a link of type {kind}, not the value {shown(setting.value)}. Change it in the workflow."
        raise InvalidWorkflow([Problem(text, node.label, setting.input)])
    return _typed(socket, setting.value)


def _typed(socket: io.Input, text: str) -> Any:  # noqa: ANN401 - what the input holds
    """Convert `text` to the input's type; text that does not convert is returned, for the validation to refuse."""
    if socket.get_io_type() == "BOOLEAN":
        word = text.strip().lower()
        return True if word in TRUE else False if word in FALSE else text
    if socket.get_io_type() == "COMBO":
        return next((option for option in getattr(socket, "options", None) or () if str(option) == text), text)
    return text
