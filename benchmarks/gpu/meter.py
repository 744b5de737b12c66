"""Seconds and bytes of what a device computes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")
GIB = 2**30


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """One run: its result, seconds between two events of the device, and its peaks in bytes.

    allocated: of tensors; reserved: that torch's allocator took from the device; None on a CPU
    """

    result: Result
    seconds: float
    allocated: int | None
    reserved: int | None

    def figures(self) -> dict[str, object]:
        """For the report."""
        return {"s": self.seconds, "peak_allocated": self.allocated, "peak_reserved": self.reserved}


def finish(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(device: torch.device, run: Callable[[], Result]) -> Measured[Result]:
    """Run once. The device is idle before and after, so that its events span the computer's part as well."""
    gc.collect()
    finish(device)
    if device.type != "cuda":
        began = time.perf_counter()
        result = run()
        return Measured(result, time.perf_counter() - began, None, None)
    torch.cuda.reset_peak_memory_stats(device)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    result = run()
    ended.record()
    finish(device)
    return Measured(
        result,
        began.elapsed_time(ended) / 1000,
        torch.cuda.max_memory_allocated(device),
        torch.cuda.max_memory_reserved(device),
    )


def seconds(device: torch.device, run: Callable[[], object], times: int = 1) -> float:
    """Median of so many runs, after one to warm up."""
    run()
    return median(measured(device, run).seconds for _ in range(times))


def gib(nbytes: int | None) -> str:
    """Bytes for the table."""
    return "-" if nbytes is None else f"{nbytes / GIB:.2f} GiB"


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2 distance, on the CPU in float64; nan or inf where there are any."""
    got, wanted = (x.detach().cpu().double() for x in (got, wanted))
    return ((got - wanted).norm() / wanted.norm()).item()
