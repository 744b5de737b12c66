"""Status of a batch, for another terminal."""

from __future__ import annotations

from pathlib import Path

from .drivers import Driver
from .folder import BatchFolder, json_of
from .progress import STARTING, summary, worker_line


def status_lines(path: Path) -> list[str]:
    """Return what a batch's folder says of it; raises InvalidPlan where it holds none. Writes nothing."""
    folder = BatchFolder(path)
    plan, rows = folder.rows()
    finished = folder.finished
    failed = sum(bool(row.problems) for row in rows)
    failed += sum(folder.is_failed(row) for row in rows if row.folder in finished)
    done = sum(folder.is_done(row) for row in rows if row.folder in finished)
    watcher = Driver(folder)  # not entered: has no heartbeat
    alive = [json_of(folder.own / "drivers" / f"{name}.json") or {} for name in watcher.living()]
    seconds = [driver["seconds_left"] for driver in alive if driver.get("seconds_left") is not None]
    left = len(rows) - done - failed
    # Each driver estimates as if the rest were its own.
    estimate = 1 / sum(1 / max(each, 1.0) for each in seconds) if seconds and left else None
    lines = [f"{plan}: {summary(len(rows), done, failed, estimate)}"]
    for driver in alive:
        host = str(driver.get("machine", "")).partition("/")[0]
        at = worker_line(driver["running"]) or "waiting" if "running" in driver else STARTING
        lines.append(f"{host}, process {driver.get('pid')}: {at}")
    if not alive and left:
        lines.append("Nobody works on it. Run the command again to go on.")
    return lines
