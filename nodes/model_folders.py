"""Looks for models in a folder."""

from __future__ import annotations

from pathlib import Path


def at_most_two_levels_below(root: Path, marker: str = "") -> list[Path]:
    """Return what is at most two levels below `root`, as `publisher/model` or `model`; hidden folders are left out.

    marker: name of a file; then the files of that name inside such folders are returned
    """
    found = (path for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{marker}" if marker else pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
