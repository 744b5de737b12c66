"""Check the edits that will follow an inversion before the inversion's long work starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..fatezero_ext.controller import Controller, plan_edit
from ..fatezero_ext.errors import FateZeroError
from ..fatezero_ext.prompts import Clip, read_prompt

EDIT_NODE = "FateZero_P2PEdit"


def check_edits(planned: Controller, clip: Clip, graph: Mapping[str, Any] | None, node_id: str | None) -> None:
    """Raise the error that an edit of this inversion would end with.

    planned: the controller as the inversion will leave it
    graph:   the running prompt in API format, or None where the program does not tell
    node_id: of the inversion in that graph
    An edit with a widget fed by another node is left to speak for itself when it runs.
    """
    for name, inputs in _edits_of(graph or {}, str(node_id)):
        # Not at the top: the edit node is defined after the inversion node that calls this.
        from .edit import settings_of

        with_mask = inputs.get("mask") is not None
        try:
            settings = settings_of(inputs, with_mask=with_mask)
            plan_edit(planned, clip, inputs["edit_prompt"], settings, with_mask=with_mask)
            read_prompt(clip, inputs["negative_prompt"], "negative prompt")
        except FateZeroError as error:
            raise type(error)(f"P2P Edit (node {name}): {error}") from error


def _edits_of(graph: Mapping[str, Any], node_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, node in graph.items():
        inputs = node.get("inputs", {})
        source = inputs.get("controller")
        follows = isinstance(source, (list, tuple)) and str(source[0]) == node_id
        if node.get("class_type") == EDIT_NODE and follows and _has_constant_widgets(inputs):
            yield name, inputs


def _has_constant_widgets(inputs: Mapping[str, Any]) -> bool:
    links = {name for name, value in inputs.items() if isinstance(value, (list, tuple))}
    return links <= {"controller", "clip", "mask"}
