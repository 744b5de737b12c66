"""How a program that owns the device's memory has models brought to it before they compute."""

from __future__ import annotations

import threading
from collections.abc import Callable

Prepare = Callable[[int], None]
_MOVING = threading.RLock()
"""Programs keep one book of the device's memory, and move one model at a time."""


def stay(working_memory: int) -> None:
    """Leave the weights where they are: the default outside programs that manage memory.

    working_memory: bytes that the run needs beside the weights
    """


def prepared(prepare: Prepare, working_memory: int) -> None:
    """Call `prepare` while no other thread is in one.

    A program that sends weights away to make room must know by itself which of them another thread computes with.
    """
    with _MOVING:
        prepare(working_memory)
