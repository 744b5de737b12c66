"""The base of the stand-ins: a node whose schema is a value."""

from __future__ import annotations

from typing import ClassVar

from ... import host
from ...api import io
from .naming import prefix_verdict


class CoreNode(io.ComfyNode):
    """A stand-in for a core node: its schema, and `execute`.

    CORE_SCHEMA: ComfyUI's id, sockets and ranges. Lists of files are open, `validate_inputs` looks for the file.
    """

    CORE_SCHEMA: ClassVar[io.Schema]

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the class's schema."""
        return cls.CORE_SCHEMA


class SavingNode(CoreNode):
    """A stand-in for a core node that saves files below the output folder."""

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse names that lead out of the output folder, before anything runs."""
        return prefix_verdict(host.current().output_directory(), filename_prefix)
