"""Reads a workflow file of either format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .api_format import read_api_format
from .graph import Graph
from .problems import stop
from .registry import NodeTypes
from .ui_format import read_ui_format

FORMATS_HINT = "Save it from ComfyUI with 'Export' or 'Export (API)'."


def read_workflow(path: Path, types: NodeTypes) -> Graph:
    """The graph in the file at `path`; raises InvalidWorkflow where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise stop(f"cannot read the workflow {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise stop(f"the workflow {path} is not text; a workflow is a JSON file. {FORMATS_HINT}") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise stop(f"the workflow {path} is not JSON ({error}); it must be. {FORMATS_HINT}") from error
    except RecursionError as error:
        raise stop(f"the workflow {path} is nested too deeply to be one. {FORMATS_HINT}") from error
    return graph_from(document, types, origin=str(path))


def graph_from(document: Any, types: NodeTypes, *, origin: str = "workflow") -> Graph:  # noqa: ANN401 - unchecked JSON
    """The graph of parsed JSON in either format, or of a request body that holds one under "prompt"."""
    if isinstance(document, dict) and isinstance(document.get("prompt"), dict):
        document = document["prompt"]
    if not isinstance(document, dict):
        raise stop(f"{origin} holds a JSON {type(document).__name__}, not an object of nodes. {FORMATS_HINT}")
    if isinstance(document.get("nodes"), list):
        graph = read_ui_format(document, types)
    elif all(isinstance(entry, dict) for entry in document.values()):
        graph = read_api_format(document)
    else:
        raise stop(f"{origin} has neither a list 'nodes' nor nodes by id, so it is no workflow. {FORMATS_HINT}")
    if not graph.nodes:
        raise stop(f"{origin} has no nodes to run; at least one output node is needed. Add one, such as Save Video.")
    return graph
