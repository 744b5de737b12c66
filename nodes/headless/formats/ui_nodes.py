"""The nodes and links of one level of a UI-format file, checked once, so that all later code can trust their types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ..graph import MOST_NODES, too_many_nodes
from ..problems import InvalidWorkflow, Problem, refuse, shown
from ..schemas.registry import LONGEST_NAME, NearNames

MUTED, BYPASSED = 2, 4
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
"""Ids that stand for the border of a subgraph in its links."""
BOX_ITSELF = "-1"
"""Stands for the box in `proxyWidgets`: the widget is that of one of its own inputs."""
EXPORT_AGAIN = "Export the workflow from ComfyUI again."
MOST_KEYS = 100
"""Keys of a node that are compared with these; the page writes some 20."""
LONGEST_ID = 64
"""Letters of an id; ids of nodes in subgraphs are put together of those of all boxes around."""
MOST_MODELS = 100
"""Files that a node lists; the page's own templates list a few."""
WEB, LONGEST_ADDRESS = ("https://", "http://"), 2000
"""Beginnings and most letters of an address."""
NODE_KEYS = ("inputs", "outputs", "widgets_values", "widgets_values_named")
"""Keys of a node that may be absent, so that a misspelt one would go unseen."""


@dataclass(frozen=True)
class Socket:
    """An input of a node.

    kind: its type, '*' where the file has none
    link: id of the link into it; None where nothing is linked
    """

    name: str
    kind: str
    link: str | None
    is_widget: bool


@dataclass(frozen=True)
class Promotion:
    """A widget from inside a subgraph that its box shows.

    path:   ids of the nodes on the way to it, through boxes inside boxes; ("-1",) for an input of the box itself
    widget: its name there
    """

    path: tuple[str, ...]
    widget: str


@dataclass(frozen=True)
class UiNode:
    """A node as the page drew it.

    values:     of its widgets, by position or by name; None where the file has none
    promotions: for the box of a subgraph, the widgets it shows, in the order of `values`; None where the file has no
                list of them
    addresses:  where the model files that it names can be downloaded, by their names
    """

    id: str
    type: str
    title: str
    mode: int
    inputs: tuple[Socket, ...]
    outputs: tuple[str, ...]
    values: Sequence[Any] | Mapping[str, Any] | None
    promotions: tuple[Promotion, ...] | None
    addresses: Mapping[str, str]

    @property
    def runs(self) -> bool:
        """Return whether it is neither muted nor bypassed."""
        return self.mode not in (MUTED, BYPASSED)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Positions of the inputs by name; the first one where several share it."""
        return {socket.name: slot for slot, socket in reversed(list(enumerate(self.inputs)))}

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Positions of the inputs by type; the first one where several share it."""
        return {socket.kind: slot for slot, socket in reversed(list(enumerate(self.inputs)))}


@dataclass(frozen=True)
class UiLink:
    """A link from output `slot` of a node to an input of another."""

    origin: str
    slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class Level:
    """The file's own level, or the definition of a subgraph.

    inputs: names and labels of the subgraph's own inputs, in order
    """

    name: str
    nodes: Mapping[str, UiNode]
    links: Mapping[str, UiLink]
    inputs: tuple[tuple[str, str], ...]

    @cached_property
    def positions(self) -> dict[str, int]:
        """Positions of the subgraph's own inputs by name."""
        return {name: slot for slot, (name, _) in reversed(list(enumerate(self.inputs)))}

    @cached_property
    def outlets(self) -> dict[int, str]:
        """Ids of the links that lead out, by output of the subgraph."""
        return {link.target_slot: key for key, link in self.links.items() if link.target == SUBGRAPH_OUTPUT}

    @cached_property
    def inlets(self) -> dict[int, list[tuple[UiNode, Socket]]]:
        """Inputs inside that each input of the subgraph is linked to."""
        found: dict[int, list[tuple[UiNode, Socket]]] = {}
        for node in self.nodes.values():
            for socket in node.inputs:
                slot = self.fed_by(socket)
                if slot is not None:
                    found.setdefault(slot, []).append((node, socket))
        return found

    def fed_by(self, socket: Socket) -> int | None:
        """Return the input of the subgraph that is linked to this input of a node inside."""
        link = None if socket.link is None else self.links.get(socket.link)
        return link.slot if link is not None and link.origin == SUBGRAPH_INPUT else None

    @cached_property
    def setters(self) -> dict[str, list[UiNode]]:
        """KJNodes' Set nodes by the name they give to their input."""
        found: dict[str, list[UiNode]] = {}
        for node in self.nodes.values():
            if node.type == "SetNode":
                found.setdefault(first_text(node), []).append(node)
        return found


def first_text(node: UiNode) -> str:
    """Return the first widget's value where it is text, else ''."""
    value = node.values[0] if isinstance(node.values, Sequence) and node.values else ""
    return value if isinstance(value, str) else ""


def read_level(raw: Mapping[str, Any], near: NearNames, place: str = "") -> Level:
    """Read one level of a file; raises InvalidWorkflow naming what is malformed.

    near:  compares names of the file with known ones
    place: where the level is, such as " in subgraph 'Edit'", for the messages
    """
    entries, links = raw.get("nodes"), raw.get("links")
    if not isinstance(entries, list) or not isinstance(links, (list, type(None))):
        raise _malformed(f"nodes and links{place} are not two lists")
    if len(entries) > MOST_NODES:
        raise too_many_nodes()
    nodes: dict[str, UiNode] = {}
    problems: list[Problem] = []
    for entry in entries:
        try:
            node = _node(entry, near)
        except InvalidWorkflow as error:
            problems.extend(error.problems)
            continue
        if node.id in nodes:
            problems.append(
                Problem(f"two nodes{place} have this id; each needs its own. Give one a new id.", f"#{node.id}")
            )
        nodes[node.id] = node
    refuse(problems)
    name, sockets = raw.get("name"), raw.get("inputs")
    return Level(
        name if isinstance(name, str) else "",
        nodes,
        _links(links or [], place),
        tuple(_named(entry) for entry in sockets) if isinstance(sockets, list) else (),
    )


def _malformed(what: str, node: str = "") -> InvalidWorkflow:
    return InvalidWorkflow([Problem(f"the file is malformed: {what}. {EXPORT_AGAIN}", node)])


def _id(value: Any) -> str | None:  # noqa: ANN401 - unchecked JSON
    """An id as text; None where it is none. The page takes 7 and "7" for the same."""
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    return None if text is None or len(text) > LONGEST_ID else text


def _node(raw: Any, near: NearNames) -> UiNode:  # noqa: ANN401 - unchecked JSON
    if not isinstance(raw, dict):
        raise _malformed(f"a node is {shown(raw)}, not an object")
    node_id, kind = _id(raw.get("id")), raw.get("type")
    if node_id is None:
        raise _malformed(f"the id of a node of type {shown(kind)} is {shown(raw.get('id'))}, neither number nor text")
    label = f"#{node_id}"
    if not isinstance(kind, str):
        raise _malformed(f"the node's type is {shown(kind)}, not text", label)
    misspelt = _misspelt(tuple(raw), near)
    if misspelt:
        raise _malformed(f"the node has {shown(misspelt[0])} where '{misspelt[1]}' belongs", label)
    values, title, mode = raw.get("widgets_values"), raw.get("title"), raw.get("mode")
    if not isinstance(values, (list, dict, type(None))):
        raise _malformed(f"its widgets_values are {shown(values)}, neither a list nor an object", label)
    return UiNode(
        node_id,
        kind,
        title if isinstance(title, str) else "",
        mode if isinstance(mode, int) else 0,
        tuple(_socket(entry, label) for entry in _list(raw, "inputs", label)),
        tuple(_kind(entry) for entry in _list(raw, "outputs", label)),
        values,
        _promotions(raw.get("properties"), label),
        _addresses(raw.get("properties")),
    )


def _misspelt(keys: tuple[str, ...], near: NearNames) -> tuple[str, str] | None:
    """A key that is nearly one of NODE_KEYS, and that one, where the node does not have it."""
    for key in NODE_KEYS:
        strange = [other for other in keys[:MOST_KEYS] if other not in NODE_KEYS]
        meant = [] if key in keys else near.close(key, strange, 0.8)
        if meant:
            return meant[0], key
    return None


def _list(raw: Mapping[str, Any], key: str, label: str) -> list[Any]:
    found = raw.get(key) or []
    if not isinstance(found, list):
        raise _malformed(f"its {key} are {shown(found)}, not a list", label)
    return found


def _socket(raw: Any, label: str) -> Socket:  # noqa: ANN401 - unchecked JSON
    name = raw.get("name", "") if isinstance(raw, dict) else None
    if not isinstance(name, str):
        raise _malformed(f"an input is {shown(raw)}, not an object with a name", label)
    link = raw.get("link")
    if link is not None and _id(link) is None:
        raise _malformed(f"the link of input {shown(name)} is {shown(link)}, neither number nor text", label)
    return Socket(name, _kind(raw), _id(link), isinstance(raw.get("widget"), dict))


def _kind(raw: Any) -> str:  # noqa: ANN401 - unchecked JSON
    """The type of a socket, '*' for one too long to be one; older pages wrote the options of a list in its place."""
    kind = raw.get("type") if isinstance(raw, dict) else None
    if isinstance(kind, str) and len(kind) <= LONGEST_NAME:
        return kind
    return "COMBO" if isinstance(kind, list) else "*"


def _named(raw: Any) -> tuple[str, str]:  # noqa: ANN401 - unchecked JSON
    """Name and label of a subgraph's own input, '' for none."""
    found = (raw.get("name"), raw.get("label")) if isinstance(raw, dict) else ("", "")
    name, label = (part if isinstance(part, str) else "" for part in found)
    return name, label


def _links(entries: Sequence[Any], place: str) -> dict[str, UiLink]:
    links: dict[str, UiLink] = {}
    for entry in entries:
        if entry is None:
            continue
        link_id, link = _link(entry, place)
        if links.setdefault(link_id, link) != link:
            raise _malformed(f"two links{place} have the id {link_id}")
    return links


def _link(entry: Any, place: str) -> tuple[str, UiLink]:  # noqa: ANN401 - unchecked JSON
    if isinstance(entry, dict):
        parts = [entry.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    else:
        parts = entry[:5] if isinstance(entry, list) else []
    if len(parts) == 5:
        link_id, origin, target = _id(parts[0]), _id(parts[1]), _id(parts[3])
        slot, target_slot = _slot(parts[2]), _slot(parts[4])
        if not (link_id is None or origin is None or slot is None or target is None or target_slot is None):
            return link_id, UiLink(origin, slot, target, target_slot)
    raise _malformed(f"a link{place} is {shown(entry)}, not [id, source, output, target, input]")


def _slot(value: Any) -> int | None:  # noqa: ANN401 - unchecked JSON
    try:
        return None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        return None


def _addresses(properties: Any) -> Mapping[str, str]:  # noqa: ANN401 - unchecked JSON
    """Read what `models` lists, [{name, url, directory}]; nothing depends on it, so what is malformed is left out."""
    listed = properties.get("models") if isinstance(properties, dict) else None
    found = [entry for entry in listed[:MOST_MODELS] if isinstance(entry, dict)] if isinstance(listed, list) else []
    pairs = [(entry.get("name"), entry.get("url")) for entry in found]
    whole = {name: url for name, url in pairs if isinstance(name, str) and isinstance(url, str)}
    return MappingProxyType(
        {name: url for name, url in whole.items() if url.startswith(WEB) and len(url) <= LONGEST_ADDRESS}
    )


def _promotions(properties: Any, label: str) -> tuple[Promotion, ...] | None:  # noqa: ANN401 - unchecked JSON
    """Read what `proxyWidgets` lists: [node id, widget], or [node id, widget, id of the node inside that box]."""
    listed = properties.get("proxyWidgets") if isinstance(properties, dict) else None
    if isinstance(listed, str):
        try:
            listed = json.loads(listed)
        except (ValueError, RecursionError):
            listed = [listed]
    if not listed:
        return None
    found = [_promotion(entry) for entry in listed] if isinstance(listed, list) else [None]
    if None in found:
        raise _malformed(f"its proxyWidgets are {shown(listed)}, not a list of [node id, widget name]", label)
    return tuple(entry for entry in found if entry is not None)


def _promotion(entry: Any) -> Promotion | None:  # noqa: ANN401 - unchecked JSON
    """Read one entry; a widget of a box inside the box may be written as "5: seed", or with "10:5" as its node."""
    if not isinstance(entry, list) or not 2 <= len(entry) <= 3 or not isinstance(entry[1], str):
        return None
    if len(entry[1]) > LONGEST_NAME:
        return None
    ids = [_id(part) for part in (entry[0], *entry[2:])]
    if None in ids:
        return None
    if ids[0] == BOX_ITSELF:
        return Promotion((BOX_ITSELF,), entry[1])
    path, name = [*str(ids[0]).split(":"), *map(str, ids[1:])], entry[1]
    head, colon, rest = name.partition(":")
    while colon and head.strip().isdecimal() and rest.strip():
        path.append(head.strip())
        name = rest.strip()
        head, colon, rest = name.partition(":")
    return Promotion(tuple(path), name)
