"""ComfyUI's node API inside ComfyUI, at the version this pack was written for, and a small stand-in for it elsewhere.

Nodes import `io` and `ComfyExtension` from here, build their schema with `schema(...)` and mark rarely used widgets
with `advanced(...)`: the two functions hide what differs between versions of ComfyUI.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from . import api_fallback as io
    from .api_fallback import ComfyExtension, GraphBuilder

    IN_COMFYUI: bool
    InputImpl: Any
else:
    try:
        try:
            from comfy_api.v0_0_2 import ComfyExtension, InputImpl, io
        except ImportError:  # a ComfyUI that no longer has, or does not yet have, this version
            from comfy_api.latest import ComfyExtension, InputImpl, io
        from comfy_execution.graph_utils import GraphBuilder

        IN_COMFYUI = True
    except ModuleNotFoundError as missing:
        if missing.name != "comfy_api":
            raise
        from . import api_fallback as io
        from .api_fallback import ComfyExtension, GraphBuilder

        IN_COMFYUI, InputImpl = False, None

__all__ = ["IN_COMFYUI", "ComfyExtension", "GraphBuilder", "InputImpl", "advanced", "io", "schema"]

Socket = TypeVar("Socket", bound="io.Input")


def schema(*, node_id: str, **settings: Any) -> io.Schema:  # noqa: ANN401 - settings have the types of io.Schema
    """Make an `io.Schema`, without the settings that the running version does not know.

    Older versions raise TypeError on an unknown setting and then drop the whole pack.
    """
    known = {entry.name for entry in fields(io.Schema)}
    if "description" in settings:
        settings["description"] = " ".join(settings["description"].split())  # docstrings are broken into lines
    return io.Schema(node_id=node_id, **{name: value for name, value in settings.items() if name in known})


def advanced(widget: Socket) -> Socket:
    """Mark a widget as one that newer versions of ComfyUI show only on request; returns the widget itself."""
    widget.extra_dict = {**widget.extra_dict, "advanced": True}
    return widget
