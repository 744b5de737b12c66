"""Writes graphs as files of ComfyUI's page, each node at a place of its own: for `docs/make_templates.py`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMESPACE = uuid.UUID("6b0c1b5e-7c53-4f0e-8f5f-0a4d2f1f4c11")
"""From which the ids of files and subgraphs are derived, so that the same script writes the same files."""
COLOURS = {"note": ("#432", "#653"), "words": ("#232", "#353")}
"""Colours of a node's title and of its body, those of the page's own palette."""
ENTRY, EXIT = -10, -20
"""Ids that stand for the border of a subgraph in its links."""


@dataclass(frozen=True)
class NodeKind:
    """What the page must know of a node's class.

    sockets: inputs that take links, in order, with their types; an optional one ends in "?"
    widgets: the others with their types, in order
    outputs: names and types
    """

    sockets: Mapping[str, str]
    widgets: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Output:
    """An output of a node that was added to a sheet."""

    node: int
    slot: int
    kind: str


@dataclass
class Sheet:
    """Nodes, links and groups of one level of a file: the graph itself, or a subgraph.

    numbers: ids of nodes by their kind; others are counted
    """

    kinds: Mapping[str, NodeKind]
    numbers: Mapping[str, int] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[tuple[int, int, int, int, int, str]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        kind: str,
        box: tuple[int, int, int, int],
        values: Sequence[Any] = (),
        /,
        *,
        title: str = "",
        models: Sequence[Mapping[str, str]] = (),
        colour: str = "",
        folded: bool = False,
        **sources: Output,
    ) -> tuple[Output, ...]:
        """Add a node and return its outputs.

        box:     left, top, width, height in pixels
        values:  of all its widgets, in the page's order
        models:  files that it names, with their addresses
        folded:  whether only its title is shown
        sources: what its sockets and widgets are linked to
        """
        known, number = self.kinds[kind], self._next(kind)
        node = _node(number, kind, box, values) | _looks(title, colour)
        node["order"] = len(self.nodes)
        if folded:
            node["flags"]["collapsed"] = True
        named = {**known.sockets, **{name: known.widgets[name] for name in sources if name in known.widgets}}
        if unknown := sources.keys() - named.keys():
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}")
        for slot, (name, socket) in enumerate(named.items()):
            link = None if name not in sources else self._link(sources[name], number, slot)
            described: dict[str, Any] = {"name": name, "type": socket.rstrip("?"), "link": link}
            if socket.endswith("?"):
                described["shape"] = 7
            if name in known.widgets:
                described["widget"] = {"name": name}
            node["inputs"].append(described)
        for slot, (name, output) in enumerate(known.outputs.items()):
            node["outputs"].append({"name": name, "type": output, "links": None, "slot_index": slot})
        node["properties"] = {"Node name for S&R": kind}
        if models:
            node["properties"]["models"] = [dict(each) for each in models]
        self.nodes.append(node)
        return tuple(Output(number, slot, output) for slot, output in enumerate(known.outputs.values()))

    def note(self, box: tuple[int, int, int, int], text: str) -> None:
        """Add a note in Markdown."""
        kind, looks = "MarkdownNote", _looks("About this workflow", "note")
        node = _node(self._next(kind), kind, box, [text]) | {"order": len(self.nodes), "properties": {}} | looks
        self.nodes.append(node)

    def group(self, title: str, box: tuple[int, int, int, int], colour: str = "#3f789e") -> None:
        """Draw a frame with a title around a part of the sheet."""
        number = len(self.groups) + 1
        shown = {"id": number, "title": title, "bounding": list(box), "color": colour, "font_size": 24, "flags": {}}
        self.groups.append(shown)

    def _next(self, kind: str) -> int:
        return self.numbers.get(kind, len(self.nodes) + 1)

    def _link(self, source: Output, target: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append((number, source.node, source.slot, target, slot, source.kind))
        origin = next((node for node in self.nodes if node["id"] == source.node), None)
        if origin is not None:  # the border of a subgraph is no node
            output = origin["outputs"][source.slot]
            output["links"] = [*(output["links"] or []), number]
        return number

    def leave(self, source: Output, slot: int) -> None:
        """Link an output to the border of the subgraph that this sheet is."""
        self._link(source, EXIT, slot)


def _node(number: int, kind: str, box: tuple[int, int, int, int], values: Sequence[Any]) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "pos": list(box[:2]),
        "size": list(box[2:]),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "widgets_values": list(values),
    }


def _looks(title: str, colour: str) -> dict[str, Any]:
    looks = {"title": title} if title else {}
    return looks | (dict(zip(("color", "bgcolor"), COLOURS[colour], strict=True)) if colour else {})


def subgraph(sheet: Sheet, name: str, entries: Mapping[str, str], exits: Mapping[str, str]) -> dict[str, Any]:
    """Return a sheet as the definition of a subgraph.

    entries, exits: names and types of its own inputs and outputs, in order; links of the sheet begin and end there
    """
    left, right = (edge(node["pos"][0] for node in sheet.nodes) for edge in (min, max))
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"subgraph {name}")),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(sheet.nodes), "lastLinkId": len(sheet.links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": ENTRY, "bounding": [left - 240, 0, 140, 20 * len(entries) + 40]},
        "outputNode": {"id": EXIT, "bounding": [right + 500, 0, 140, 20 * len(exits) + 40]},
        "inputs": [
            _border(name, entry, kind, [link[0] for link in sheet.links if link[1:3] == (ENTRY, slot)])
            for slot, (entry, kind) in enumerate(entries.items())
        ],
        "outputs": [
            _border(name, entry, kind, [link[0] for link in sheet.links if link[3:5] == (EXIT, slot)])
            for slot, (entry, kind) in enumerate(exits.items())
        ],
        "widgets": [],
        "nodes": sheet.nodes,
        "groups": sheet.groups,
        "links": [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
            for link in sheet.links
        ],
        "extra": {},
    }


def _border(of: str, name: str, kind: str, links: list[int]) -> dict[str, Any]:
    return {"id": str(uuid.uuid5(NAMESPACE, f"{of} {name}")), "name": name, "type": kind, "linkIds": links}


def write(path: Path, sheet: Sheet, **more: object) -> None:
    """Write a sheet as a workflow file; more: further entries of the file."""
    document = {
        "id": str(uuid.uuid5(NAMESPACE, path.stem)),
        "revision": 0,
        "last_node_id": max(node["id"] for node in sheet.nodes),
        "last_link_id": len(sheet.links),
        "nodes": sheet.nodes,
        "links": [list(link) for link in sheet.links],
        "groups": sheet.groups,
        "config": {},
        "extra": {},
        "version": 0.4,
        **more,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
