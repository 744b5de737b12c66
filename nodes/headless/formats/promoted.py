"""The widgets that a subgraph's box shows on the page, and the values it has for them.

Two notations are in use. `properties.proxyWidgets` lists the widgets, and `widgets_values` has a value for each. The
newest pages and the oldest write no list: then every input of the subgraph that is linked to a widget inside is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ui_nodes import BOX_ITSELF, Level, Promotion, UiNode

AFTER_GENERATE = frozenset({"fixed", "increment", "decrement", "randomize"})
"""Values of the widget that the page puts behind a seed; the file has it among the node's own widgets."""
CONTROL = "control_after_generate"
"""Name of that widget."""

Definitions = Mapping[str, Level]
"""The subgraphs of a file by id."""


@dataclass(frozen=True)
class BoxWidget:
    """A widget of a box.

    slot:   the subgraph's input that it stands for; None where it is shown without one
    inside: where it comes from, used where there is no slot
    value:  None where the file has none, and the value inside counts
    """

    name: str
    slot: int | None
    inside: Promotion
    value: Any


@dataclass(frozen=True)
class Opened:
    """Values that a box's widgets give to its inside.

    values:   by input of the subgraph, the value of the box's widget
    promoted: by id of a node inside, what counts for its widgets: (further path, name of the widget, value)
    """

    values: Mapping[int, Any]
    promoted: Mapping[str, Sequence[tuple[tuple[str, ...], str, Any]]]


def box_widgets(box: UiNode, level: Level, definitions: Definitions) -> list[BoxWidget]:
    """Return the widgets of a box with the subgraph `level` inside."""
    if box.promotions is None:
        marked = {socket.name for socket in box.inputs if socket.is_widget}
        promotions = [
            Promotion((BOX_ITSELF,), name)
            for slot, (name, _) in enumerate(level.inputs)
            if name in marked or _is_widget(level, slot, definitions)
        ]
    else:
        promotions = list(box.promotions)
    found = []
    for promotion, value in zip(promotions, _values(box, [entry.widget for entry in promotions]), strict=True):
        slot = slot_of(promotion, level, definitions)
        if slot is not None or promotion.path != (BOX_ITSELF,):
            found.append(BoxWidget(promotion.widget, slot, promotion, value))
    return found


def opened(
    widgets: Sequence[BoxWidget],
    level: Level,
    definitions: Definitions,
    outer: Sequence[tuple[tuple[str, ...], str, Any]],
) -> Opened:
    """Return the values that the inside of a box gets from its widgets, and from those of the boxes around it.

    outer: what boxes outside say about widgets of this one; it counts more than the box's own values
    """
    values: dict[int, Any] = {}
    promoted: dict[str, list[tuple[tuple[str, ...], str, Any]]] = {}

    def put(slot: int | None, inside: Promotion, value: Any) -> None:  # noqa: ANN401 - a widget's value
        if slot is not None:
            values[slot] = value
        else:
            promoted.setdefault(inside.path[0], []).append((inside.path[1:], inside.widget, value))

    by_name: dict[str, list[tuple[int | None, Promotion]]] = {}
    for widget in widgets:
        by_name.setdefault(widget.name, []).append((widget.slot, widget.inside))
        if widget.value is not None:
            put(widget.slot, widget.inside, widget.value)
    for path, name, value in outer:
        if path and path[0] in level.nodes:
            further = Promotion(path, name)
            put(slot_of(further, level, definitions), further, value)
            continue
        itself = [(level.positions.get(name), Promotion((BOX_ITSELF,), name))]
        for slot, inside in by_name.get(name, itself):
            put(slot, inside, value)
    return Opened(values, promoted)


def _values(box: UiNode, names: Sequence[str]) -> list[Any]:
    """Return the box's value for each of its widgets, None where it has none.

    A list may have more values than widgets: then the page has put `control_after_generate` behind a seed, or behind
    another whole number where there are more of them than seeds. "fixed" is a value of Prompt-to-Prompt
    Edit's `quirks` too.
    """
    if isinstance(box.values, Mapping):
        return [box.values.get(name) for name in names]
    values = box.values or ()
    found: list[Any] = []
    position, spare = 0, len(values) - len(names)
    seeds = [_is_seed(name) for name in names]
    for slot, following in enumerate((*names[1:], "")[: len(names)]):
        found.append(values[position] if position < len(values) else None)
        position += 1
        behind = values[position] if position < len(values) else None
        followed = spare > 0 if seeds[slot] else spare > sum(seeds[slot:]) and _is_whole(found[-1])
        if followed and isinstance(behind, str) and behind in AFTER_GENERATE and following != CONTROL:
            position, spare = position + 1, spare - 1
    return found


def _is_seed(name: str) -> bool:
    return "seed" in name.lower()


def _is_whole(value: Any) -> bool:  # noqa: ANN401 - a widget's value
    return isinstance(value, int) and not isinstance(value, bool)


def _is_widget(level: Level, slot: int, definitions: Definitions) -> bool:
    """Return whether the subgraph's input leads to a widget, through boxes inside too."""
    waiting: list[tuple[Level, int]] = [(level, slot)]
    met = {(id(level), slot)}
    while waiting:
        level, slot = waiting.pop()
        for node, socket in level.inlets.get(slot, ()):
            if socket.is_widget:
                return True
            inner = definitions.get(node.type) if node.runs else None
            position = None if inner is None else inner.positions.get(socket.name)
            if inner is not None and position is not None and (id(inner), position) not in met:
                met.add((id(inner), position))
                waiting.append((inner, position))
    return False


def slot_of(promotion: Promotion, level: Level, definitions: Definitions) -> int | None:
    """Return the input of the subgraph that feeds the promoted widget, where one does."""
    if promotion.path == (BOX_ITSELF,):
        return level.positions.get(promotion.widget)
    node = level.nodes.get(promotion.path[0])
    if node is None:
        return None
    position = node.positions.get(promotion.widget)
    inner = definitions.get(node.type) if node.runs else None
    if inner is not None and len(promotion.path) > 1:
        further = slot_of(Promotion(promotion.path[1:], promotion.widget), inner, definitions)
        position = None if further is None else node.positions.get(inner.inputs[further][0])
    return None if position is None else level.fed_by(node.inputs[position])
