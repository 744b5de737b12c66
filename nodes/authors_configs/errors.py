"""Errors of configs that cannot be converted."""

from __future__ import annotations

from ...fatezero_ext.errors import FateZeroError


class ConfigError(FateZeroError):
    """A config of the authors' program cannot be read, or asks for what is not offered here."""


KeyPath = tuple[str | int, ...]


def dotted(path: KeyPath) -> str:
    """Write the path with dots: ("p2p_config", 0, "blend_th") -> "p2p_config.0.blend_th"."""
    return ".".join(str(part) for part in path)
