"""Locks of the disk cache between threads and between processes, on Linux, macOS and Windows.

The system releases a lock when its process ends in any way, so the locks of a killed process are free at once.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import StoreError

LOCK_SECONDS = 60.0  # evicting tens of GB takes seconds; whoever keeps the lock longer hangs
POLL_SECONDS = 0.01  # finding an entry keeps the lock for about a millisecond


@contextmanager
def folder_lock(folder: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock under which entries of a cache folder are found, published, forgotten and evicted. Do not nest it.

    Raises StoreError if another process keeps the lock for longer than `seconds`, or the folder cannot be locked.
    """
    path = folder / ".lock"
    lock = _file_lock(path)
    try:
        lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
    except Timeout:
        raise StoreError(
            f"{path} has been locked by another process for {seconds:g} s; finding and saving inversions needs it for "
            f"moments only. End the program that hangs, or use another folder with FATEZERO_CACHE_DIR."
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter is filelock's, on file systems without locks
        raise unwritable(folder, error) from None
    try:
        yield
    finally:
        lock.release()


def unwritable(folder: Path, error: Exception) -> StoreError:
    """Error for a cache folder that cannot be made, locked or written."""
    reason = "it is a file" if folder.is_file() else getattr(error, "strerror", None) or error
    return StoreError(
        f"the cache folder {folder} cannot be written ({reason}); saving inversions needs a folder of its own with "
        f"write access. Name one with FATEZERO_CACHE_DIR."
    )


class Lease:
    """Marks an entry as in use for every process: a file that is locked until released, garbage collected or the
    process ends.

    path: a new name each time, made and probed under the folder's lock only; so nobody can lock a file that another is
          about to delete
    """

    def __init__(self, path: Path) -> None:
        lock = _file_lock(path)
        lock.acquire()
        self._end = weakref.finalize(self, _let_go, lock, path, os.getpid())

    def release(self) -> None:
        """Release it; a second call does nothing. May be called from any thread."""
        self._end()


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock file; a file that nobody holds is deleted."""
    probe = _file_lock(path)
    try:
        probe.acquire()
    except FileNotFoundError:  # just released and deleted
        return False
    except (Timeout, OSError):
        return True
    probe.release()
    with suppress(OSError):
        path.unlink()
    return False


def _file_lock(path: Path) -> FileLock:
    # thread_local=False: an entry found in one thread is released in another.
    return FileLock(path, timeout=0, thread_local=False)


def _let_go(lock: FileLock, path: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked child, whose copy must not end what its parent holds
        return
    lock.release()
    with suppress(OSError):
        path.unlink()
