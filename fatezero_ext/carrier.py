"""Takes pages off the device while the next step is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from .records import Page, Precision, packed

CPU = torch.device("cpu")


class Carrier:
    """Brings pages to the computer's memory in a thread of its own, on a stream of its own where there are streams.

    One page is on its way at a time: what waits is bounded, however slow the other end is.
    """

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._thread = ThreadPoolExecutor(1, "carrier")
        self._moving: Future[None] | None = None

    def carry(self, page: Page, arrived: Callable[[Page], None]) -> None:
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
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.result()

    def _move(
        self, page: Page, device: torch.device, ready: torch.cuda.Event | None, arrived: Callable[[Page], None]
    ) -> None:
        with torch.no_grad(), torch.cuda.stream(None if ready is None else torch.cuda.Stream(device)):
            if ready is not None:
                torch.cuda.current_stream(device).wait_event(ready)
            here = packed(page, CPU, self._precision)
        arrived(here)
