"""Checks a graph against the schemas of its nodes before anything runs."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ...api import io
from ...checking.verdicts import mistakes_of, validating
from ..graph import Graph, Link, Node
from ..problems import Problem, refuse, short, shown
from .misspelt import check_names, left_out, left_out_remark, unknown
from .page_texts import with_filled_prefixes
from .registry import NearNames, NodeType, NodeTypes, as_lists, finished, has_widget, near_miss

PRIMITIVE = "Primitive"
"""Prefix of the ids of the core nodes that hand on their only input, `value`."""
DECIMAL_COMMA = re.compile(r"([+-]?[0-9]{1,9}),([0-9]{1,9})")
"""A number as many countries write it."""
LONGEST_WALK = 20
"""Nodes of a cycle that a message names."""
LONGEST_TEXT = 100_000
"""Letters of a text; a prompt that is read to its end has some 400."""


def output_nodes(graph: Graph, types: NodeTypes) -> list[str]:
    """Return the ids of the output nodes, which a run is for."""
    known = [node for node in graph.nodes.values() if node.class_type in types]
    return [node.id for node in known if types[node.class_type].schema.is_output_node]


def validated(graph: Graph, types: NodeTypes) -> Graph:
    """Return the graph with every constant in its input's type ("4" becomes 4), without nodes neither known nor needed.

    Looks at what the output nodes need; its `remarks` name the rest that was left out.
    Raises InvalidWorkflow listing every problem.
    """
    if graph.of_page:  # now, when the settings are made whose values the names may hold
        filled = {node.id: node for node in with_filled_prefixes(graph.nodes.values(), datetime.now())}
        graph = replace(graph, nodes=MappingProxyType(filled), of_page=False)
    targets = output_nodes(graph, types)
    needed = graph.needed_for(targets)
    refuse(unknown(graph, needed if targets else list(graph.nodes), types))
    spare = left_out(graph, needed, types)
    if not targets:
        refuse([Problem("the workflow has no output node, so there is nothing to run. Add one, such as SaveVideo.")])
    refuse(_cycles(graph, needed))
    refuse(_dangling(graph, needed))
    nodes = {node_id: node for node_id, node in graph.nodes.items() if node_id not in spare}
    remarks = [left_out_remark(spare)] if spare else []
    checked = replace(graph, nodes=MappingProxyType(nodes))
    near = NearNames()
    with validating({"prompt": (seen := checked.api_format())}):
        refuse(
            found
            for node_id in needed
            for found in _check_node(nodes, nodes[node_id], types, remarks=remarks, seen=seen, near=near)
        )
    return replace(checked, remarks=(*graph.remarks, *remarks))


def _check_node(
    nodes: dict[str, Node],
    node: Node,
    types: NodeTypes,
    *,
    remarks: list[str],
    seen: Mapping[str, Any],
    near: NearNames,
) -> Iterator[Problem]:
    """Yield the problems of one node; puts it back into `nodes` and `seen` with its constants in their inputs' type.

    seen: the graph in the API's format, as the nodes' own checks see it
    """
    node_type = types[node.class_type]
    converted: dict[str, Any] = {}
    found = [*check_names(node, node_type, remarks, near), *_check_inputs(nodes, node, types, converted)]
    nodes[node.id] = node.with_inputs(converted)
    seen[node.id]["inputs"].update(converted)
    yield from found or _check_own(nodes, nodes[node.id], node_type)


def _cycles(graph: Graph, needed: list[str]) -> Iterator[Problem]:
    cycle = [f"#{short(node_id)}" for node_id in graph.cycle(needed)]
    if cycle:
        walk = " > ".join(cycle if len(cycle) <= LONGEST_WALK else [*cycle[: LONGEST_WALK - 1], "...", cycle[-1]])
        yield Problem(f"the nodes {walk} feed each other in a cycle; a node needs its inputs first. Cut one link.")


def _dangling(graph: Graph, needed: list[str]) -> Iterator[Problem]:
    for node in map(graph.nodes.__getitem__, needed):
        for name, link in node.links.items():
            if link.node not in graph.nodes:
                text = f"it is linked to node #{short(link.node)}, which is not there. Link it anew."
                yield Problem(text, node.label, name)


def _check_inputs(
    nodes: Mapping[str, Node], node: Node, types: NodeTypes, converted: dict[str, Any]
) -> Iterator[Problem]:
    """Yield the problems of each input in turn; `converted` gets the constants in their input's type."""
    node_type = types[node.class_type]
    checked_by_node = _own_arguments(node_type)
    for name, socket in node_type.inputs.items():
        if name not in node.inputs:
            if not socket.optional:
                yield _missing(node, name, socket)
            continue
        value = node.inputs[name]
        if isinstance(value, Link):
            text = _link_problem(nodes, value, socket, types)
        elif value is None and socket.optional and not isinstance(socket, io.WidgetInput):
            text = ""  # as in ComfyUI, which hands it to the node
        elif not has_widget(socket):
            kind = socket.get_io_type()
            text = f"it holds the value {shown(value)}, but needs a link of type {kind}. Link it to an output."
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


def _link_problem(nodes: Mapping[str, Node], link: Link, socket: io.Input, types: NodeTypes) -> str:
    source = nodes[link.node]
    outputs = types[source.class_type].output_types
    if not 0 <= link.slot < len(outputs):
        return f"it is linked to output {link.slot} of {source.label}, which has {len(outputs)}. Link it anew."
    offered, wanted = set(outputs[link.slot].split(",")), set(socket.get_io_type().split(","))
    if "*" in offered | wanted or offered <= wanted or wanted <= offered:
        return ""
    return (
        f"it gets {outputs[link.slot]} from {source.label}, but needs {socket.get_io_type()}. "
        f"Link it to an output of that type."
    )


def _whole(value: Any) -> int:  # noqa: ANN401 - unchecked JSON
    """Return the value as a whole number; raises ValueError or TypeError where it is none."""
    if isinstance(value, bool) or isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _convert(value: Any, socket: io.Input) -> tuple[Any, str]:  # noqa: ANN401 - unchecked JSON
    """Return the value in the input's type, and what is wrong with it ('' for nothing)."""
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
        comma = kind == "FLOAT" and isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip())
        advice = f"Write {comma[1]}.{comma[2]}." if comma else "Correct the value."
        return value, f"{shown(value)} is not {wanted}, which it needs. {advice}"
    if kind == "BOOLEAN" and isinstance(value, int) and value in (0, 1):
        return bool(value), ""
    if kind == "BOOLEAN" and not isinstance(value, bool):
        return value, f"{shown(value)} is neither true nor false. Give one of them."
    options = getattr(socket, "options", None) or ()
    if kind == "COMBO" and not isinstance(value, str) and all(isinstance(option, str) for option in options):
        return value, f"'{short(str(value))}' is not in the list, which holds names only. Choose one of them."
    if kind == "STRING" and not isinstance(value, str):
        wrong = "" if isinstance(value, (int, float)) else f"{shown(value)} is not text. Give text."
        return value if wrong else str(value), wrong
    return value, _text_problem(value) if isinstance(value, str) else ""


def _text_problem(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        return f"the text has {len(text)} letters; at most {LONGEST_TEXT} are read. Shorten it."
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{shown(text)} holds half a character, which is no text. Write it anew."
    return ""


def _range_problem(value: Any, socket: io.Input) -> str:  # noqa: ANN401 - a converted constant
    low, high = getattr(socket, "min", None), getattr(socket, "max", None)
    if low is not None and value < low or high is not None and value > high:
        span = f"{'' if low is None else low} to {'' if high is None else high}".strip()
        return f"{value} is out of range; allowed is {span}. Choose a value inside."
    options = getattr(socket, "options", None)
    if socket.get_io_type() == "COMBO" and options is not None and value not in options:
        listed = ", ".join(short(str(option)) for option in options[:20]) or "nothing yet"
        known = [option for option in options if isinstance(option, str)]
        wrong = f"'{short(value)}'" if isinstance(value, str) else shown(value)
        return f"{wrong} is not in the list; there is {listed}.{near_miss(str(value), known)} Choose one of them."
    return ""


def _own_arguments(node_type: NodeType) -> set[str]:
    """Return the inputs that the node's own `validate_inputs` names; the built-in range checks leave these to it.

    Looked up as ComfyUI does, which passes only what it finds by position.
    """
    if not node_type.overrides("validate_inputs"):
        return set()
    signature = inspect.getfullargspec(node_type.node_class.validate_inputs)
    return set(node_type.inputs) if signature.varkw else set(signature.args) & set(node_type.inputs)


def _check_own(nodes: Mapping[str, Node], node: Node, node_type: NodeType) -> Iterator[Problem]:
    """Ask the node's own `validate_inputs`; it sees constants, and None for links to what is not known yet."""
    named = _own_arguments(node_type)
    if not named:
        return
    arguments = {name: _known_value(nodes, value) for name, value in node.inputs.items() if name in named}
    place = next(iter(named)) if len(named) == 1 else ""
    try:
        verdict = finished(_with_id(node, node_type).validate_inputs(**as_lists(node_type, arguments)))
    except Exception as error:  # any node's code may fail here; as in ComfyUI that is the node's refusal
        yield Problem(f"its own check failed ({type(error).__name__}: {error}). Correct its values.", node.label, place)
        return
    if verdict is True:
        return
    text = verdict if isinstance(verdict, str) else "the node refuses the value. Choose another."
    for name, mistake in (mistakes_of(text) or {place: text}).items():
        yield Problem(f"{mistake.removeprefix(f'{name}: ')}{_address(node, name)}", node.label, name)


def _address(node: Node, name: str) -> str:
    """Return a sentence with the address of the file that an input names, where the workflow has one, else ''."""
    value = node.inputs.get(name)
    address = node.addresses.get(value) if isinstance(value, str) else None
    return f" The workflow names this address for it: {address}" if address else ""


def _with_id(node: Node, node_type: NodeType) -> type[io.ComfyNode]:
    """Return the node's class, or a subclass that knows its place in the graph where it asks for that."""
    if io.Hidden.unique_id not in (node_type.schema.hidden or ()):
        return node_type.node_class
    return type(node_type.node_class.__name__, (node_type.node_class,), {"hidden": io.HiddenHolder(unique_id=node.id)})


def _known_value(nodes: Mapping[str, Node], value: Any) -> Any:  # noqa: ANN401 - what the input holds
    """Return the constant, or that of the primitive that the input is linked to; None for any other link."""
    if not isinstance(value, Link):
        return value
    source = nodes[value.node]
    constant = source.inputs.get("value") if source.class_type.startswith(PRIMITIVE) else None
    return None if isinstance(constant, Link) else constant
