"""The workflow of a batch, and the inputs that a plan's columns mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..headless.formats.read import graph_from, read_workflow
from ..headless.graph import Graph
from ..headless.problems import InvalidWorkflow, short, stop
from ..headless.schemas.overrides import Setting, apply_settings, meant_inputs
from ..headless.schemas.registry import NodeTypes, near_miss
from .problems import InvalidPlan, PlanProblem

CLIP = "clip"
"""Column of the file that a row edits."""
CLIP_WIDGETS = (("LoadVideo", "file"), ("FateZero_LoadFrames", "source"))
"""Widgets that name a clip, by class and input."""
SAMPLE = ("FateZero_SampleClip", "sample")
"""Class and widget of a clip of the pack; Load Video in its place takes files."""
FIRST = "FateZero_VideoEdit"
"""Class whose widgets a plain name means first."""
VIDEO_EDIT = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": ""}},
    "2": {
        "class_type": "FateZero_LoadPseudo3DUNet",
        "inputs": {
            "model": "built-in toy model",
            "key_frames": "auto",
            "norm": "video",
            "precision": "auto",
            "least_sc_channel": 0,
        },
    },
    "3": {
        "class_type": "FateZero_VideoEdit",
        "inputs": {
            "model": ["2", 0],
            "clip": ["2", 1],
            "vae": ["2", 2],
            "video": ["1", 0],
            "source_prompt": "",
            "edit_prompt": "",
            "kind": "auto",
            "strength": 1.0,
        },
    },
    "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": "edit", "format": "auto"}},
}
"""The workflow of a batch without one of its own: Video Edit with what it needs."""


def batch_workflow(path: Path | None, types: NodeTypes) -> Graph:
    """Return the graph of a workflow file, None for `VIDEO_EDIT`; raises InvalidWorkflow where there is none."""
    if path is None:
        return graph_from(json.loads(json.dumps(VIDEO_EDIT)), types, origin="the workflow of batches")
    return read_workflow(path, types)


@dataclass(frozen=True)
class Targets:
    """Inputs of the workflow by the columns that set them, each by node id and name."""

    of: Mapping[str, tuple[tuple[str, str], ...]]

    def column(self, label: str, name: str, graph: Graph) -> str:
        """Return the column that sets this input of the node of that label, '' where none does."""
        for column, targets in self.of.items():
            for node_id, each in targets:
                if each == name and graph.nodes[node_id].label == label:
                    return column
        return ""

    def settings(self, values: Mapping[str, str]) -> list[Setting]:
        """Return the settings of a row's values."""
        return [Setting(node_id, name, value) for column, value in values.items() for node_id, name in self.of[column]]

    def applied(self, graph: Graph, values: Mapping[str, str], types: NodeTypes) -> Graph:
        """Return the graph with a row's values."""
        return apply_settings(graph, self.settings(values), types)


def targets_of(graph: Graph, columns: Iterable[str], types: NodeTypes) -> Targets:
    """Find what columns mean: NODE.INPUT as in `--set`, `clip`, or the name of a widget that one node has.

    Raises InvalidPlan naming every column that means nothing.
    """
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    problems: list[PlanProblem] = []
    for column in columns:
        try:
            node, dot, name = column.rpartition(".")
            setting = Setting(node, name, "") if dot else _plain(graph, column, types)
            targets = meant_inputs(graph, setting, types)
            apply_settings(graph, [Setting(node_id, each, "") for node_id, each in targets], types)
            found[column] = tuple(targets)
        except InvalidWorkflow as error:
            problems += [PlanProblem(each.text, column=column) for each in error.problems]
    taken: dict[tuple[str, str], str] = {}
    for column, each in ((column, each) for column, targets in found.items() for each in targets):
        if each in taken:
            text = f"it sets the same input as the column '{short(taken[each])}'. Keep one."
            problems.append(PlanProblem(text, column=column))
        taken[each] = column
    if problems:
        raise InvalidPlan(problems)
    return Targets(found)


def _plain(graph: Graph, column: str, types: NodeTypes) -> Setting:
    """Return the setting that a plain name means."""
    clips = [(node.id, name) for kind, name in CLIP_WIDGETS for node in graph.nodes.values() if node.class_type == kind]
    if column == CLIP and not clips:
        raise stop(_no_clip(graph))
    if column == CLIP:
        fitting = clips
    else:
        owners = [node for node in graph.nodes.values() if column in _widgets(node.class_type, types)]
        first = [node for node in owners if node.class_type == FIRST]
        fitting = [(node.id, column) for node in (first or owners)]
    if len(fitting) == 1:
        return Setting(*fitting[0], "")
    if fitting:
        labels = ", ".join(graph.nodes[node_id].label for node_id, _ in fitting)
        raise stop(
            f"several nodes have it: {labels}. Name the column NODE.INPUT, such as {fitting[0][0]}.{fitting[0][1]}."
        )
    names = {name for node in graph.nodes.values() for name in _widgets(node.class_type, types)}
    known = sorted({CLIP, *names} if clips else names - {CLIP})
    raise stop(
        f"no node of the workflow has such a widget.{near_miss(column, known)} There are "
        f"{', '.join(map(short, known))}. Correct the name, or write NODE.INPUT."
    )


def _no_clip(graph: Graph) -> str:
    """Say why a workflow has no place for a clip's file."""
    kind, name = SAMPLE
    sample = next((node for node in graph.nodes.values() if node.class_type == kind), None)
    if sample is None:
        return "the workflow has no Load Video, which this column sets. Put one into it, or leave the column out."
    return (
        f"the workflow has no Load Video, which this column sets; it has {sample.label}, which takes no file. Put Load "
        f"Video in its place, or name the column '{name}' and take the pack's own clips."
    )


def _widgets(class_type: str, types: NodeTypes) -> Iterator[str]:
    return (widget.id for widget in types[class_type].widgets) if class_type in types else iter(())
