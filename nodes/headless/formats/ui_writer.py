"""A graph as a file for ComfyUI's page: UI format 0.4, nodes in columns from left to right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...api import io
from ..graph import Graph, Link, Node
from ..schemas.registry import NodeType, NodeTypes, has_widget

VERSION = 0.4
LEFT, TOP = 40, 80
ACROSS, BETWEEN = 60, 60
"""Free pixels between columns, and between nodes of a column; a node's title stands above its position."""
TITLE = 30
SOCKET_ROW, WIDGET_ROW, TEXT_BOX, PREVIEW = 20, 28, 110, 260
"""Heights in pixels of a socket, of a widget with its margin, of a multiline text, and of what a saving node shows."""
NARROW, WIDE = 270, 400
"""Widths of nodes without and with a multiline text."""
NOTE_WIDTH, NOTE_LINE, NOTE_LETTERS = 520, 22, 62
"""Width of the note in pixels, height of a line in pixels, and letters that fit into a line."""


@dataclass(frozen=True)
class Placement:
    """Position and size of a node, in pixels."""

    left: int
    top: int
    width: int
    height: int


def ui_document(graph: Graph, types: NodeTypes, note: str = "") -> dict[str, Any]:
    """Return the graph as ComfyUI's page saves it; ids of nodes must be whole numbers.

    note: Markdown shown above the graph; '' for none
    """
    boxes = placed(graph, types)
    links = _links(graph, types)
    nodes = [
        _node(node, types[node.class_type], boxes[node.id], links, order)
        for order, node in enumerate(graph.nodes[name] for name in graph.needed_for(graph.nodes))
    ]
    if note:
        nodes.append(_note(max(node["id"] for node in nodes) + 1, note, len(nodes)))
    return {
        "last_node_id": max(node["id"] for node in nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": VERSION,
    }


def placed(graph: Graph, types: NodeTypes) -> dict[str, Placement]:
    """Return a place for every node: one column right of its last source, and no higher than that source."""
    columns: dict[str, int] = {}
    for node_id in graph.needed_for(graph.nodes):
        sources = [link.node for link in graph.nodes[node_id].links.values()]
        columns[node_id] = 1 + max((columns[source] for source in sources), default=-1)
    sizes = {node.id: _size(types[node.class_type]) for node in graph.nodes.values()}
    boxes: dict[str, Placement] = {}
    left = LEFT
    for column in range(max(columns.values(), default=-1) + 1):
        members = [node for node in graph.nodes.values() if columns[node.id] == column]
        free = TOP
        for node in members:
            nearest = max((link.node for link in node.links.values()), key=columns.__getitem__, default=None)
            top = free if nearest is None else max(free, boxes[nearest].top)
            boxes[node.id] = Placement(left, top, *sizes[node.id])
            free = top + sizes[node.id][1] + TITLE + BETWEEN
        left += max(sizes[node.id][0] for node in members) + ACROSS
    return boxes


def _size(node_type: NodeType) -> tuple[int, int]:
    texts = sum(bool(getattr(widget, "multiline", False)) for widget in node_type.widgets)
    sockets = max(len(node_type.inputs) - len(node_type.widgets), len(node_type.output_types))
    rows = (len(node_type.widgets) - texts) * WIDGET_ROW + texts * TEXT_BOX + sockets * SOCKET_ROW
    return WIDE if texts else NARROW, 20 + rows + (PREVIEW if node_type.schema.is_output_node else 0)


def _links(graph: Graph, types: NodeTypes) -> list[list[Any]]:
    """[link id, source id, source slot, target id, target slot, type] for every link."""
    found: list[list[Any]] = []
    for node in graph.nodes.values():
        sockets = _sockets(node, types[node.class_type])
        for slot, socket in enumerate(sockets):
            source = node.inputs.get(socket.id)
            if isinstance(source, Link):
                kind = types[graph.nodes[source.node].class_type].output_types[source.slot]
                found.append([len(found) + 1, int(source.node), source.slot, int(node.id), slot, kind])
    return found


def _sockets(node: Node, node_type: NodeType) -> list[io.Input]:
    """The inputs that are shown as sockets: those without a widget, and those that are linked."""
    return [
        socket
        for socket in node_type.inputs.values()
        if not has_widget(socket) or isinstance(node.inputs.get(socket.id), Link)
    ]


def _node(
    node: Node, node_type: NodeType, box: Placement, links: Sequence[Sequence[Any]], order: int
) -> dict[str, Any]:
    constants = {name: value for name, value in node.inputs.items() if not isinstance(value, Link)}
    return {
        "id": int(node.id),
        "type": node.class_type,
        "pos": [box.left, box.top],
        "size": [box.width, box.height],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [_input(node, socket, slot, links) for slot, socket in enumerate(_sockets(node, node_type))],
        "outputs": [_output(node, socket, slot, links) for slot, socket in enumerate(node_type.schema.outputs or ())],
        "title": node.title,
        "properties": {"Node name for S&R": node.class_type},
        "widgets_values": [constants.get(widget.id, widget.default) for widget in node_type.widgets],
    }


def _input(node: Node, socket: io.Input, slot: int, links: Sequence[Sequence[Any]]) -> dict[str, Any]:
    link = next((entry[0] for entry in links if entry[3] == int(node.id) and entry[4] == slot), None)
    described: dict[str, Any] = {"name": socket.id, "type": socket.get_io_type(), "link": link}
    if has_widget(socket):
        described["widget"] = {"name": socket.id}
    elif socket.optional:
        described["shape"] = 7
    return described


def _output(node: Node, socket: io.Output, slot: int, links: Sequence[Sequence[Any]]) -> dict[str, Any]:
    leaving = [entry[0] for entry in links if entry[1] == int(node.id) and entry[2] == slot]
    shown = socket.display_name or socket.get_io_type()
    described: Mapping[str, Any] = {
        "name": shown,
        "type": socket.get_io_type(),
        "links": leaving or None,
        "slot_index": slot,
    }
    return {**described, "shape": 6} if socket.is_output_list else dict(described)


def _note(node_id: int, text: str, order: int) -> dict[str, Any]:
    lines = sum(1 + len(line) // NOTE_LETTERS for line in text.split("\n"))
    height = 40 + lines * NOTE_LINE
    return {
        "id": node_id,
        "type": "MarkdownNote",
        "pos": [LEFT - NOTE_WIDTH - ACROSS, TOP],
        "size": [NOTE_WIDTH, height],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "About this workflow",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }
