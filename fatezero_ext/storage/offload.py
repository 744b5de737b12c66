"""Takes pages off the device while the next step is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch

from ..attention.records import StepRecords, check_range, to_precision
from ..choices import Precision
from ..memory.free_memory import OutOfMemoryError

CPU = torch.device("cpu")


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a CUDA device that pages are copied on, one for all.

    torch's allocator keeps freed memory for the stream it was taken on: a new stream for each page or each edit would
    leave memory behind on every one of the 32 that torch hands out in turn.
    """
    return torch.cuda.Stream(device)


class Offloader:
    """Brings pages to the computer's memory in a thread of its own, on a stream of its own where there are streams.

    One page is on its way at a time: what waits is bounded, however slow the other end is.
    """

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._thread = ThreadPoolExecutor(1, "carrier")
        self._moving: Future[None] | None = None

    def submit(self, page: StepRecords, arrived: Callable[[StepRecords], None]) -> None:
        """Bring a page; `arrived` is called with it in the thread. Raises what bringing the page before raised."""
        self._wait()
        computed_on = next((record.kept.values.device for record in page.values()), CPU)
        ready = torch.cuda.current_stream(computed_on).record_event() if computed_on.type == "cuda" else None
        self._moving = self._thread.submit(self._move, page, computed_on, ready, arrived)

    def finish(self) -> None:
        """Wait for the last page and end the thread. Raises what bringing it raised."""
        try:
            self._wait()
        finally:
            self._thread.shutdown(wait=True)

    def stop(self) -> None:
        """End the thread without waiting; what is on its way may still arrive."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait(self) -> None:
        if self._moving is not None:
            self._moving.result()  # one that failed stays: whoever goes on must not leave out its page
            self._moving = None

    def _move(
        self,
        page: StepRecords,
        device: torch.device,
        ready: torch.cuda.Event | None,
        arrived: Callable[[StepRecords], None],
    ) -> None:
        with torch.no_grad(), torch.cuda.stream(None if ready is None else copy_stream(device)):
            if ready is not None:
                torch.cuda.current_stream(device).wait_event(ready)
            # Each copy ends before the next begins, so the page may be let go in this thread without record_stream.
            arrived(self._packed(page))

    def _packed(self, page: StepRecords) -> StepRecords:
        try:
            kept = to_precision(page, CPU, self._precision)
        except OutOfMemoryError:  # packing needs room on the device, beside a step at its peak; moving needs none
            page = to_precision(page, CPU, "as computed")
            kept = to_precision(page, CPU, self._precision)
        check_range(page, kept)
        return kept
