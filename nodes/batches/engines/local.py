"""Workers as processes of this machine: one for each GPU, or several on CPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ....fatezero_ext.cli.node_pack import call_in_pack
from ..rows import Row
from .seam import HANGING, SILENT_SECONDS, Event

ALIVE_SECONDS = 5.0
"""Seconds between signs of life of a worker."""
END_SECONDS = 5.0
BROKEN_STARTS = 3
"""Starts of a worker that end before it runs a row, after which the batch stops."""


@dataclass
class _Process:
    """A running worker."""

    process: BaseProcess
    pipe: Connection
    heard: float
    busy: bool = False
    ready: bool = False


class LocalEngine:
    """Processes, started afresh and not forked: a forked process cannot use the GPU of the one it came from."""

    def __init__(self, setup: Mapping[str, Any], workers: int, devices: Sequence[str] = ()) -> None:
        """setup: plain values of `Setup`; devices: CUDA_VISIBLE_DEVICES of each worker in turn, none for CPUs."""
        self._setup, self._devices = dict(setup), tuple(devices)
        self._names = [f"worker-{number + 1}" for number in range(workers)]
        self._threads = max(1, _cores() // workers)
        self._running: dict[str, _Process] = {}
        self._broken = 0

    def free(self) -> Sequence[str]:
        return [name for name in self._names if name not in self._running or not self._running[name].busy]

    def submit(self, worker: str, rows: Sequence[Row]) -> None:
        found = self._running.get(worker)
        if found is None or not found.process.is_alive():
            found = self._running[worker] = self._started(worker)
        found.busy, found.heard = True, time.monotonic()
        with suppress(OSError):  # it has just died, which `results` will say
            found.pipe.send([row.plain() for row in rows])

    def results(self, seconds: float) -> Sequence[Event]:
        by_pipe = {found.pipe: name for name, found in self._running.items()}
        if not by_pipe:
            return []
        events = [self._heard(by_pipe[pipe]) for pipe in wait(list(by_pipe), seconds) if isinstance(pipe, Connection)]
        now = time.monotonic()
        for name, found in list(self._running.items()):
            if found.busy and now - found.heard > SILENT_SECONDS:
                found.process.kill()
                events.append(self._died(name, HANGING))
        return [event for event in events if event is not None]

    def cancel(self) -> None:
        for found in self._running.values():
            found.process.terminate()
        for found in self._running.values():
            found.process.join(END_SECONDS)
            if found.process.is_alive():
                found.process.kill()
                found.process.join()
            found.pipe.close()
        self._running.clear()

    def _started(self, name: str) -> _Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        number = self._names.index(name)
        device = self._devices[number % len(self._devices)] if self._devices else None
        arguments = (__name__.partition(".")[2], "serve", self._setup, name, theirs, device, self._threads)
        process = context.Process(target=call_in_pack, args=arguments, name=name, daemon=True)
        process.start()
        theirs.close()
        return _Process(process, ours, time.monotonic())

    def _heard(self, name: str) -> Event | None:
        """Return what a worker has said; None for a sign of life."""
        found = self._running[name]
        try:
            said = found.pipe.recv()
        except (EOFError, OSError):
            found.process.join(END_SECONDS)
            if found.process.is_alive():
                found.process.kill()
                found.process.join()
            return self._died(name, _reason(found.process.exitcode))
        found.heard = time.monotonic()
        if said is None:
            return None
        event = Event(**said)
        if event.kind == "died":
            found.process.kill()
            found.process.join()
            return self._died(name, event.text)
        if event.kind == "ended":
            found.busy = False
        found.ready = found.ready or event.kind == "started"
        return event

    def _died(self, name: str, reason: str) -> Event | None:
        found = self._running.pop(name)
        found.pipe.close()
        if not found.busy:
            return None
        self._broken = 0 if found.ready else self._broken + 1
        if self._broken >= BROKEN_STARTS:
            return Event(name, "broken", text=f"{self._broken} workers ended before they ran a row; the last {reason}")
        return Event(name, "died", text=reason)


def _cores() -> int:
    """Return the cores that this process may use; a cluster's scheduler allows it some of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        number = -exitcode
        more = ", as the system does where memory is short" if number == getattr(signal, "SIGKILL", 9) else ""
        return f"was ended by signal {number}{more}"
    return f"ended with code {exitcode}"


def _speaker(pipe: Connection) -> Callable[[Mapping[str, Any] | None], None]:
    """Return a function that speaks to the driver; shows signs of life, and ends this process with the driver's."""
    turn = threading.Lock()

    def say(said: Mapping[str, Any] | None) -> None:
        try:
            with turn:
                pipe.send(said)
        except OSError:
            os._exit(1)  # the driver is gone; whoever resumes the batch runs this row again

    def show_life() -> None:
        while True:
            time.sleep(ALIVE_SECONDS)
            say(None)

    def end_with_driver() -> None:
        driver = multiprocessing.parent_process()
        if driver is not None:
            driver.join()
            os._exit(1)  # before another driver takes the row

    threading.Thread(target=show_life, daemon=True).start()
    threading.Thread(target=end_with_driver, daemon=True).start()
    return say


def serve(setup: Mapping[str, Any], name: str, pipe: Connection, device: str | None, threads: int) -> None:
    """Be a worker until the driver ends: run the units that come through the pipe.

    device:  CUDA_VISIBLE_DEVICES, None as it is
    threads: of the CPU
    """
    for request in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(request, signal.SIG_IGN)  # Ctrl-C, or a closed terminal, goes to all; the driver ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    say = _speaker(pipe)
    try:
        worker = call_in_pack("nodes.batches.worker", "worker_of", setup, name)
    except (ImportError, OSError, RuntimeError, ValueError):  # any other ends the process, which the driver counts
        say(asdict(Event(name, "broken", text=traceback.format_exc())))
        return
    while True:
        try:
            rows = pipe.recv()
        except (EOFError, OSError):
            return
        for event in worker.run_plain(rows):
            say(event)
