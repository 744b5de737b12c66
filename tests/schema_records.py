"""The nodes' schemas as ComfyUI tells its page of them, and the same read off the stand-in API."""

from __future__ import annotations

import json
from pathlib import Path

RECORDED = Path(__file__).with_name("recorded_schemas.json")
"""What ComfyUI 0.8.0 tells."""
KEPT = (
    "name", "display_name", "category", "description", "output", "output_name", "output_is_list", "output_tooltips",
    "output_node",
)  # fmt: skip
BY_FOLDER = {"model", "lora_name", "clip_model"}
"""Combos that offer what is in folders."""
OUTPUT_HIDDEN = ("prompt", "extra_pnginfo")
"""What ComfyUI gives to every output node."""
OWN = "FateZero_"


def recorded():
    """The recorded schemas by node id."""
    return json.loads(RECORDED.read_text())


def told(info):
    """One node's entry of /object_info, without what differs between folders, versions and Pythons."""
    kept = json.loads(json.dumps({name: info[name] for name in KEPT}))
    kept["description"] = " ".join(kept["description"].split())
    kept["input"] = json.loads(json.dumps(info["input"]))
    for sockets in kept["input"].values():
        for name, socket in sockets.items():
            if name in BY_FOLDER:
                socket[1]["options"] = "what is in folders"
    return kept


def of_standin(schema):
    """The same from a schema of the stand-in API."""
    outputs = schema.outputs
    sockets = {"required": {each.id: _socket(each) for each in schema.inputs if not each.optional}}
    if optional := {each.id: _socket(each) for each in schema.inputs if each.optional}:
        sockets["optional"] = optional
    hidden = [fact.name for fact in schema.hidden]
    hidden += [name for name in OUTPUT_HIDDEN if schema.is_output_node and name not in hidden]
    if hidden:
        sockets["hidden"] = {name: [name.upper()] for name in hidden}
    info = {
        "name": schema.node_id,
        "display_name": schema.display_name,
        "category": schema.category,
        "description": schema.description,
        "output": [each.get_io_type() for each in outputs],
        "output_name": [each.display_name or each.get_io_type() for each in outputs],
        "output_is_list": [each.is_output_list for each in outputs],
        "output_tooltips": [each.tooltip for each in outputs],
        "output_node": schema.is_output_node,
        "input": sockets,
    }
    return told(info)


PAGE_NAMES = {"force_input": "forceInput", "dynamic_prompts": "dynamicPrompts", "display_mode": "display"}
NOT_TOLD = {"id", "optional", "extra_dict", "upload", "types"}


def _socket(socket):
    """[type, settings]: those that were made, under the names that the page knows."""
    made = {name: value for name, value in vars(socket).items() if name not in NOT_TOLD and value is not None}
    settings = {PAGE_NAMES.get(name, name): value for name, value in made.items()} | socket.extra_dict
    if socket.get_io_type() == "COMBO":
        settings["multiselect"] = False
    return [socket.get_io_type(), settings]
