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
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, source: Any) -> io.NodeOutput:  # noqa: ANN401 - shows anything
        """The text that ComfyUI makes of it, shown and handed on."""
        text = _as_text(source)
        return io.NodeOutput(text, ui={"text": (text,)})


def _as_text(value: Any) -> str:  # noqa: ANN401 - any value has a text
    """Text as it is, numbers as Python writes them, other values as JSON where they have one."""
    if value is None or isinstance(value, (str, int, float)):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


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
            outputs=[io.Image.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        """images: [frames, height, width, channels]."""
        frames, height, width = images.shape[:3]
        return io.NodeOutput(images, ui={"text": (f"{frames} pictures of {width}x{height}, not saved",)})
