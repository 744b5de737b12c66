"""Fills in dates and other nodes' widgets in the names of files, as the page does when it queues a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ..graph import Link, Node

SAVING = frozenset({"SaveImage", "SaveVideo"})
"""Classes whose `filename_prefix` the page fills in."""
PREFIX = "filename_prefix"
PLACEHOLDER = re.compile(r"%([^%]+)%")
NOT_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
"""Characters of a value that the page writes as "_"."""
DATE_PART = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
MOST_PLACEHOLDERS, LONGEST_VALUE = 100, 1000
"""Placeholders of a name that are filled in, and letters of a value; names of files are shorter by far."""


def with_filled_prefixes(nodes: Iterable[Node], now: datetime) -> list[Node]:
    """Return the nodes, with `%date:yyyy-MM-dd%` and `%Load Video.file%` in names of files replaced.

    A node is named by its class or, where no class is called so, by its title. Anything else is left as it is.
    """
    listed = list(nodes)
    by_name: dict[str, Node] = {}
    for name_of in (lambda node: node.class_type, lambda node: node.title):
        for node in listed:
            by_name.setdefault(name_of(node), node)
    return [_filled(node, by_name, now) if node.class_type in SAVING else node for node in listed]


def _filled(node: Node, by_name: Mapping[str, Node], now: datetime) -> Node:
    prefix = node.inputs.get(PREFIX)
    if not isinstance(prefix, str) or "%" not in prefix:
        return node
    text = PLACEHOLDER.sub(lambda match: _value(match, by_name, now), prefix, count=MOST_PLACEHOLDERS)
    return node.with_inputs({PREFIX: text})


def _value(match: re.Match[str], by_name: Mapping[str, Node], now: datetime) -> str:
    name, *widgets = match[1].split(".")
    if len(widgets) != 1:
        return dated(name.removeprefix("date:"), now) if name.startswith("date:") else match[0]
    found = by_name.get(name)
    value = None if found is None else found.inputs.get(widgets[0])
    if value is None or isinstance(value, (Link, list, dict)):
        return match[0]
    return NOT_IN_NAMES.sub("_", _as_page_text(value)[:LONGEST_VALUE])


def _as_page_text(value: Any) -> str:  # noqa: ANN401 - a widget's value
    """Write the value as JavaScript does: true, and 8 for 8.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def dated(pattern: str, now: datetime) -> str:
    """Write the time by the page's patterns: yyyy yy MM M dd d hh h mm m ss s, one letter without leading zeros."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] == "y":
            return {"yy": f"{now.year}"[2:], "yyyy": str(now.year)}.get(found, found)
        return f"{parts[found[0]]:0{len(found)}}"

    return DATE_PART.sub(part, pattern)
