"""Stand-ins for the core nodes that show a value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...api import io

if TYPE_CHECKING:
    from torch import Tensor


class PreviewAny(io.ComfyNode):
    """Prints any value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="PreviewAny",
            display_name="Preview Any",
            category="utils",
            inputs=[io.AnyType.Input("source")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any) -> io.NodeOutput:  # noqa: ANN401 - shows anything
        """Text as it is, other values as JSON where they have one."""
        text = source if isinstance(source, str) else json.dumps(source, default=str)
        return io.NodeOutput(ui={"text": (text,)})


class PreviewImage(io.ComfyNode):
    """Says what pictures arrived; a terminal shows none, and nothing is saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            inputs=[io.Image.Input("images")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        """images: [frames, height, width, channels]."""
        frames, height, width = images.shape[:3]
        return io.NodeOutput(ui={"text": (f"{frames} pictures of {width}x{height}, not saved",)})
