"""How a program that owns the device's memory has models brought to it before they compute."""

from __future__ import annotations

from collections.abc import Callable

Prepare = Callable[[], None]


def stay() -> None:
    """Leave the weights where they are: the default outside programs that manage memory."""
