"""The seam between a batch's driver and what its workers run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..rows import Row

GPU_LOST = "can use its GPU no more"
"""Beginning of the text of a worker that died by an error after which a process can use its GPU no more."""
SILENT_SECONDS = 600.0
"""Seconds without a sign of life after which a worker counts as hanging: it is ended, and its unit runs on another.
Reading a large file, or compiling, may keep Python from running other threads for minutes."""
HANGING = f"gave no sign of life for {SILENT_SECONDS:.0f} s and was ended"


@dataclass(frozen=True)
class Event:
    """One thing that happened on a worker.

    kind:   started, done, failed: of a row; ended: of a unit, with rows left where another driver has them; full:
            results cannot be written; died: the worker, with its unit, or one that must be replaced; broken: the worker
            cannot start at all; remark: something a user should know
    folder: of the row, '' where no row is meant
    text:   the reason
    """

    worker: str
    kind: Literal["started", "done", "failed", "ended", "full", "died", "broken", "remark"]
    folder: str = ""
    text: str = ""
    seconds: float = 0.0


class Engine(Protocol):
    """Workers on which units run. A worker that died is replaced when it is given the next unit."""

    def free(self) -> Sequence[str]:
        """Return the workers without a unit."""

    def submit(self, worker: str, rows: Sequence[Row]) -> None:
        """Let a free worker run the rows of a unit."""

    def results(self, seconds: float) -> Sequence[Event]:
        """Return what has happened, in order; waits for at most so long until something does."""

    def cancel(self) -> None:
        """End all workers; what they were at is lost."""
