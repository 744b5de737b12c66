"""Free memory, and what to do when a device runs out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import clear_frames
from typing import TypeVar

import psutil
import torch

log = logging.getLogger(__name__)

OutOfMemoryError = torch.cuda.OutOfMemoryError
"""Error that torch raises when a device has no memory left; programs that manage memory catch this class."""
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, hipErrorOutOfMemory
WITHOUT_A_CLASS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""Texts of errors that mean the same but have no class: of libraries with allocators of their own, and of kernels."""
CGROUP = Path("/sys/fs/cgroup")
Result = TypeVar("Result")
Remedy = Callable[[], str | None]
"""Frees memory and returns a description, or None if it has nothing to free."""


def free_ram() -> int:
    """Bytes of RAM that this process may still take, within a container's limit."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        given_back = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return min(free, max(0, limit - used + given_back))  # cached files make way
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free


def free_on(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type != "cuda":
        return free_ram()
    free, _total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused


def total_on(device: torch.device) -> int | None:
    """Bytes that a device has, free or not; None: it is the computer's memory, or not known."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def ran_out(error: RuntimeError) -> bool:
    """Return whether an error means that the device has too little memory."""
    coded = getattr(error, "error_code", None) == OUT_OF_MEMORY  # torch.AcceleratorError, where torch has it
    return isinstance(error, OutOfMemoryError) or coded or any(words in str(error) for words in WITHOUT_A_CLASS)


def within_memory(compute: Callable[[], Result], remedies: Sequence[Remedy], advice: str) -> Result:
    """Call `compute`, and again after each remedy in turn while the device runs out of memory.

    advice: settings that a user can lower, for the error when no remedy is left
    Raises OutOfMemoryError with the advice in its message: programs that manage memory look for that class.
    """
    waiting = list(remedies)
    while True:
        try:
            return compute()
        except RuntimeError as error:
            if not ran_out(error):
                raise
            # What the failed call made lives on in its frames: without this, through the remedy, and for as long as
            # anybody looks at the error.
            clear_frames(error.__traceback__)
            remedy = _next_remedy(waiting)
            if remedy is None:
                if advice in str(error):  # given by a call inside
                    raise
                raise OutOfMemoryError(f"{error} The device has too little memory for this clip. {advice}") from error
            log.warning("The device ran out of memory: %s.", remedy)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _next_remedy(waiting: list[Remedy]) -> str | None:
    while waiting:
        if description := waiting.pop(0)():
            return description
    return None
