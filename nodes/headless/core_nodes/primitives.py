"""Stand-ins for the core nodes that hold one value."""

from __future__ import annotations

import sys
from typing import Any

from ...api import io
from .core_node import CoreNode


class _Primitive(CoreNode):
    """Hands the value of its only widget on."""

    @classmethod
    def execute(cls, value: Any) -> io.NodeOutput:  # noqa: ANN401 - of the type of the widget
        return io.NodeOutput(value)


def _schema(node_id: str, name: str, widget: io.Input, output: io.Output) -> io.Schema:
    return io.Schema(node_id, name, "utils/primitive", [widget], [output])


class PrimitiveString(_Primitive):
    """Gives a line of text."""

    CORE_SCHEMA = _schema("PrimitiveString", "String", io.String.Input("value"), io.String.Output())


class PrimitiveStringMultiline(_Primitive):
    """Gives a text."""

    CORE_SCHEMA = _schema(
        "PrimitiveStringMultiline", "String (Multiline)", io.String.Input("value", multiline=True), io.String.Output()
    )


class PrimitiveInt(_Primitive):
    """Gives a whole number."""

    CORE_SCHEMA = _schema(
        "PrimitiveInt",
        "Int",
        io.Int.Input("value", min=-sys.maxsize, max=sys.maxsize, control_after_generate=True),
        io.Int.Output(),
    )


class PrimitiveFloat(_Primitive):
    """Gives a number."""

    CORE_SCHEMA = _schema(
        "PrimitiveFloat",
        "Float",
        io.Float.Input("value", min=-sys.maxsize, max=sys.maxsize, step=0.1),
        io.Float.Output(),
    )


class PrimitiveBoolean(_Primitive):
    """Gives true or false."""

    CORE_SCHEMA = _schema("PrimitiveBoolean", "Boolean", io.Boolean.Input("value"), io.Boolean.Output())


PRIMITIVE_NODES = (PrimitiveString, PrimitiveStringMultiline, PrimitiveInt, PrimitiveFloat, PrimitiveBoolean)
