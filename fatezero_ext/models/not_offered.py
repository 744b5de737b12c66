"""Refusals, in words, of what ComfyUI's nodes ask of a CLIP or VAE and only ComfyUI's own objects have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NoReturn

from ..errors import NotOfferedError


class RefusesByName:
    """Refuses some attributes with an error that says what to do instead.

    part, comfy_name: what this object is, and ComfyUI's name for its own kind
    remedies:         what to do instead, by the attribute's name
    """

    part: ClassVar[str]
    comfy_name: ClassVar[str]
    remedies: ClassVar[Mapping[str, str]]

    def __getattr__(self, name: str) -> NoReturn:
        if name in self.remedies:
            raise NotOfferedError(
                f"a node asks the {self.part} of Load Stable Diffusion for Video for {name!r}, which only ComfyUI's "
                f"own {self.comfy_name} has; {self.remedies[name]}."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
