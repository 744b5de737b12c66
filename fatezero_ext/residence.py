"""How a program that owns the device's memory has models brought to it before they compute."""

from __future__ import annotations

from collections.abc import Callable

Prepare = Callable[[int], None]


def stay(working_memory: int) -> None:
    """Leave the weights where they are: the default outside programs that manage memory.

    working_memory: bytes that the run needs beside the weights
    """
