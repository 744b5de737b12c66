"""How a program that owns the device's memory has models brought to it before they compute."""

from __future__ import annotations

import threading
from collections.abc import Callable

LoadToDevice = Callable[[int], None]
_MOVING = threading.RLock()
"""Programs keep one book of the device's memory, and move one model at a time."""


def stay_put(working_memory: int) -> None:
    """Leave the weights where they are: the default outside programs that manage memory.

    working_memory: bytes that the run needs beside the weights
    """


def prepared(load_to_device: LoadToDevice, working_memory: int) -> None:
    """Call `load_to_device` while no other thread is in one.

    A program that sends weights away to make room must know by itself which of them another thread computes with.
    """
    with _MOVING:
        load_to_device(working_memory)
