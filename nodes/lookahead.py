"""Check the edits that will follow an inversion before the inversion's long work starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..fatezero_ext.errors import FateZeroError
from . import edit_settings

if TYPE_CHECKING:
    from ..fatezero_ext.controller import Controller
    from ..fatezero_ext.prompts import Clip

EDIT_NODE = "FateZero_P2PEdit"
SOCKETS = {"controller", "clip", "mask"}
"""Inputs of an edit that are always links."""


def check_edits(
    planned: Controller,
    clip: Clip,
    graph: Mapping[str, Any] | None,
    node_id: str | None,
    widgets: frozenset[str],
) -> None:
    """Raise the error that an edit of this inversion would end with.

    planned: the controller as the inversion will leave it
    clip:    the inversion's text encoder
    graph:   the running prompt in API format, or None where the program does not tell
    node_id: of the inversion in that graph
    widgets: names of the edit node's required widgets
    Left to speak for themselves when they run: edits with a widget fed by another node or with another text encoder.
    Left out: edits whose results nothing reads.
    """
    from ..fatezero_ext.controller import plan_edit
    from ..fatezero_ext.prompts import read_prompt

    graph = graph or {}
    for name, inputs in _edits_of(graph, str(node_id), widgets):
        with_mask = inputs.get("mask") is not None
        try:
            settings = edit_settings.from_widgets(inputs, with_mask=with_mask)
            plan_edit(planned, clip, inputs["edit_prompt"], settings, with_mask=with_mask)
            read_prompt(clip, inputs["negative_prompt"], "negative prompt")
        except FateZeroError as error:
            raise type(error)(f"P2P Edit (node {name}): {error}") from error


def _edits_of(
    graph: Mapping[str, Any], node_id: str, widgets: frozenset[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inversion = graph.get(node_id, {}).get("inputs", {})
    read = {str(value[0]) for node in graph.values() for value in node["inputs"].values() if _is_link(value)}
    for name, node in graph.items():
        inputs = node["inputs"]
        if node["class_type"] != EDIT_NODE or name not in read:
            continue
        follows = _is_link(inputs.get("controller")) and str(inputs["controller"][0]) == node_id
        constants = {key for key, value in inputs.items() if not _is_link(value)}
        known = widgets <= constants and inputs.keys() - constants <= SOCKETS
        if follows and known and inputs.get("clip") == inversion.get("clip"):
            yield name, inputs


def _is_link(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2
