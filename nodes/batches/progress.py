"""Progress of a batch: a line at most once a second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...fatezero_ext.printable import visible

LINE_SECONDS = 1.0
STARTING = "starting"
"""State of a worker before its first row and of a driver before its first worker: libraries load, up to a minute."""
LEAST_DONE = 2
"""Rows after which the time left is estimated."""


@dataclass
class Counts:
    """Counts of a batch.

    rows:    all rows of the plan
    done:    with results, before this run and in it
    failed:  failed, set aside, or not valid
    here:    done or failed by this driver in this run
    running: by worker, the folder of its row, or `STARTING`
    """

    rows: int
    done: int = 0
    failed: int = 0
    here: int = 0
    running: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        """Return the rows that have neither results nor a failure."""
        return self.rows - self.done - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate for the rows that are left; None where too few are done."""
        if self.here < LEAST_DONE:
            return None
        return self.left * (time.monotonic() - self.began) / self.here

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for the heartbeat."""
        return {"running": dict(self.running), "here": self.here, "seconds_left": self.seconds_left}


def counted(count: int, what: str) -> str:
    """Return a number of things: "1 row", "2 rows"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def summary(rows: int, done: int, failed: int, seconds_left: float | None) -> str:
    """Return the line of a batch."""
    text = f"{done} of {counted(rows, 'row')} done, {failed} failed, {rows - done - failed} left"
    return text if seconds_left is None or rows == done + failed else f"{text}, about {duration(seconds_left)}"


def duration(seconds: float) -> str:
    """Format a time: "50 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def worker_line(running: Mapping[str, str]) -> str:
    """Return what each worker is at."""
    return "; ".join(f"{name}: {folder}" for name, folder in sorted(running.items()) if folder)


class ProgressLines:
    """Shows counts: on a terminal in place, elsewhere one plain line a second at most, and only new ones."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=1, transient=True) if console.is_terminal else None
        self._last: float = -LINE_SECONDS
        self._shown: tuple[object, ...] = ()

    def __enter__(self) -> ProgressLines:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with suppress(Exception):
                self._live.stop()

    def show(self, counts: Counts, *, now: bool = False) -> None:
        """Show counts; now: also where the last line is younger than a second."""
        if not now and time.monotonic() - self._last < LINE_SECONDS:
            return
        news = counts.done, counts.failed, *counts.running.items()
        if self._live is None and news == self._shown:
            return
        text = summary(counts.rows, counts.done, counts.failed, counts.seconds_left)
        running = worker_line(counts.running)
        whole = visible(f"{text}. {running}" if running else text)
        self._last, self._shown = time.monotonic(), news
        if self._live is not None:
            self._live.update(Text(whole))
        else:
            self.say(whole)

    def say(self, text: str) -> None:
        """Write lines that stay."""
        self._console.print(Text(visible(text, keep="\n")), soft_wrap=True)
