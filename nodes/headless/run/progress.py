"""Shows a run on a terminal: one line per node, and a bar while it works."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from torch import Tensor

from ....fatezero_ext.printable import visible

BRIEF = 0.05
"""Seconds below which a node's time is not shown."""
PACE_SECONDS = 1200.0
"""Seconds over which the pace is taken that the time left follows from: a step of a long clip takes minutes."""


class TimeLeft(TimeRemainingColumn):
    """The time that the rest of a node's work will take; nothing where that is not known yet."""

    def render(self, task: Task) -> Text:
        """Write it, such as "0:12:30 left"."""
        if task.total is None or task.finished or task.time_remaining is None:
            return Text("")
        return super().render(task).append(" left")


class Bar:
    """The bar of one node's own work."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def update(self, step: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Move the bar to `step`; the terminal shows no previews."""
        if step < self._bars.tasks[self._bars.task_ids.index(self._task)].completed:  # work that is done once more
            self._bars.reset(self._task, completed=step)
        else:
            self._bars.update(self._task, completed=step)


class Reporter:
    """Shows what runs. On a terminal the running node has a bar; elsewhere there are only plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeft(),
        )
        self._bars = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=PACE_SECONDS,
        )
        self._tasks: list[TaskID] = []  # a node that puts others in its place runs around them

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, label: str, number: int, count: int) -> None:
        """Show the node as running."""
        self._tasks.append(self._bars.add_task(visible(f"[{number}/{count}] {label}"), total=None))

    def bar(self, total: int) -> Bar:
        """Give the running node a bar of `total` steps."""
        task = self._tasks[-1] if self._tasks else self._bars.add_task("working")
        self._bars.update(task, total=total, completed=0)
        return Bar(self._bars, task)

    def ended(self, label: str, seconds: float, *, reused: bool) -> None:
        """Replace the running node by a line that says how long it took."""
        if self._tasks:
            self._bars.remove_task(self._tasks.pop())
        took = "unchanged" if reused else f"{seconds:.1f} s" if seconds >= BRIEF else ""
        self.say(f"{label}  {took}".rstrip())

    def say(self, text: str) -> None:
        """Print lines above the bar; what would steer the terminal is shown, not sent."""
        self.console.print(escape(visible(text, keep="\n")), highlight=False, emoji=False, soft_wrap=True)
