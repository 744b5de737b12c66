"""Looks for models in a folder."""

from __future__ import annotations

from pathlib import Path


def at_most_two_levels_below(root: Path, marker: str = "") -> list[Path]:
    """Return what is at most two levels below `root`, as `publisher/model` or `model`.

    marker: name of a file; then the files of that name inside such folders are returned
    """
    return [path for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{marker}" if marker else pattern)]
