"""Texts and nodes of a graph in the API's format, as far as they are known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

EDIT_NODE, INVERT_NODE = "FateZero_P2PEdit", "FateZero_DDIMInvert"
HEAT_NODE, PROMPTS_NODE = "FateZero_WordHeatMaps", "FateZero_EditPrompts"
FRAMES_NODE, WHOLE_EDIT_NODE = "FateZero_PrepareFrames", "FateZero_VideoEdit"
TEXT_NODES = {"PrimitiveString": "value", "PrimitiveStringMultiline": "value"}
"""ComfyUI's text nodes, and the widget that holds the text."""

Graph = Mapping[str, Any]
Consumers = Mapping[str, Sequence[str]]
"""Ids of the nodes that read each node, see `consumers_of`."""


def link_of(value: object) -> str | None:
    """Return the id of the node that an input is linked to; None for a constant."""
    return str(value[0]) if isinstance(value, (list, tuple)) and len(value) == 2 else None


def inputs_of(graph: Graph, node_id: str | None, class_type: str) -> Mapping[str, Any] | None:
    """Return the inputs of a node of this class; None if there is no such node."""
    node = graph.get(node_id) if node_id is not None else None
    if not isinstance(node, Mapping) or node.get("class_type") != class_type:
        return None
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, Mapping) else None


def constants(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that are not linked."""
    return {name: value for name, value in inputs.items() if link_of(value) is None}


def texts_of(graph: Graph, value: object) -> tuple[str, ...] | None:
    """Return the texts that a text input will get, one for each run; None if they are known only when it runs."""
    node_id = link_of(value)
    if node_id is None:
        return (value,) if isinstance(value, str) else None
    prompts = inputs_of(graph, node_id, PROMPTS_NODE)
    if prompts is not None:
        text = prompts.get("prompts")
        return lines_of(text) or None if isinstance(text, str) else None
    for class_type, widget in TEXT_NODES.items():
        inputs = inputs_of(graph, node_id, class_type)
        if inputs is not None and isinstance(inputs.get(widget), str):
            return (inputs[widget],)
    return None


@lru_cache(maxsize=8)
def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of a text that are not empty; cached, because every edit of a list asks for the same lines."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def source_prompt_of(graph: Graph, inputs: Mapping[str, Any]) -> str | None:
    """Return the source prompt of the inversion that a node's `controller` is linked to; None if it is not known."""
    inversion = inputs_of(graph, link_of(inputs.get("controller")), INVERT_NODE)
    texts = None if inversion is None else texts_of(graph, inversion.get("source_prompt"))
    return texts[0] if texts is not None and len(texts) == 1 else None


def consumers_of(graph: Graph) -> Consumers:
    """Return the ids of the nodes that are linked to each node, by its id."""
    consumers: dict[str, list[str]] = {}
    for name, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, Mapping) else None
        for value in inputs.values() if isinstance(inputs, Mapping) else ():
            source = link_of(value)
            if source is not None:
                consumers.setdefault(source, []).append(name)
    return consumers


def readers_of(
    graph: Graph, consumers: Consumers, node_id: str, class_type: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield id and inputs of every node of a class that reads an inversion and is itself read by another node."""
    for name in dict.fromkeys(consumers.get(node_id, ())):
        inputs = inputs_of(graph, name, class_type)
        if inputs is not None and link_of(inputs.get("controller")) == node_id and consumers.get(name):
            yield name, inputs


def shown_name(graph: Graph, node_id: str, display_name: str) -> str:
    """Return the name by which users find a node: its title on the page and its number."""
    meta = graph.get(node_id, {}).get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return f"{title or display_name} (node {node_id})"


def with_places(mistakes: Mapping[str, str], graph: Graph, inputs: Mapping[str, Any] | None) -> dict[str, str]:
    """Return mistakes by input, each that is about the text of another node with that node's name.

    inputs: of the node whose mistakes they are; None if not known
    """
    named = dict(mistakes)
    for name, mistake in mistakes.items():
        node_id = link_of((inputs or {}).get(name))
        if any(inputs_of(graph, node_id, text_node) is not None for text_node in TEXT_NODES):
            named[name] = f"{mistake} The text stands in {shown_name(graph, str(node_id), 'a text node')}."
    return named
