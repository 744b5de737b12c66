"""Write locales/en/nodeDefs.json from the nodes' schemas: `python docs/make_locale.py`, from the checkout.

Other languages are written by hand with the same keys; tests/nodes/test_help.py compares them with this one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout need not be installed

from fatezero_ext.cli.node_pack import load_pack  # noqa: E402

LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"


def schemas() -> list[Any]:
    """The schema of each node, in the order of a typical graph."""
    nodes = load_pack("nodes")
    return [node.GET_SCHEMA() for node in asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())]


def node_texts(schema: Any) -> dict[str, Any]:  # noqa: ANN401 - an io.Schema
    """What ComfyUI can translate of a node. Values of combos are left out: workflows hold them as they are.

    An output without a name of its own is called by its type, which ComfyUI translates itself.
    """
    inputs = {socket.id: _texts(socket.display_name or socket.id, socket.tooltip) for socket in schema.inputs}
    outputs = {str(place): _texts(socket.display_name, socket.tooltip) for place, socket in enumerate(schema.outputs)}
    texts = {"display_name": schema.display_name, "description": " ".join(schema.description.split()), "inputs": inputs}
    named = {place: found for place, found in outputs.items() if found}
    return {**texts, "outputs": named} if named else texts


def _texts(name: str | None, tooltip: str | None) -> dict[str, str]:
    return {key: value for key, value in (("name", name), ("tooltip", tooltip)) if value}


def locale() -> dict[str, Any]:
    """The English locale: node id -> its texts."""
    return {schema.node_id: node_texts(schema) for schema in schemas()}


def as_text(texts: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    LOCALE.parent.mkdir(parents=True, exist_ok=True)
    LOCALE.write_text(as_text(locale()), encoding="utf-8")
