"""Drivers of one batch: who is alive, and who works on which unit. They share a folder, and need no server.

Each driver writes a heartbeat into a file of its own. A claim of a unit is a file that is created once and never
changed: UNIT.0, and UNIT.1 by the driver that takes it over when the first has died, and so on. The driver named in the
highest one works on the unit. Nothing depends on locks of the file system or on equal clocks: a driver of another
machine counts as dead when its heartbeat did not change, or could not be read, for a minute of the watcher's own time.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .folder import BatchFolder, create_once, json_of, write_json

BEAT_SECONDS = 2.0
DEAD_SECONDS = 60.0
"""Seconds without a heartbeat after which a driver of another machine counts as dead: longer than what network file
systems keep in their caches by default, 30 to 60 s for folders and 3 to 60 s for files, which are opened anew here."""

RETRY_SECONDS = 0.05
"""Seconds after which a claim that another has made is looked at; network file systems may not show it at once."""


START_FIELD = 19
"""Place of starttime behind the name in /proc/PID/stat (proc(5): field 22; the name is field 2)."""


def this_machine() -> str:
    """Return a name for all whose process numbers mean the same: host, boot and container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def began(pid: int) -> float | None:
    """Return when a process of this machine began; None where it is none or has ended.

    In the kernel's ticks since the machine started where there is /proc: seconds since 1970, as elsewhere, would change
    with the clock.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError, IndexError):
            return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[START_FIELD])
        return process.create_time()
    except psutil.Error:
        return None


@dataclass
class Driver:
    """This driver: its heartbeat, and its claims.

    dead_seconds: see DEAD_SECONDS
    state: what `batch status` shows of it
    """

    folder: BatchFolder
    dead_seconds: float = DEAD_SECONDS
    state: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _seen: dict[str, tuple[Any, float]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)
    _beats: int = 0

    def __enter__(self) -> Driver:
        self._beat()
        threading.Thread(target=self._beat_on, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self._beat(ended=True)

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a full disk or a network that is away for a moment
                self._beat()

    def _beat(self, *, ended: bool = False) -> None:
        self._beats += 1
        about = {"id": self.id, "machine": this_machine(), "pid": os.getpid(), "began": began(os.getpid())}
        write_json(self._file(self.id), {**about, "beat": self._beats, "ended": ended, **self.state})

    def _file(self, driver: str) -> Path:
        return self.folder.own / "drivers" / f"{driver}.json"

    def is_alive(self, driver: str) -> bool:
        """Return whether a driver is at work, as far as this one can know."""
        if driver == self.id:
            return True
        found = json_of(self._file(driver)) or {}  # {}: no news; network file systems lose a file that is replaced
        if found.get("ended"):
            return False
        if found.get("machine") == this_machine():
            return began(int(found["pid"])) == found["began"]
        beat, now = found.get("beat"), time.monotonic()
        if driver not in self._seen or beat not in (None, self._seen[driver][0]):
            self._seen[driver] = (beat, now)
            return True
        return now - self._seen[driver][1] < self.dead_seconds

    def claim(self, unit: str) -> bool:
        """Claim a unit; returns whether it is this driver's now. False where a living driver has it."""
        while True:
            number, holder = self._highest(unit)
            if holder == self.id:
                return True
            if holder is not None and (self._is_new(unit, number) if not holder else self.is_alive(holder)):
                return False
            if not create_once(self._claim(unit, number + 1), self.id):
                time.sleep(RETRY_SECONDS)

    def _is_new(self, unit: str, number: int) -> bool:
        """Return whether a claim without a driver may get one yet: without links it is written in two steps."""
        now = time.monotonic()
        return now - self._seen.setdefault(f"{unit}.{number}", (None, now))[1] < self.dead_seconds

    def _highest(self, unit: str) -> tuple[int, str | None]:
        """Return number and driver of the claim that counts; -1 and None where there is none."""
        number, holder = -1, None
        while True:
            try:
                holder = self._claim(unit, number + 1).read_text(encoding="utf-8")
            except FileNotFoundError:
                return number, holder
            number += 1

    def _claim(self, unit: str, number: int) -> Path:
        return self.folder.own / "claims" / f"{unit}.{number}"

    def living(self) -> list[str]:
        """Return the ids of all drivers at work."""
        files = (self.folder.own / "drivers").glob("*.json")
        return [path.stem for path in files if not path.name.startswith(".") and self.is_alive(path.stem)]
