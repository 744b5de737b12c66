"""Moves pages off the device while the next step is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from ..attention.records import StepRecords, check_range, to_precision
from ..choices import Precision
from ..memory.free_memory import OutOfMemoryError

CPU = torch.device("cpu")


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a CUDA device on which pages are copied.

    torch's allocator keeps freed memory for the stream on which it was allocated: a new stream for each page or each
    edit would leave memory behind on every one of the 32 that torch hands out in turn.
    """
    return torch.cuda.Stream(device)


class Offloader:
    """Moves pages to RAM in a thread of its own, on CUDA devices on a stream of its own.

    One page is on its way at a time, and tensors that follow it, so that memory is bounded however slow the receiver
    is.
    """

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._thread = ThreadPoolExecutor(1, "offload")
        self._moving: list[Future[None]] = []

    def submit(self, page: StepRecords, arrived: Callable[[StepRecords], None]) -> None:
        """Move a page, and call `arrived` with it in the thread. Raises the error of the previous page, if any."""
        self._wait()
        computed_on = next((record.kept.values.device for record in page.values()), CPU)
        self._begin(computed_on, lambda: arrived(self._packed(page)))

    def follow(self, tensors: Mapping[str, Tensor], arrived: Callable[[Mapping[str, Tensor]], None]) -> None:
        """Move some tensors as they are behind the page that is on its way, unless that one fails, without waiting."""
        self._wait(still_moving=1)
        before = tuple(self._moving)

        def move() -> None:
            if not any(page.exception() for page in before):  # they have ended: there is one thread
                arrived({name: tensor.to(CPU) for name, tensor in tensors.items()})

        self._begin(next(iter(tensors.values())).device, move)

    def finish(self) -> None:
        """Wait for the last page and end the thread. Raises the error of that page, if any."""
        try:
            self._wait()
        finally:
            self._thread.shutdown(wait=True)

    def stop(self) -> None:
        """End the thread without waiting; a page that is on its way may still arrive."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait(self, still_moving: int = 0) -> None:
        while len(self._moving) > still_moving:
            self._moving[0].result()  # one that failed stays: whoever goes on must not leave out its page
            del self._moving[0]

    def _begin(self, computed_on: torch.device, move: Callable[[], None]) -> None:
        ready = torch.cuda.current_stream(computed_on).record_event() if computed_on.type == "cuda" else None
        self._moving.append(self._thread.submit(self._moved, computed_on, ready, move))

    def _moved(self, device: torch.device, ready: torch.cuda.Event | None, move: Callable[[], None]) -> None:
        with torch.no_grad(), torch.cuda.stream(None if ready is None else copy_stream(device)):
            if ready is not None:
                torch.cuda.current_stream(device).wait_event(ready)
            # Each copy ends before the next begins, so the page may be let go in this thread without record_stream.
            move()

    def _packed(self, page: StepRecords) -> StepRecords:
        try:
            kept = to_precision(page, CPU, self._precision)
        except OutOfMemoryError:  # packing needs room on the device, beside a step at its peak; moving needs none
            page = to_precision(page, CPU, "as computed")
            kept = to_precision(page, CPU, self._precision)
        check_range(page, kept)
        return kept
