"""Stand-ins for the core nodes that show a value."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ....fatezero_ext.media.streamed import StreamedFrames
from ...api import io
from .core_node import CoreNode

if TYPE_CHECKING:
    from torch import Tensor


class PreviewAny(CoreNode):
    """Prints any value."""

    CORE_SCHEMA = io.Schema(
        "PreviewAny", "Preview Any", "utils", [io.AnyType.Input("source")], [io.String.Output()], is_output_node=True
    )

    @classmethod
    def execute(cls, source: Any) -> io.NodeOutput:  # noqa: ANN401 - shows anything
        """Show the text that ComfyUI makes of the value, and hand it on."""
        text = _as_text(source)
        return io.NodeOutput(text, ui={"text": (text,)})


def _as_text(value: Any) -> str:  # noqa: ANN401 - any value has a text
    """Return text as it is, numbers as Python writes them, and other values as JSON where JSON can hold them."""
    if value is None or isinstance(value, (str, int, float)):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


class PreviewImage(CoreNode):
    """Reports how many pictures arrived and their size; a terminal shows none, and nothing is saved."""

    TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "PreviewImage", "Preview Image", "image", [io.Image.Input("images")], [io.Image.Output()], is_output_node=True
    )

    @classmethod
    def execute(cls, images: Tensor | StreamedFrames) -> io.NodeOutput:
        """images: [frames, height, width, channels]."""
        frames, height, width = images.shape[:3]
        return io.NodeOutput(images, ui={"text": (f"{frames} pictures of {width}x{height}, not saved",)})
