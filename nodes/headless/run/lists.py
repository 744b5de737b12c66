"""Lists between nodes, by ComfyUI's rules: a node runs once per item, unless it asks for whole lists.

Every output is a list here, usually of one item. A constant is a list of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...api import io
from ..problems import NodeFailed
from ..schemas.registry import NodeType, takes_lists

Lists = Mapping[str, Sequence[Any]]


def calls_for(node_type: NodeType, inputs: Lists, label: str) -> list[dict[str, Any]]:
    """Return the arguments of each call that these inputs ask for.

    The longest list decides how many calls there are; shorter ones repeat their last item. A node with
    `is_input_list` is called once, with every input as a list.
    Raises NodeFailed where a list is empty, because there is no item to call the node with.
    """
    if takes_lists(node_type):
        return [{name: list(items) for name, items in inputs.items()}]
    for name, items in inputs.items():
        if not items:
            raise NodeFailed(
                f"{label} input '{name}': the list it is linked to is empty; at least one item is needed. "
                f"Check the node that makes the list."
            )
    count = max((len(items) for items in inputs.values()), default=1)
    return [{name: items[min(i, len(items) - 1)] for name, items in inputs.items()} for i in range(count)]


def joined_outputs(node_type: NodeType, returned: Sequence[io.NodeOutput], label: str) -> tuple[tuple[Any, ...], ...]:
    """Return one list per output over all calls; a call's own list is taken apart where the output `is_output_list`."""
    sockets = node_type.schema.outputs or ()
    for output in returned:
        if len(output.args) != len(sockets):
            raise NodeFailed(
                f"{label}: the node returned {len(output.args)} outputs where its schema has {len(sockets)}. "
                f"Correct the node's code."
            )
    return tuple(
        tuple(item for output in returned for item in output.args[slot])
        if socket.is_output_list
        else tuple(output.args[slot] for output in returned)
        for slot, socket in enumerate(sockets)
    )


def joined_shown(returned: Sequence[io.NodeOutput]) -> dict[str, Any]:
    """Join what the calls show: under each key of the first one that shows anything, the entries of all."""
    shown = [output.ui for output in returned if isinstance(output.ui, dict)]
    if len(shown) < 2:
        return dict(shown[0]) if shown else {}
    return {key: tuple(entry for ui in shown for entry in ui.get(key, ())) for key in shown[0]}
