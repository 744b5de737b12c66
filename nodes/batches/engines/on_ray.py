"""Workers as actors of a Ray cluster, one for each GPU, or several on CPUs."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ....fatezero_ext.cli.node_pack import InPack
from ..problems import BatchStopped, stop
from ..rows import Row
from .seam import HANGING, SILENT_SECONDS, Event

ROOT = Path(__file__).parents[3]
ANSWER_SECONDS = 10.0
BROKEN_STARTS = 3
"""Actors in a row that end before they run a row, after which the batch stops where no other one is placed."""
LOOK_SECONDS = 30.0
"""Seconds between looks at how many GPUs the cluster has by now, and at actors for which there is no room."""
ALIVE_SECONDS = 30.0
"""Seconds after which an actor at work is asked for a sign of life."""
PAUSE_SECONDS = 60.0
"""Seconds between two looks at actors from which on this process itself stood still, as after Ctrl-Z."""
LIFE = "life"
"""Concurrency group, which has a thread of its own, of the signs of life."""
PASSED_ON = ("FATEZERO_", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Beginnings of the names of environment variables that actors get."""


@dataclass
class _Actor:
    """An actor.

    ready:  reference that has a value once it is placed; None when that was seen
    stream: events of its unit; None without a unit
    sign:   reference of the sign of life that it was asked for; None where it has given the last one
    heard:  when it gave that, or was given its unit
    """

    handle: Any
    ready: Any | None
    stream: Any | None = None
    sign: Any | None = None
    heard: float = 0.0


class RayEngine:
    """Actors of Ray Core. One that died, also with its machine, is replaced; a unit is given to one that is placed."""

    def __init__(self, setup: Mapping[str, Any], workers: int | None, units: int, address: str | None) -> None:
        """setup: plain values of `Setup`; workers: None for one per GPU of the cluster, or one without."""
        self._ray, self._setup = connected(address, workers), dict(setup)
        self._workers, self._units = workers, units
        self._actors: dict[str, _Actor] = {}
        self._broken, self._homeless, self._looked = 0, 0, time.monotonic()
        self._awake = self._looked
        self._grow()

    def free(self) -> Sequence[str]:
        return [name for name, actor in self._actors.items() if actor.ready is None and actor.stream is None]

    def submit(self, worker: str, rows: Sequence[Row]) -> None:
        actor = self._actors[worker]
        plain = [row.plain() for row in rows]
        actor.stream = actor.handle.each.options(num_returns="streaming").remote("run_plain", plain)
        actor.sign, actor.heard = None, time.monotonic()

    def _grow(self) -> None:
        """Have as many actors as were asked for, or one for each GPU that the cluster has by now."""
        for number in range(len(self._actors), min(self._workers or self._gpus() or 1, self._units)):
            self._actors[f"actor-{number + 1}"] = self._made(number)

    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _look(self) -> list[Event]:
        """Look at the cluster once in a while; returns what there is to say of it."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return []
        self._looked = time.monotonic()
        self._grow()
        homeless, self._homeless = self._homeless, sum(actor.ready is not None for actor in self._actors.values())
        if self._homeless in (0, homeless):
            return []
        text = f"{self._homeless} of {len(self._actors)} actors are not placed yet; each needs a core, and a GPU where "
        text += "the cluster has some. `ray status` shows what is free."
        return [Event("", "remark", text=text)]

    def _hanging(self) -> list[Event | None]:
        """Ask actors at work for signs of life; replace those that gave none for long, for which Ray waits for ever."""
        events, now = [], time.monotonic()
        if now - self._awake > PAUSE_SECONDS:  # nobody listened meanwhile: all are asked anew
            for actor in self._actors.values():
                actor.sign, actor.heard = None, now
        self._awake = now
        for name, actor in list(self._actors.items()):
            if actor.stream is None:
                continue
            if actor.sign is not None and self._ray.wait([actor.sign], timeout=0, fetch_local=False)[0]:
                actor.sign, actor.heard = None, now
            if now - actor.heard > SILENT_SECONDS:
                events.append(self._died(name, RuntimeError(HANGING)))
            elif actor.sign is None and now - actor.heard > ALIVE_SECONDS:
                actor.sign = actor.handle.is_alive.options(concurrency_group=LIFE).remote()
        return events

    def results(self, seconds: float) -> Sequence[Event]:
        events: list[Event | None] = [*self._look(), *self._hanging()]
        waiting = {}
        for name, actor in self._actors.items():
            awaited = actor.stream if actor.ready is None else actor.ready
            if awaited is not None:
                waiting[awaited] = name
        until = time.monotonic() + seconds
        while waiting:
            left = 0.0 if events else max(0.0, until - time.monotonic())
            ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=left, fetch_local=False)
            if not ready:
                break
            events.append(self._heard(waiting.pop(ready[0])))
        return [event for event in events if event is not None]

    def cancel(self) -> None:
        for actor in self._actors.values():
            with suppress(Exception):  # whatever state the cluster is in
                self._ray.kill(actor.handle)
        self._actors.clear()
        self._ray.shutdown()

    def _made(self, number: int) -> _Actor:
        names = [name for name in os.environ if name.startswith(PASSED_ON)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**{name: os.environ[name] for name in names}, "PYTHONPATH": os.pathsep.join(paths)}
        needs = {"num_cpus": 1, "num_gpus": 1 if self._gpus() else 0}
        threaded = self._ray.remote(concurrency_groups={LIFE: 1})(InPack)
        remote = threaded.options(**needs, runtime_env={"env_vars": environment})
        handle = remote.remote("nodes.batches.worker", "worker_of", self._setup, f"actor-{number + 1}")
        return _Actor(handle, handle.__ray_ready__.remote())

    def _heard(self, name: str) -> Event | None:
        """Return what an actor has said; None where it is merely placed."""
        actor = self._actors[name]
        try:
            if actor.ready is not None:
                self._ray.get(actor.ready)
                actor.ready, self._broken = None, 0
                return None
            assert actor.stream is not None
            event = Event(**self._ray.get(next(actor.stream)))
        except StopIteration:
            event = Event(name, "ended")
        except self._ray.exceptions.RayError as error:
            return self._died(name, error)
        if event.kind == "died":
            return self._died(name, RuntimeError(event.text))
        if event.kind == "ended":
            actor.stream = None
        return event

    def _died(self, name: str, error: Exception) -> Event | None:
        """Replace an actor; returns what that means for its unit, None where it had none."""
        actor = self._actors[name]
        with suppress(Exception):
            self._ray.kill(actor.handle)
        self._actors[name] = self._made(int(name.rpartition("-")[2]) - 1)
        if actor.ready is None:
            return Event(name, "died", text=f"died ({_last_line(error)})")
        self._broken += 1
        if self._broken >= BROKEN_STARTS and all(each.ready is not None for each in self._actors.values()):
            return Event(name, "broken", text=str(error))
        return None


def _last_line(error: Exception) -> str:
    """Return the end of a message: Ray puts its traceback in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def connected(address: str | None, workers: int | None) -> ModuleType:
    """Connect to a cluster, None for one of this machine's own; returns the module ray.

    Raises InvalidPlan without Ray, and where the address is none; BatchStopped where nobody answers.
    """
    try:
        import ray
    except ImportError as error:
        raise stop(
            "--engine ray needs Ray, which is not there. With this Python run: pip "
            "install 'fatezero-video[cluster]', or with 'ray>=2.40'."
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": address or "local"}
    if address is None:
        options |= {"num_cpus": max(os.cpu_count() or 1, workers or 1), "include_dashboard": False}
    else:
        check_answers(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the driver with another exit code
    except Exception as error:  # Ray raises what it likes, plain Exception too
        place = f"the Ray cluster at {address} cannot be used" if address else "no Ray cluster could be started here"
        raise BatchStopped(f"{place} ({_last_line(error)}). Start it by hand and name it as --address.") from error
    return ray


def check_answers(address: str) -> None:
    """Raise InvalidPlan unless an address is HOST:PORT or auto; BatchStopped where nobody answers within 10 s."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()) or "//" in address:
        raise stop(
            f"--address {address} is none of a cluster; HOST:PORT of its head is needed, such as 10.0.0.5:6379, or "
            f"auto on one of its machines. Run the command there (`ray job submit`), not through ray://."
        )
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BatchStopped(
            f"no Ray cluster answers at {address} within {ANSWER_SECONDS:.0f} s ({error}). Start it with `ray start "
            f"--head --port=6379` there, or correct the address."
        ) from error
