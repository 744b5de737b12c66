"""The driver: gives units to workers until every row has results or a failure, whatever dies."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .drivers import Driver
from .engines.seam import GPU_LOST, Engine, Event
from .folder import MOST_DEATHS, BatchFolder
from .problems import BatchStopped
from .progress import STARTING, Counts, ProgressLines
from .rows import Row, Unit

POLL_SECONDS = 0.5
"""Seconds for which the driver waits for its workers before it looks around."""
OTHERS_SECONDS = 2.0
"""Seconds between looks at the units of other drivers."""
REPORT_SECONDS = 60.0
REPORT_SHARE = 20
"""Times what a report took that pass before the next, so that a large one does not keep the driver from its work."""
LOSSES_IN_A_ROW = 5
"""Times that a worker may lose its GPU without a row done between, before it gets no more units to fail at."""


@dataclass
class Run:
    """One driver's work on a batch.

    todo:   units that no worker of this driver has
    at:     by worker, the rows of its unit that have neither results nor a failure yet, and the one that runs
    awake:  workers that have begun a row, so that what follows begins at once
    losses: by worker, how often it lost its GPU since its last row that was done
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
    awake: set[str] = field(default_factory=set)
    losses: Counter[str] = field(default_factory=Counter)
    _looked: float = 0.0
    _report_at: float = 0.0  # at once: the last run may have died before it wrote one

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
            if time.monotonic() >= self._report_at:
                self._renew_report()
        self.lines.show(self.counts, now=True)

    def _renew_report(self) -> None:
        """Write the report, one driver for all; what it takes is small beside what runs until the next."""
        began = time.monotonic()
        if min(self.driver.living(), default=self.driver.id) == self.driver.id:
            try:
                self.report()
            except OSError as error:
                self.lines.say(f"The report could not be written ({error}); the batch goes on.")
        now = time.monotonic()
        self._report_at = now + max(REPORT_SECONDS, REPORT_SHARE * (now - began))

    def _give(self) -> None:
        """Give a unit to each free worker, as far as there are units that nobody else has."""
        everyone = self.engine.free()
        free = [name for name in everyone if self.losses[name] < LOSSES_IN_A_ROW]
        if everyone and not free and not self.at:
            raise BatchStopped(
                f"the GPU of each worker failed {LOSSES_IN_A_ROW} times in a row without a row done. Rows that are "
                f"done are kept; see to the GPU, then run the same command again."
            )
        if not free or time.monotonic() - self._looked < OTHERS_SECONDS:
            return
        for worker in free:
            unit = self._next()
            if unit is None:
                return
            self.at[worker] = unit, list(unit.rows)
            if worker not in self.awake:
                self.counts.running[worker] = STARTING
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
                if again := self._without_deadly(again):
                    return Unit(unit.key, tuple(again))
            else:
                self.todo.append(Unit(unit.key, tuple(left)))
        if self.todo:
            self._looked = time.monotonic()
        return None

    def _without_deadly(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of a unit that has become this driver's; those at which another driver died come last.

        Memory that runs out may take the driver with its workers, so this counts as a death of a worker.
        """
        running, rest, last = self.folder.running(), [], []
        for row in rows:
            if running.get(row.key, self.driver.id) == self.driver.id:
                rest.append(row)
            elif not self._set_aside(row, "died with its driver"):
                last.append(row)
        return [*rest, *last]

    def _set_aside(self, row: Row, reason: str) -> bool:
        """Count a death of a worker at a row; returns whether the row is set aside now."""
        deaths = self.folder.count_death(row, reason)
        self.folder.end(row)
        if deaths < MOST_DEATHS:
            return False
        text = f"{MOST_DEATHS} workers died while they ran it, so it is set aside; the last {reason}."
        self.folder.write_failure(row, {"error": text, "traceback": "", "seconds": 0.0, "set_aside": True})
        self.counts.here += 1
        self.counts.failed += 1
        self.lines.say(f"Set aside: {row.folder}: {text}")
        return True

    def _count_others(self, before: Sequence[Row], left: Sequence[Row]) -> None:
        """Count what other drivers have done."""
        names = {row.folder for row in left}
        for row in before:
            if row.folder not in names:
                failed = self.folder.is_failed(row)
                self.counts.failed += failed
                self.counts.done += not failed

    def _take(self, event: Event) -> None:
        unit, left = self.at.get(event.worker, (None, []))
        if event.kind == "started":
            self.counts.running[event.worker] = event.folder
            self.awake.add(event.worker)
        elif event.kind in ("done", "failed"):
            left[:] = [row for row in left if row.folder != event.folder]
            self.counts.here += 1
            if event.kind == "done":
                self.counts.done += 1
                self.losses[event.worker] = 0
            self.counts.failed += event.kind == "failed"
            if event.kind == "failed":
                self.lines.say(f"Failed: {event.folder}: {event.text}")
            self.counts.running[event.worker] = ""
        elif event.kind == "ended":
            self.at.pop(event.worker, None)
            self.counts.running.pop(event.worker, None)
            if unit is not None and left:  # another driver has taken this one for dead, and has them
                self.todo.append(Unit(unit.key, tuple(left)))
        elif event.kind == "remark":
            self.lines.say(event.text)
        elif event.kind == "full":
            raise BatchStopped(
                f"{event.text}; rows that are done are kept. See to it, then run the same command again."
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
        self.awake.discard(event.worker)
        self.losses[event.worker] += GPU_LOST in event.text
        running = self.counts.running.pop(event.worker, "")
        row = next((row for row in left if row.folder == running), None)
        self.lines.say(f"{event.worker} {event.text}" + (f"; it ran {running}" if row else ""))
        if unit is None:
            return
        if row is not None and not self.folder.still_left([row]):  # it was done, and nobody heard of it
            left.remove(row)
            self.folder.end(row)
            self.counts.here += 1
            self._count_others([row], [])
            row = None
        rest = [each for each in left if each is not row]
        if row is not None and not self._set_aside(row, event.text):
            rest.append(row)
        if rest:
            self.todo.appendleft(Unit(unit.key, tuple(rest)))
