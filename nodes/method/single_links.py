"""A check for nodes that put others in their place: these read the same links, and so every item of a list at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from ...fatezero_ext.errors import SettingsError

_CALLS: WeakKeyDictionary[Any, dict[str, Mapping[str, int]]] = WeakKeyDictionary()
"""The identities of the first call's values, by running graph and by node."""


def check_single(hidden: Any, values: Mapping[str, object]) -> None:  # noqa: ANN401 - ComfyUI's HiddenHolder
    """Check that no link brings a list: a program calls a node once for each item, and shows it nothing of the others.

    hidden: with the running graph and the node's id
    values: of the linked sockets in this call
    Raises SettingsError at the second item, before any node in its place has run.
    """
    found = {name: id(value) for name, value in values.items()}
    first = _CALLS.setdefault(hidden.dynprompt, {}).setdefault(hidden.unique_id, found)
    if lists := [name for name in found if first.get(name) != found[name]]:
        raise SettingsError(
            f"a list is connected to {' and '.join(lists)}; this node edits one clip with one model at a time. "
            f"Connect one, or build the edit of its single nodes."
        )
