"""Times of two things in one process, in turn, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ratio:
    """Seconds of two things, pair by pair; CPU seconds on a CPU, wall seconds where an accelerator computes."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the pairs of ours / other."""
        return median(mine / its for mine, its in zip(self.ours, self.other, strict=True))

    def figures(self) -> dict[str, object]:
        """For the JSON file."""
        return {"ratio": self.median, "ours_s": self.ours, "other_s": self.other}


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    _finish()
    began = clock()
    run()
    _finish()
    return clock() - began


def in_turn(ours: Callable[[], object], other: Callable[[], object], pairs: int) -> Ratio:
    """Both once to warm up, then pairs of runs, each pair in the other order than the one before."""
    ours(), other()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            times[which].append(seconds((ours, other)[which]))
    return Ratio(tuple(times[0]), tuple(times[1]))


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
