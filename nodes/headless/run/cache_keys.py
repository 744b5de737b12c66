"""Names a node's result by everything it depends on, the way ComfyUI's output cache does."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ....fatezero_ext.printable import visible
from ..graph import Graph, Link, Node
from ..schemas.registry import NodeType, NodeTypes, as_lists, finished

LOG = logging.getLogger(__name__)


def cache_keys(
    graph: Graph, order: list[str], types: NodeTypes, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a key for each node of `order` (sources first): class, constants, fingerprint and the keys of its sources.

    known: the keys of other nodes of the graph, which are returned with the new ones
    Equal keys mean equal results. A node marked `not_idempotent` has its own id in the key.
    """
    keys = dict(known or {})
    for node_id in order:
        node = graph.nodes[node_id]
        node_type = types[node.class_type]
        parts = {
            "class": node.class_type,
            "id": node_id if getattr(node_type.schema, "not_idempotent", False) else None,
            "constants": node.constants,
            "links": {name: [keys[link.node], link.slot] for name, link in node.links.items()},
            "fingerprint": _fingerprint(node, node_type),
        }
        keys[node_id] = _digest(parts)
    return keys


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _fingerprint(node: Node, node_type: NodeType) -> Any:  # noqa: ANN401 - whatever the node returns
    """Return the fingerprint of state outside the graph; as in ComfyUI, an error or NaN means 'never the same'."""
    if not node_type.overrides("fingerprint_inputs"):
        return None
    arguments = {name: None if isinstance(value, Link) else value for name, value in node.inputs.items()}
    try:
        print_ = finished(node_type.node_class.fingerprint_inputs(**as_lists(node_type, arguments)))
    except Exception as error:  # a node may raise anything here; the run itself will show what is wrong
        LOG.warning("%s cannot tell whether it changed (%s); it runs again.", node.label, visible(str(error)))
        return uuid4().hex
    return print_ if print_ == print_ else uuid4().hex
