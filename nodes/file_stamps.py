"""Stamps by which a changed file is noticed."""

from __future__ import annotations

from pathlib import Path


def file_stamp(path: Path) -> list[str | int]:
    """Return path, size in bytes and time of the last change in nanoseconds."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]
