"""Brings models to the device before they compute, for programs that manage its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

LoadToDevice = Callable[[int], None]
_MOVING = threading.RLock()
"""Held while a model is moved: programs account for the device's memory in one place, one model at a time."""


def stay_put(working_memory: int) -> None:
    """Leave the weights where they are: the default outside programs that manage memory.

    working_memory: bytes that the run needs beside the weights
    """


def prepared(load_to_device: LoadToDevice, working_memory: int) -> None:
    """Call `load_to_device`, one thread at a time.

    A program that moves weights away to make room must know by itself which of them another thread computes with.
    """
    with _MOVING:
        load_to_device(working_memory)
