"""Signals that ask the program to stop."""

from __future__ import annotations

import signal

NAMES = ("SIGTERM", "SIGHUP")
"""A termination request, and a terminal that is closed, which Windows does not have."""


def stop_signals() -> tuple[int, ...]:
    """Return the signals, beside Ctrl-C's, that ask to stop; those that are ignored, as under nohup, are left out."""
    found = [getattr(signal, name, None) for name in NAMES]
    return tuple(number for number in found if number is not None and signal.getsignal(number) is not signal.SIG_IGN)
