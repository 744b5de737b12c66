"""Follows the links of a UI-format file; a subgraph is a scope of its own.

Links are followed from an input back to what really feeds it: through reroutes, bypassed nodes, primitives, Set and Get
nodes and the borders of subgraphs, so that only links between nodes that run remain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..graph import Box, Link
from ..problems import short
from ..schemas.registry import NearNames
from .promoted import BoxWidget, box_widgets, opened
from .subgraphs import check_size, read_definitions
from .ui_nodes import BYPASSED, MUTED, SUBGRAPH_INPUT, Level, UiNode, first_text, read_level

NOTES = frozenset({"Note", "MarkdownNote"})
REROUTES = frozenset({"Reroute", "Reroute (rgthree)", "SetNode"})
"""Nodes of the page that hand their first input on."""
PRIMITIVE, GET = "PrimitiveNode", "GetNode"
ANY = frozenset({"*", ""})
"""Types of an input that takes anything."""
MOST_COMPARED = 64
"""Inputs of a bypassed node that are looked through for one of a fitting type."""
MOST_SETTERS = 100
"""Boxes and primitives that one input may be set by; as many as there may be subgraphs inside each other."""
PAGE_ONLY = NOTES | REROUTES | {PRIMITIVE, GET}
"""Nodes that the page draws and never sends."""


@dataclass(frozen=True)
class Constant:
    """A value that a primitive node or a box gives to an input."""

    value: Any


@dataclass(frozen=True)
class Severed:
    """A link that leads to nothing, and why."""

    reason: str


Source = Link | Constant | Severed | None
"""Feed of an input; None where it has none."""


@dataclass(frozen=True)
class Scope:
    """One level of a file at the place where it is used.

    prefix:   what ids of this scope start with in the flat graph, such as '' or '12:'
    parent:   the scope and the box that this subgraph stands in; None for the file's own level
    values:   by input of the subgraph, the value of the box's widget
    promoted: by id of a node in here, what boxes outside say about its widgets (see `Opened`)
    """

    prefix: str
    level: Level
    parent: tuple[Scope, UiNode] | None = None
    values: Mapping[int, Any] = field(default_factory=dict)
    promoted: Mapping[str, Sequence[tuple[tuple[str, ...], str, Any]]] = field(default_factory=dict)

    def flat(self, node_id: str) -> str:
        """Return the id in the flat graph."""
        return f"{self.prefix}{node_id}"


Place = tuple[Scope, UiNode, int]
"""An input: its scope, its node and which of the node's inputs it is."""
Setter = tuple[str, int]
"""Place that a user may set instead of an input: an input of a box, or 0 of a primitive, by flat id."""


@dataclass(frozen=True)
class Step:
    """One step back from an input.

    to:     the source, or the input that the link's other end hands on
    setter: the box's input or the primitive on the way
    value:  of the box's widget there; counts where nothing is linked to it
    """

    to: Place | Source
    setter: Setter | None = None
    value: Any = None


class Wiring:
    """A file with its subgraphs, each opened where it is used."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.near = NearNames()
        self._definitions = read_definitions(document, self.near)
        self.root = Scope("", read_level(document, self.near))
        check_size(self.root.level, self._definitions)
        self._inner: dict[str, tuple[Scope, list[BoxWidget]]] = {}
        self._found: dict[tuple[str, str, int], tuple[Source, tuple[Setter, ...]]] = {}
        self._targets: dict[Setter, list[tuple[str, str]]] = {}

    def inner(self, scope: Scope, node: UiNode) -> Scope | None:
        """Return the scope inside a node that is a subgraph; None for any other node."""
        level = self._definitions.get(node.type)
        if level is None:
            return None
        prefix = f"{scope.flat(node.id)}:"
        if prefix not in self._inner:
            widgets = box_widgets(node, level, self._definitions)
            inside = opened(widgets, level, self._definitions, scope.promoted.get(node.id, ()))
            self._inner[prefix] = Scope(prefix, level, (scope, node), inside.values, inside.promoted), widgets
        return self._inner[prefix][0]

    def source(self, scope: Scope, node: UiNode, slot: int) -> Source:
        """Return what feeds input `slot` of a node that runs; `boxes` knows it from then on."""
        found, setters = self._follow((scope, node, slot))
        target = (scope.flat(node.id), node.inputs[slot].name)
        for setter in setters:
            self._targets.setdefault(setter, []).append(target)
        return found

    def boxes(self) -> Iterator[Box]:
        """Yield the parts of the page that a user may set and that do not run. Call it after all calls of `source`."""
        for scope, widgets in self._inner.values():
            if scope.parent is not None:
                yield self._box(scope, *scope.parent, widgets)
        for scope in (self.root, *(scope for scope, _ in self._inner.values())):
            for node in scope.level.nodes.values():
                targets = self._targets.get((scope.flat(node.id), 0))
                if node.type == PRIMITIVE and targets:
                    yield Box(scope.flat(node.id), (node.title or PRIMITIVE,), {"value": tuple(targets)})

    def _box(self, scope: Scope, outer: Scope, node: UiNode, widgets: Sequence[BoxWidget]) -> Box:
        flat = outer.flat(node.id)
        inputs = scope.level.inputs or tuple((socket.name, "") for socket in node.inputs)
        targets: dict[str, tuple[tuple[str, str], ...]] = {}
        for slot, called in enumerate(inputs):
            for name in filter(None, called):
                targets.setdefault(name, tuple(self._targets.get((flat, slot), ())))
        for widget in widgets:
            inside = (scope.flat(":".join(widget.inside.path)), widget.inside.widget)
            found = (inside,) if widget.slot is None else tuple(self._targets.get((flat, widget.slot), ()))
            targets.setdefault(widget.name, found)
        names = tuple(dict.fromkeys(name for name in (node.title, scope.level.name) if name))
        return Box(flat, names or (node.type,), targets)

    def _follow(self, start: Place) -> tuple[Source, tuple[Setter, ...]]:
        """Return the source of an input, and all that may be set instead; no place is looked at twice."""
        steps: list[tuple[tuple[str, str, int], Step]] = []
        under_way: set[tuple[str, str, int]] = set()
        place: Place | Source = start
        setters: tuple[Setter, ...] = ()
        while isinstance(place, tuple):
            key = (place[0].prefix, place[1].id, place[2])
            if key in self._found:
                place, setters = self._found[key]
            elif key in under_way:
                place = Severed("its link runs in a circle")
            else:
                under_way.add(key)
                steps.append((key, self._step_back(*place)))
                place = steps[-1][1].to
        for key, step in reversed(steps):
            setters = setters if step.setter is None else (step.setter, *setters[:MOST_SETTERS])
            place = Constant(step.value) if place is None and step.value is not None else place
            self._found[key] = place, setters
        return place, setters

    def _step_back(self, scope: Scope, node: UiNode, slot: int) -> Step:
        """Step back across one link."""
        link = node.inputs[slot].link if slot < len(node.inputs) else None
        return Step(None) if link is None else self._behind(scope, link, node, slot)

    def _behind(self, scope: Scope, link_id: str, target: UiNode, target_slot: int) -> Step:
        """Step to the other end of a link; target, target_slot: the node and the input at this end."""
        link = scope.level.links.get(link_id)
        if link is None:
            return Step(Severed(f"its link {link_id} is not in the file"))
        if link.origin == SUBGRAPH_INPUT and scope.parent is not None:
            return _outwards(scope, *scope.parent, link.slot)
        node, name = scope.level.nodes.get(link.origin), f"#{short(scope.flat(link.origin))}"
        if node is None:
            return Step(Severed(f"its source {name} is not in the file"))
        if node.mode == MUTED:
            return Step(Severed(f"its source {name} is muted"))
        if node.mode == BYPASSED:
            wanted, reroute = _wanted(target, target_slot), target.type in REROUTES
            return Step(_bypass(scope, node, link.slot, wanted, reroute=reroute))
        if node.type == PRIMITIVE:
            value = _primitive_value(scope, node)
            return Step(None if value is None else Constant(value), (scope.flat(node.id), 0))
        if node.type == GET:
            return Step(_set_node(scope, node))
        if node.type in REROUTES:
            return Step((scope, node, 0))
        inner = self.inner(scope, node)
        if inner is None:
            return Step(Link(scope.flat(node.id), link.slot))
        if link.slot not in inner.level.outlets:
            return Step(Severed(f"output {link.slot} of subgraph {name} has no source inside"))
        return self._behind(inner, inner.level.outlets[link.slot], target, target_slot)


def _outwards(scope: Scope, outer: Scope, box: UiNode, slot: int) -> Step:
    """Step from input `slot` of a subgraph to the same input of its box, which the page finds by its name."""
    setter, value, inputs = (outer.flat(box.id), slot), scope.values.get(slot), scope.level.inputs
    position = slot if not inputs else box.positions.get(inputs[slot][0]) if 0 <= slot < len(inputs) else None
    if position is None or position < 0:
        return Step(None if value is None else Constant(value), setter)
    return Step((outer, box, position), setter, value)


def _primitive_value(scope: Scope, node: UiNode) -> Any:  # noqa: ANN401 - what the widget holds
    """Return the value of a primitive's only widget, whatever name a box outside gives it; None where there is none."""
    promoted = [value for _, _, value in scope.promoted.get(node.id, ())]
    values = list(node.values.values()) if isinstance(node.values, Mapping) else node.values or ()
    return promoted[-1] if promoted else values[0] if values else None


def _set_node(scope: Scope, node: UiNode) -> Place | Severed:
    """Return the input of the Set node that a Get node names, on its own level or on one around it."""
    name = first_text(node)
    at: Scope | None = scope
    while at is not None:
        found = at.level.setters.get(name, ())
        if len(found) > 1:
            return Severed(f"several Set nodes are called '{short(name)}'")
        if found:
            muted = found[0].mode == MUTED
            return Severed(f"the Set node '{short(name)}' is muted") if muted else (at, found[0], 0)
        at = at.parent[0] if at.parent is not None else None
    return Severed(f"no Set node is called '{short(name)}'")


def _fits(kind: str, other: str) -> bool:
    """Return whether the page links sockets of these types; "IMAGE,MASK" is either, '*' and '' are any."""
    first, second = (frozenset(each.lower().split(",")) for each in (kind, other))
    return not first.isdisjoint(second) or not (first | second).isdisjoint(ANY)


def _wanted(node: UiNode, slot: int) -> str:
    """Return the type that an input wants; that of its output for a reroute, which takes anything."""
    kind = node.inputs[slot].kind
    return node.outputs[0] if kind in ANY and node.type in REROUTES and node.outputs else kind


def _bypass(scope: Scope, node: UiNode, slot: int, wanted: str, *, reroute: bool) -> Place | Severed:
    """Return the input that a bypassed node hands on as output `slot`, chosen as the page does.

    wanted:  type of the input that is fed
    reroute: whether that input is a reroute's, which takes anything: then the output's type counts
    """
    offered = node.outputs[slot] if 0 <= slot < len(node.outputs) else "*"
    if reroute and wanted in ANY:
        wanted = offered
    if wanted in ANY and node.inputs:
        return scope, node, slot if 0 <= slot < len(node.inputs) else 0
    beside = node.inputs[slot].kind if 0 <= slot < len(node.inputs) else None
    if beside is not None and _fits(beside, offered) and _fits(beside, wanted):
        return scope, node, slot
    if wanted in node.kinds:
        return scope, node, node.kinds[wanted]
    for index, socket in enumerate(node.inputs[:MOST_COMPARED]):
        if _fits(socket.kind, offered) and _fits(socket.kind, wanted):
            return scope, node, index
    return Severed(f"its source #{short(scope.flat(node.id))} is bypassed and has no {short(wanted)} input to hand on")
