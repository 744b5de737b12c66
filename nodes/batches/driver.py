"""The driver: gives units to workers until every row has results or a failure, whatever dies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .drivers import Driver
from .engines.seam import Engine, Event
from .folder import MOST_DEATHS, BatchFolder
from .problems import BatchStopped
from .progress import Counts, ProgressLines
from .rows import Row, Unit

POLL_SECONDS = 0.5
"""Seconds for which the driver waits for its workers before it looks around."""
OTHERS_SECONDS = 2.0
"""Seconds between looks at the units of other drivers."""
REPORT_SECONDS = 60.0


@dataclass
class Run:
    """One driver's work on a batch.

    todo:   units that no worker of this driver has
    at:     by worker, the rows of its unit that have neither results nor a failure yet, and the one that runs
    report: writes the report
    """

    folder: BatchFolder
    driver: Driver
    engine: Engine
    counts: Counts
    lines: ProgressLines
    report: Callable[[], None]
    todo: deque[Unit] = field(default_factory=deque)
    at: dict[str, tuple[Unit, list[Row]]] = field(default_factory=dict)
    _looked: float = 0.0
    _reported: float = field(default_factory=time.monotonic)

    def all(self) -> None:
        """Run every unit. Raises BatchStopped where nothing can go on, such as on a full disk."""
        while self.todo or self.at:
            self._give()
            events = self.engine.results(POLL_SECONDS if self.at else 0.0)
            for event in events:
                self._take(event)
            if not self.at and not events and self.todo:
                time.sleep(OTHERS_SECONDS)  # other drivers have the rest
                self._looked = 0.0
            self.driver.state = self.counts.plain()
            self.lines.show(self.counts)
            if time.monotonic() - self._reported > REPORT_SECONDS:
                self.report()
                self._reported = time.monotonic()
        self.lines.show(self.counts, now=True)

    def _give(self) -> None:
        """Give a unit to each free worker, as far as there are units that nobody else has."""
        free = self.engine.free()
        if not free or time.monotonic() - self._looked < OTHERS_SECONDS:
            return
        for worker in free:
            unit = self._next()
            if unit is None:
                return
            self.at[worker] = unit, list(unit.rows)
            self.engine.submit(worker, unit.rows)

    def _next(self) -> Unit | None:
        """Take the next unit that this driver may work on, with the rows that are left of it."""
        for _ in range(len(self.todo)):
            unit = self.todo.popleft()
            left = self.folder.still_left(unit.rows)
            self._count_others(unit.rows, left)
            if not left:
                continue
            if self.driver.claim(unit.key):
                again = self.folder.still_left(left)  # the one that had it may have finished meanwhile
                self._count_others(left, again)
                if again:
                    return Unit(unit.key, tuple(again))
            else:
                self.todo.append(Unit(unit.key, tuple(left)))
        if self.todo:
            self._looked = time.monotonic()
        return None

    def _count_others(self, before: Sequence[Row], left: Sequence[Row]) -> None:
        """Count what other drivers have done."""
        for row in before:
            if row not in left:
                failed = self.folder.is_failed(row)
                self.counts.failed += failed
                self.counts.done += not failed

    def _take(self, event: Event) -> None:
        unit, left = self.at.get(event.worker, (None, []))
        if event.kind == "started":
            self.counts.running[event.worker] = event.folder
        elif event.kind in ("done", "failed"):
            left[:] = [row for row in left if row.folder != event.folder]
            self.counts.here += 1
            self.counts.done += event.kind == "done"
            self.counts.failed += event.kind == "failed"
            if event.kind == "failed":
                self.lines.say(f"Failed: {event.folder}: {event.text}")
            self.counts.running[event.worker] = ""
        elif event.kind == "ended":
            self.at.pop(event.worker, None)
            if unit is not None and left:  # rows that the worker did not speak of
                self.todo.append(Unit(unit.key, tuple(left)))
        elif event.kind == "full":
            raise BatchStopped(
                f"no space is left for {event.folder} ({event.text}); rows that are done are kept. Free some space, "
                f"then run the same command again."
            )
        elif event.kind == "broken":
            raise BatchStopped(
                f"workers cannot run here: {event.text.strip()}. Correct that, then run the command again."
            )
        else:
            self._died(event, unit, left)

    def _died(self, event: Event, unit: Unit | None, left: list[Row]) -> None:
        """Give the rest of a dead worker's unit to another; the row that killed it comes last, or is set aside."""
        self.at.pop(event.worker, None)
        running = self.counts.running.pop(event.worker, "")
        row = next((row for row in left if row.folder == running), None)
        self.lines.say(f"{event.worker} {event.text}" + (f"; it ran {running}" if row else ""))
        if unit is None:
            return
        if row is not None and not self.folder.still_left([row]):  # it was done, and nobody heard of it
            left.remove(row)
            self.counts.here += 1
            self._count_others([row], [])
            row = None
        rest = [each for each in left if each is not row]
        again = row is not None and self.folder.count_death(row, event.text) < MOST_DEATHS
        if again and row is not None:
            rest.append(row)
        if rest:
            self.todo.appendleft(Unit(unit.key, tuple(rest)))
        if row is None or again:
            return
        text = f"{MOST_DEATHS} workers died while they ran it, so it is set aside; the last {event.text}."
        self.folder.write_failure(row, {"error": text, "traceback": "", "seconds": 0.0, "set_aside": True})
        self.counts.here += 1
        self.counts.failed += 1
        self.lines.say(f"Set aside: {row.folder}: {text}")

    def stop(self) -> None:
        """End the workers."""
        with suppress(OSError):
            self.engine.cancel()
