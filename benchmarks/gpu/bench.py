"""Parts of a run, one after the other: each bounded in time, none able to spoil the others."""

from __future__ import annotations

import gc
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType

import torch

from benchmarks.gpu.report import PartReport, Report
from benchmarks.gpu.scene import Scale, Scene, build_scene

MOST = 2.0  # times its estimate may a part take, if the run has that long


class OutOfTime(Exception):
    """A part took longer than it may."""


@dataclass
class Bench:
    """What parts share.

    ends: when the run must be over, by time.monotonic
    """

    scale: Scale
    report: Report
    ends: float
    part: PartReport = field(default_factory=lambda: PartReport("", 0, ""))

    @cached_property
    def scene(self) -> Scene:
        """The model and clip that are measured, made when they are first asked for."""
        return build_scene(self.scale)

    @property
    def device(self) -> torch.device:
        """It computes on."""
        return self.scale.device

    @property
    def left(self) -> float:
        """Seconds that the run has left."""
        return self.ends - time.monotonic()

    def keep(self, name: str, figures: object) -> None:
        """Add figures to the running part, and write all that is known."""
        self.part.figures[name] = figures
        self.report.write()

    def line(self, label: str, figure: str, goal: str = "") -> None:
        """Add a line to the table that is shown at the end."""
        self.part.lines.append((label, figure, goal))
        self.report.write()

    def wrong(self, text: str) -> None:
        """Let the running part end as failed, for a result that is not right; what it measures further is kept."""
        self.part.state = "failed"
        self.part.reason = "; ".join(filter(None, (self.part.reason, text)))
        self.report.write()

    def has(self, seconds: float, what: str) -> bool:
        """Whether there is time for a measurement; where there is not, that is reported. seconds: on an H100."""
        if self.scale.tiny or seconds <= self.left:
            return True
        self.line(what, f"left out: about {seconds:.0f} s, {self.left:.0f} s left")
        return False


@dataclass(frozen=True)
class Part:
    """One part of a run.

    estimate: seconds on an H100 with default settings; why: the sum that it comes from
    """

    name: str
    estimate: float
    why: str
    run: Callable[[Bench], None]


def run_parts(parts: Sequence[Part], bench: Bench) -> None:
    """Run the parts in their order; what is left out or fails is reported with its reason."""
    for part in parts:
        bench.part = PartReport(part.name, part.estimate, part.why)
        bench.report.parts.append(bench.part)
        if bench.left < (1 if bench.scale.tiny else part.estimate):
            bench.part.state = "skipped"
            bench.part.reason = f"it takes about {part.estimate:.0f} s; {max(bench.left, 0):.0f} s are left"
            bench.report.write()
            continue
        bench.report.write()
        _run(part, bench)
        _tidy(bench.device)


def _run(part: Part, bench: Bench) -> None:
    began = time.monotonic()
    limit = bench.left if bench.scale.tiny else min(bench.left, MOST * part.estimate)
    try:
        with _alarm(limit):
            part.run(bench)
        if bench.part.state == "runs":
            bench.part.state = "done"
    except Exception as error:  # whatever it is, it is in the report, and the next part runs
        bench.wrong(_said(error))
    finally:  # also where the run is interrupted
        bench.part.seconds = round(time.monotonic() - began, 2)
        bench.report.write()


def _said(error: Exception) -> str:
    """An error's last line, and where it came from."""
    last = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{last} [{' < '.join(f'{frame.filename}:{frame.lineno}' for frame in reversed(frames))}]"


def _tidy(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once it has taken so long; between two operators, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"it was stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
