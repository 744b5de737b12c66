"""Reads a workflow file of either format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..graph import Graph
from ..problems import shown, stop
from ..schemas.registry import NodeTypes
from .api_format import read_api_format
from .ui_format import read_ui_format

FORMATS_HINT = "Save it from ComfyUI with 'Export' or 'Export (API)'."
MOST_BYTES = 16 * 2**20
"""Size of a workflow file; parsed it may take twenty times as much memory, and real ones have some 100 KB."""
DEEPEST = 200
"""Lists and objects inside each other; the page writes some 10, and 3 more for each subgraph inside a subgraph."""
LONGEST_NUMBER = 100
"""Digits of a number; the longest that a widget takes has 20."""


def read_workflow(path: Path, types: NodeTypes) -> Graph:
    """Return the graph in the file at `path`; raises InvalidWorkflow where there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise stop(f"cannot read the workflow {path}: {error.strerror}. Check the path.") from error
    if len(content) > MOST_BYTES:
        raise stop(f"the workflow {path} has more than {MOST_BYTES >> 20} MB; at most that is read. {FORMATS_HINT}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise stop(f"the workflow {path} is not text; a workflow is a JSON file. {FORMATS_HINT}") from error
    return graph_from(_parsed(text, path), types, origin=str(path))


def _parsed(text: str, path: Path) -> Any:  # noqa: ANN401 - unchecked JSON
    too_deep = f"the workflow {path} is nested too deeply to be one. {FORMATS_HINT}"
    try:
        document = json.loads(text, object_pairs_hook=unrepeated, parse_int=whole_number)
    except ValueError as error:
        raise stop(f"the workflow {path} is not JSON ({error}); it must be. {FORMATS_HINT}") from error
    except RecursionError as error:
        raise stop(too_deep) from error
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise stop(too_deep)
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return document


def unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; raises ValueError where a key comes twice, because one of the values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice in one object; keep one")
    return found


def whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(digits)} digits; at most {LONGEST_NUMBER} are read")
    return int(digits)


def graph_from(document: Any, types: NodeTypes, *, origin: str = "workflow") -> Graph:  # noqa: ANN401 - unchecked JSON
    """Return the graph of parsed JSON in either format, or of a request body that holds one under "prompt"."""
    if isinstance(document, dict) and isinstance(document.get("prompt"), dict):
        document = document["prompt"]
    if not isinstance(document, dict):
        raise stop(f"{origin} holds a JSON {type(document).__name__}, not an object of nodes. {FORMATS_HINT}")
    if isinstance(document.get("nodes"), list):
        graph = read_ui_format(document, types)
    elif all(isinstance(entry, dict) for entry in document.values()):
        graph = read_api_format(document, types)
    else:
        raise stop(f"{origin} has neither a list 'nodes' nor nodes by id, so it is no workflow. {FORMATS_HINT}")
    if not graph.nodes:
        raise stop(f"{origin} has no nodes to run; at least one output node is needed. Add one, such as Save Video.")
    return graph
