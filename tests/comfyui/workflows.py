"""The example workflows as graphs of ComfyUI's API, and smaller graphs made of them."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack

TEMPLATES = sorted(EXAMPLES.glob("[0-9]_*.json"))
COMPONENTS, LOAD, REGISTER, KEEP, INVERT, EDIT, DECODE = "2", "3", "5", "6", "7", "8", "9"
"""Nodes of the colour edit."""
LATENTS = "20"
"""The node of the small graph that keeps the edit's latents."""
SOURCE_KEPT, FRAMES_KEPT = "90", "91"
"""Nodes that keep the frames that come in, and those that go out before they are encoded."""
FRAMES, STEPS = 3, 3


@cache
def _read(path):
    with ThreadPoolExecutor(1) as thread:  # the browser's driver has a loop of its own in this one
        types = thread.submit(load_pack("nodes.headless.schemas.registry").pack_node_types).result()
    return load_pack("nodes.headless.formats.read").read_workflow(path, types).api_format()


def api_graph(path):
    """The template at `path` in ComfyUI's API format, converted by the headless runner."""
    return copy.deepcopy(_read(path))


def with_frames(graph):
    """The graph, and its frames kept as they come in and go out."""
    kept = {SOURCE_KEPT: [COMPONENTS, 0], FRAMES_KEPT: [DECODE, 0]}
    return graph | {
        name: {"class_type": "TestSaveFrames", "inputs": {"images": source}} for name, source in kept.items()
    }


def small_graph(steps=STEPS, **edit):
    """The colour edit up to its latents, with few frames and steps, its widgets in charge; edit: some of them."""
    graph = {name: node for name, node in api_graph(TEMPLATES[0]).items() if int(name) <= int(EDIT)}
    few = {"image": [COMPONENTS, 0], "batch_index": 0, "length": FRAMES}
    graph["0"] = {"class_type": "ImageFromBatch", "inputs": few}
    graph["4"]["inputs"]["pixels"] = ["0", 0]
    del graph[EDIT]["inputs"]["images"]  # the picture of the mask, which nobody looks at here
    graph[EDIT]["inputs"] |= {"kind": "custom", "blend_edit_words": "circle"}  # a word of any edit prompt
    graph[INVERT]["inputs"] |= {"steps": steps, "inversion_passes": 0}  # one UNet call a step
    graph[EDIT]["inputs"] |= edit
    graph[LATENTS] = {"class_type": "TestKeepLatents", "inputs": {"samples": [EDIT, 0], "mask": [EDIT, 1]}}
    return graph


def with_copy(graph, first, *, offset=100, **edit):
    """The graph with the nodes from `first` on a second time, their ids `offset` higher; edit: widgets of the copy."""
    again = copy.deepcopy({name: node for name, node in graph.items() if int(name) >= int(first)})
    moved = {name: str(int(name) + offset) for name in again}
    for node in again.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in moved:
                node["inputs"][name] = [moved[value[0]], value[1]]
    again[EDIT]["inputs"] |= edit
    return graph | {moved[name]: node for name, node in again.items()}
