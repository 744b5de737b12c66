"""Names of the files that a tuning run writes."""

from __future__ import annotations

from pathlib import Path

ENDING = ".tuning.safetensors"
"""Ending of the file beside the result's folder, behind the folder's name."""
LESSONS_FILE = "tuning.safetensors"
"""File in the result's folder with what it has learnt from."""
RECORD = "tuning.json"
"""File in the result's folder that says how it was made."""


def state_file(folder: Path) -> Path:
    """Return the file of a run's state: beside the folder of its result."""
    return folder.with_name(folder.name + ENDING)


def is_of_run(path: Path) -> bool:
    """Return whether a file of weights is a run's state or what it learnt from, and no model."""
    return path.name.endswith(ENDING) or (path.name == LESSONS_FILE and (path.parent / RECORD).exists())
