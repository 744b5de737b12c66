"""Checks a graph against the schemas of its nodes before anything runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

from ..api import io
from ..verdicts import mistakes_of, validating
from .awaiting import finished
from .graph import Graph, Link, Node
from .lists import as_lists
from .problems import InvalidWorkflow, Problem
from .registry import NodeType, NodeTypes, has_widget, near_miss


def output_nodes(graph: Graph, types: NodeTypes) -> list[str]:
    """Ids of the nodes that a run is for."""
    return [node.id for node in graph.nodes.values() if types[node.class_type].schema.is_output_node]


def validated(graph: Graph, types: NodeTypes) -> Graph:
    """The graph with every constant in its input's type ("4" becomes 4).

    Looks at all nodes for unknown classes and cycles, and at what the output nodes need for the rest.
    Raises InvalidWorkflow listing every problem.
    """
    _refuse(list(_unknown_nodes(graph, types)))
    _refuse(list(_cycles(graph)))
    targets = output_nodes(graph, types)
    if not targets:
        _refuse([Problem("the workflow has no output node, so there is nothing to run. Add one, such as Save Video.")])
    _refuse(list(_dangling(graph)))
    problems: list[Problem] = []
    seen = graph.api_format()
    with validating({"prompt": seen}):
        for node_id in graph.needed_for(targets):
            node = graph.nodes[node_id]
            converted: dict[str, Any] = {}
            found = list(_check_inputs(graph, node, types, converted))
            graph = graph.with_inputs(node_id, converted)
            seen[node_id]["inputs"].update(converted)
            if not found:
                found = list(_check_own(graph.nodes[node_id], types[node.class_type]))
            problems.extend(found)
    _refuse(problems)
    return graph


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise InvalidWorkflow(problems)


def _unknown_nodes(graph: Graph, types: NodeTypes) -> Iterator[Problem]:
    for node in graph.nodes.values():
        if node.class_type not in types:
            text = (
                f"the runner does not know nodes of class '{node.class_type}'."
                f"{near_miss(node.class_type, types)} Take the node out, or run the workflow in ComfyUI."
            )
            yield Problem(text, node.label)


def _cycles(graph: Graph) -> Iterator[Problem]:
    cycle = graph.cycle()
    if cycle:
        walk = " > ".join(f"#{node_id}" for node_id in reversed(cycle))
        yield Problem(f"the nodes {walk} feed each other in a cycle; a node needs its inputs first. Cut one link.")


def _dangling(graph: Graph) -> Iterator[Problem]:
    for node in graph.nodes.values():
        for name, link in node.links.items():
            if link.node not in graph.nodes:
                yield Problem(f"it is linked to node #{link.node}, which is not there. Link it anew.", node.label, name)


def _check_inputs(graph: Graph, node: Node, types: NodeTypes, converted: dict[str, Any]) -> Iterator[Problem]:
    """Problems of each input in turn; `converted` gets the constants in their input's type."""
    node_type = types[node.class_type]
    checked_by_node = _own_arguments(node_type)
    for name, socket in node_type.inputs.items():
        if name not in node.inputs:
            if not socket.optional:
                yield _missing(node, name, socket)
            continue
        value = node.inputs[name]
        if isinstance(value, Link):
            text = _link_problem(graph, value, socket, types)
        elif not has_widget(socket):
            text = (
                f"it holds the value {value!r}, but needs a link of type {socket.get_io_type()}. Link it to an output."
            )
        else:
            value, text = _convert(value, socket)
            if not text and name not in checked_by_node:
                text = _range_problem(value, socket)
            converted[name] = value
        if text:
            yield Problem(text, node.label, name)


def _missing(node: Node, name: str, socket: io.Input) -> Problem:
    kind = "value" if has_widget(socket) else f"link of type {socket.get_io_type()}"
    reason = node.severed.get(name)
    because = f"{reason}, and " if reason else ""
    return Problem(f"{because}a {kind} is required. Connect or fill it.", node.label, name)


def _link_problem(graph: Graph, link: Link, socket: io.Input, types: NodeTypes) -> str:
    source = graph.nodes[link.node]
    outputs = types[source.class_type].output_types
    if not 0 <= link.slot < len(outputs):
        return f"it is linked to output {link.slot} of {source.label}, which has {len(outputs)}. Link it anew."
    given, wanted = set(outputs[link.slot].split(",")), set(socket.get_io_type().split(","))
    if "*" in given | wanted or given <= wanted or wanted <= given:
        return ""
    return (
        f"it gets {outputs[link.slot]} from {source.label}, but needs {socket.get_io_type()}. "
        f"Link it to an output of that type."
    )


def _whole(value: Any) -> int:  # noqa: ANN401 - unchecked JSON
    """The value as a whole number; raises ValueError or TypeError where it is none."""
    if isinstance(value, bool) or isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _convert(value: Any, socket: io.Input) -> tuple[Any, str]:  # noqa: ANN401 - unchecked JSON
    """The value in the input's type, and what is wrong with it ('' for nothing)."""
    kind = socket.get_io_type()
    try:
        if kind == "INT":
            return _whole(value), ""
        if kind == "FLOAT":
            if isinstance(value, bool) or not math.isfinite(float(value)):
                raise ValueError
            return float(value), ""
    except (TypeError, ValueError, OverflowError):
        wanted = "a whole number" if kind == "INT" else "a number"
        return value, f"{value!r} is not {wanted}, which it needs. Correct the value."
    if kind == "BOOLEAN" and not isinstance(value, bool):
        return value, f"{value!r} is neither true nor false. Give one of them."
    options = getattr(socket, "options", None) or ()
    if kind == "COMBO" and not isinstance(value, str) and all(isinstance(option, str) for option in options):
        return value, f"'{value}' is not in the list, which holds names only. Choose one of them."
    if kind == "STRING" and not isinstance(value, str):
        return (str(value), "") if isinstance(value, (int, float)) else (value, f"{value!r} is not text. Give text.")
    return value, ""


def _range_problem(value: Any, socket: io.Input) -> str:  # noqa: ANN401 - a converted constant
    low, high = getattr(socket, "min", None), getattr(socket, "max", None)
    if low is not None and value < low or high is not None and value > high:
        span = f"{'' if low is None else low} to {'' if high is None else high}".strip()
        return f"{value} is out of range; allowed is {span}. Choose a value inside."
    options = getattr(socket, "options", None)
    if socket.get_io_type() == "COMBO" and options is not None and value not in options:
        listed = ", ".join(str(option) for option in options[:20]) or "nothing yet"
        known = [option for option in options if isinstance(option, str)]
        return f"'{value}' is not in the list; there is {listed}.{near_miss(str(value), known)} Choose one of them."
    return ""


def _own_arguments(node_type: NodeType) -> set[str]:
    """Inputs that the node's own `validate_inputs` names; the built-in range checks leave these to it.

    Looked up as ComfyUI does, which passes only what it finds by position.
    """
    if not node_type.overrides("validate_inputs"):
        return set()
    signature = inspect.getfullargspec(node_type.node_class.validate_inputs)
    return set(node_type.inputs) if signature.varkw else set(signature.args) & set(node_type.inputs)


def _check_own(node: Node, node_type: NodeType) -> Iterator[Problem]:
    """Ask the node's own `validate_inputs`; it sees constants, and None for links."""
    named = _own_arguments(node_type)
    if not named:
        return
    arguments = {name: None if isinstance(node.inputs[name], Link) else node.inputs[name] for name in node.inputs}
    given = {name: value for name, value in arguments.items() if name in named}
    verdict = finished(_with_id(node, node_type).validate_inputs(**as_lists(node_type, given)))
    if verdict is True:
        return
    text = verdict if isinstance(verdict, str) else "the node refuses the value. Choose another."
    told = mistakes_of(text) or {next(iter(named)) if len(named) == 1 else "": text}
    for name, mistake in told.items():
        yield Problem(mistake, node.label, name)


def _with_id(node: Node, node_type: NodeType) -> type[io.ComfyNode]:
    """The node's class, or a subclass that knows its place in the graph where it asks for that."""
    if io.Hidden.unique_id not in (node_type.schema.hidden or ()):
        return node_type.node_class
    return type(node_type.node_class.__name__, (node_type.node_class,), {"hidden": io.HiddenHolder(unique_id=node.id)})
