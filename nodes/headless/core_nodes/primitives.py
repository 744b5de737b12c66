"""Stand-ins for the core nodes that hold one value."""

from __future__ import annotations

import sys
from typing import Any

from ...api import io


class PrimitiveString(io.ComfyNode):
    """Gives a line of text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return _schema("PrimitiveString", "String", io.String, io.String.Input("value"))

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        """Hand the text on."""
        return io.NodeOutput(value)


class PrimitiveStringMultiline(io.ComfyNode):
    """Gives a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        widget = io.String.Input("value", multiline=True)
        return _schema("PrimitiveStringMultiline", "String (Multiline)", io.String, widget)

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        """Hand the text on."""
        return io.NodeOutput(value)


class PrimitiveInt(io.ComfyNode):
    """Gives a whole number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        widget = io.Int.Input("value", min=-sys.maxsize, max=sys.maxsize, control_after_generate=True)
        return _schema("PrimitiveInt", "Int", io.Int, widget)

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        """Hand the number on."""
        return io.NodeOutput(value)


class PrimitiveFloat(io.ComfyNode):
    """Gives a number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        widget = io.Float.Input("value", min=-sys.maxsize, max=sys.maxsize, step=0.1)
        return _schema("PrimitiveFloat", "Float", io.Float, widget)

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        """Hand the number on."""
        return io.NodeOutput(value)


class PrimitiveBoolean(io.ComfyNode):
    """Gives true or false."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return _schema("PrimitiveBoolean", "Boolean", io.Boolean, io.Boolean.Input("value"))

    @classmethod
    def execute(cls, value: bool) -> io.NodeOutput:
        """Hand the value on."""
        return io.NodeOutput(value)


def _schema(node_id: str, name: str, kind: Any, widget: io.Input) -> io.Schema:  # noqa: ANN401 - a socket type
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category="utils/primitive",
        inputs=[widget],
        outputs=[kind.Output()],
    )


PRIMITIVE_NODES = (PrimitiveString, PrimitiveStringMultiline, PrimitiveInt, PrimitiveFloat, PrimitiveBoolean)
