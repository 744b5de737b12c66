"""The files of the templates, and what they hold: for tests."""

from __future__ import annotations

import json

from fatezero_ext.cli.examples import EXAMPLES

FIRST = EXAMPLES / "A first edit, nothing to download.json"
"""The one node with the pack's own clip and model."""
TUNED = EXAMPLES / "Tune a model on the clip, change the shape.json"
"""The one node behind a model that learns the pack's own clip first."""
ALL = [path for path in sorted(EXAMPLES.glob("[!0-9]*.json")) if path not in (FIRST, TUNED)]
"""Templates for real files."""
BUILT_IN = [FIRST, TUNED, *sorted(EXAMPLES.glob("[0-9]_*.json"))]
"""Templates that need no download."""
BY_NAME = {"ids": lambda path: path.stem}
FEW = {
    "FateZero_VideoEdit": {"frames": 3, "size": 32, "steps": 5},
    "FateZero_PrepareFrames": {"count": 3, "short_side": 32, "multiple_of": 8},
    "FateZero_DDIMInvert": {"steps": 5},
    "FateZero_TuneOnClip": {"steps": 3, "temporal_rank": 4, "preview_every": 0},
}
"""Widgets of a small run."""


def nodes_of(path):
    """A file's nodes, those of its subgraphs too."""
    document = json.loads(path.read_text())
    inside = [level["nodes"] for level in document.get("definitions", {}).get("subgraphs", [])]
    return [node for nodes in (document["nodes"], *inside) for node in nodes]


def few(path):
    """Settings of a small run of a file."""
    types = {node["type"] for node in nodes_of(path)}
    settings = [f"{kind}.{name}={value}" for kind in types & FEW.keys() for name, value in FEW[kind].items()]
    return [word for setting in settings for word in ("--set", setting)]
