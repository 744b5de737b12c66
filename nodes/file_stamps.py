"""Stamps by which a file that has changed is known."""

from __future__ import annotations

from pathlib import Path


def file_stamp(path: Path) -> list[str | int]:
    """Return path, size in bytes and time of the last change in nanoseconds; the file is not opened."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]
