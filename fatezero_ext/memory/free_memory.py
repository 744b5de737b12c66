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
"""What torch raises on CUDA and what follows it; programs that manage memory know it by this class."""
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, hipErrorOutOfMemory
WITHOUT_A_CLASS = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""How other errors say the same: of libraries that take memory past torch's allocator, and of kernels loaded late."""
CGROUP = Path("/sys/fs/cgroup")
Result = TypeVar("Result")
Remedy = Callable[[], str | None]
"""Frees memory and says how, or gives None where it has nothing to free."""


def free_ram() -> int:
    """Bytes of the computer's memory that this process may still take, a container's limit included."""
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


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that the device has too little memory."""
    coded = getattr(error, "error_code", None) == OUT_OF_MEMORY  # torch.AcceleratorError, where torch has it
    return isinstance(error, OutOfMemoryError) or coded or any(words in str(error) for words in WITHOUT_A_CLASS)


def within_memory(compute: Callable[[], Result], remedies: Sequence[Remedy], advice: str) -> Result:
    """`compute`, and again after each remedy in turn where the device runs out of memory.

    advice: what a user can lower, for the error when no remedy is left
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
            said = _next_remedy(waiting)
            if said is None:
                raise OutOfMemoryError(f"{error} The device has too little memory for this clip. {advice}") from error
            log.warning("The device ran out of memory: %s.", said)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _next_remedy(waiting: list[Remedy]) -> str | None:
    while waiting:
        if said := waiting.pop(0)():
            return said
    return None
