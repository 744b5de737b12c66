"""Node classes that the runner knows, with their schemas."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeGuard

from ... import comfy_entrypoint
from ...api import io
from ..core_nodes import CORE_NODES
from ..problems import short

LONGEST_NAME = 255
"""Letters of a name that is compared with others; comparing takes time that grows with the square."""
MOST_PAIRS = 50_000
"""Pairs of names of a file that are compared, about a second; a file of 500 nodes as the page saves it has 1,000."""


@dataclass(frozen=True)
class NodeType:
    """A node class with its schema."""

    node_class: type[io.ComfyNode]
    schema: io.Schema

    @property
    def inputs(self) -> dict[str, io.Input]:
        """Return the inputs by id, required ones first: the order in which ComfyUI's frontend makes widgets."""
        ordered = sorted(self.schema.inputs or (), key=lambda socket: socket.optional)
        return {socket.id: socket for socket in ordered}

    @property
    def widgets(self) -> list[io.WidgetInput]:
        """Return the inputs that have a widget, in the order of a file's `widgets_values`."""
        return [socket for socket in self.inputs.values() if has_widget(socket)]

    @property
    def output_types(self) -> list[str]:
        """Return the type of every output socket."""
        return [socket.get_io_type() for socket in self.schema.outputs or ()]

    def overrides(self, method: str) -> bool:
        """Return whether the node defines the optional classmethod itself."""
        inherited = getattr(io.ComfyNode, method, None)
        own = getattr(self.node_class, method, None)
        return own is not None and getattr(own, "__func__", own) is not getattr(inherited, "__func__", inherited)


NodeTypes = Mapping[str, NodeType]


def has_widget(socket: io.Input) -> TypeGuard[io.WidgetInput]:
    """True if the input shows a widget, so that it may hold a constant."""
    return isinstance(socket, io.WidgetInput) and not socket.force_input


def node_types(classes: Iterable[type[io.ComfyNode]]) -> NodeTypes:
    """Return these classes by node id."""
    found = [NodeType(node_class, node_class.GET_SCHEMA()) for node_class in classes]
    return MappingProxyType({node_type.schema.node_id: node_type for node_type in found})


def pack_node_types() -> NodeTypes:
    """Return the pack's nodes and the stand-ins for ComfyUI's core nodes."""

    async def pack_nodes() -> list[type[io.ComfyNode]]:
        extension = await comfy_entrypoint()
        return await extension.get_node_list()

    return node_types([*CORE_NODES, *asyncio.run(pack_nodes())])


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return a sentence naming the known names closest to `name`, or '' where none is close."""
    close = close_names(name, known)
    return f" Did you mean {' or '.join(short(match) for match in close)}?" if close else ""


def close_names(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return at most three of the known names, the closest to `name` first; cutoff: least similarity, 0..1."""
    if len(name) > LONGEST_NAME:
        return []
    by_lower = {candidate.lower(): candidate for candidate in known if len(candidate) <= LONGEST_NAME}
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=3, cutoff=cutoff)]


class NearNames:
    """Compares the names in a file with known ones, each pair once and no more than `MOST_PAIRS` of them.

    A file may have more names than can be compared in a second; the rest are taken as they are.
    """

    def __init__(self) -> None:
        self._left = MOST_PAIRS
        self._found: dict[tuple[str, tuple[str, ...], float], list[str]] = {}

    def close(self, name: str, known: Iterable[str], cutoff: float) -> list[str]:
        """Return what `close_names` gives; [] once too many pairs were compared."""
        key = (name, tuple(known), cutoff)
        if key in self._found:
            return self._found[key]
        self._left -= 1 + len(key[1])
        if self._left < 0:
            return []
        self._found[key] = close_names(*key)
        return self._found[key]


def takes_lists(node_type: NodeType) -> bool:
    """Return whether the node wants every input as a list."""
    return bool(getattr(node_type.schema, "is_input_list", False))


def as_lists(node_type: NodeType, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `validate_inputs` and `fingerprint_inputs`: lists of one for a node that takes lists."""
    return {name: [value] for name, value in arguments.items()} if takes_lists(node_type) else dict(arguments)


def finished(result: Any) -> Any:  # noqa: ANN401 - whatever a node's method returns
    """Return the result of a node's method, awaited where the method is async."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:  # noqa: ANN401 - whatever the method returns
        return await result

    return asyncio.run(wait())
