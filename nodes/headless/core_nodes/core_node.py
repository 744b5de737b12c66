"""The base of the stand-ins: a node whose schema is a value."""

from __future__ import annotations

from typing import ClassVar

from ...api import io


class CoreNode(io.ComfyNode):
    """A stand-in for a core node: its schema, and `execute`.

    CORE_SCHEMA: ComfyUI's id, sockets and ranges. Lists of files are open, `validate_inputs` looks for the file.
    """

    CORE_SCHEMA: ClassVar[io.Schema]

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the class's schema."""
        return cls.CORE_SCHEMA
