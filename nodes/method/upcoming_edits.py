"""Check the edits that will follow an inversion before the inversion's long work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.errors import FateZeroError
from ..checking.graph_texts import EDIT_NODE, Consumers, Graph, constants, consumers_of, readers_of, shown_name
from ..first_use import importing
from . import edit_widgets

if TYPE_CHECKING:
    from ...fatezero_ext.inversion.plan import InversionPlan
    from ...fatezero_ext.prompts.prompt import TextEncoder

SOCKETS = {"controller", "clip", "mask"}
"""Inputs of an edit that are always links."""


def check_edits(
    planned: InversionPlan,
    clip: TextEncoder,
    graph: Graph | None,
    node_id: str | None,
    widgets: frozenset[str],
) -> None:
    """Raise the error of the first edit behind an inversion, if every edit would fail and nothing else reads it.

    planned: the inversion, checked
    clip:    its text encoder
    graph:   the running prompt in API format, or None if the program does not show it
    node_id: id of the inversion in that graph
    widgets: names of the edit node's required widgets
    Not checked: edits whose widgets are linked to other nodes, or that use another text encoder; they fail when they
    run. Left out: edits whose results nothing reads.
    """
    with importing():
        from ...fatezero_ext.editing.edit import plan_edit
        from ...fatezero_ext.prompts.prompt import read_prompt

    graph, node_id = graph or {}, str(node_id)
    first: FateZeroError | None = None
    consumers = consumers_of(graph)
    for name, inputs in readers_of(graph, consumers, node_id, EDIT_NODE):
        try:
            if not _is_known(graph, node_id, inputs, widgets):
                return
            with_mask = inputs.get("mask") is not None
            settings = edit_widgets.from_widgets(inputs, with_mask=with_mask)
            plan_edit(planned.unet, planned, clip, inputs["edit_prompt"], settings, with_mask=with_mask)
            read_prompt(clip, inputs["negative_prompt"], "negative prompt")
            at_once = inputs.get("frames_at_once") or planned.frames_at_once
            planned.unet.parts(planned.frames, at_once, controlled=True)
        except FateZeroError as error:
            named = type(error)(f"{shown_name(graph, name, 'Prompt-to-Prompt Edit')}: {error}")
            named.__cause__ = error
            first = first or named
        else:
            return
    if first is not None and not _others_read(graph, consumers, node_id):
        raise first


def _is_known(graph: Graph, node_id: str, inputs: Mapping[str, Any], widgets: frozenset[str]) -> bool:
    """Return whether all inputs of an edit are known now."""
    known = constants(inputs)
    same_clip = inputs.get("clip") == graph.get(node_id, {}).get("inputs", {}).get("clip")
    return widgets <= known.keys() and inputs.keys() - known.keys() <= SOCKETS and same_clip


def _others_read(graph: Graph, consumers: Consumers, node_id: str) -> bool:
    """Return whether a node that is no edit reads an inversion."""
    return any(graph[name].get("class_type") != EDIT_NODE for name in consumers.get(node_id, ()))
