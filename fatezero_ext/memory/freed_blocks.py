"""Freed memory goes back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def give_back_freed_blocks() -> None:
    """Give the computer's memory that was freed back to the system; takes milliseconds.

    glibc keeps freed blocks of up to 32 MiB for others to come, but with what is still used between them they may not
    fit, so that a clip in parts may take more with each part. Other C libraries are left alone.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
