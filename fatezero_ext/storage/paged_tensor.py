"""Tensors in files of their own, which leave memory again once they have been written or read."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from torch import Tensor

PIECE = 2**20
"""Bytes of a tensor that are in memory at once while all of it is read or written."""


class PagedTensor:
    """A tensor in a temporary file that goes with it, for what a long run writes and reads a part at a time.

    tensor: on the CPU, like any other; what is written or read of it stays in memory until `let_go`
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, folder: Path, *, promised: int = 0) -> None:
        """Make one of any values. Raises OSError where the disk has no room for all of it.

        promised: bytes of the disk that others are about to write
        """
        nbytes = math.prod(shape) * dtype.itemsize
        if shutil.disk_usage(folder).free - promised < nbytes:  # before any of it is written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with TemporaryFile(dir=folder) as file:
            _allocate(file, nbytes)  # now: a disk that is full when a page is written ends the process
            self._pages = mmap.mmap(file.fileno(), nbytes)
        self.tensor = torch.frombuffer(self._pages, dtype=dtype).view(*shape)
        self.dtype, self.shape, self.itemsize, self.nbytes = dtype, self.tensor.shape, dtype.itemsize, nbytes

    def let_go(self) -> None:
        """Take what was read or written out of memory; it is read from the file again. Does nothing on Windows."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)


def pieces(x: Tensor | PagedTensor) -> Iterator[memoryview]:
    """Yield the bytes of a contiguous tensor on the CPU; of one in a file so that few are in memory at once."""
    if not isinstance(x, PagedTensor):
        yield _bytes_of(x)
        return
    view = _bytes_of(x.tensor)
    for first in range(0, len(view), PIECE):
        yield view[first : first + PIECE]
        x.let_go()


def _bytes_of(x: Tensor) -> memoryview:
    return x.detach().reshape(-1).view(torch.uint8).numpy().data


def _allocate(file: IO[bytes], nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return
    for first in range(0, nbytes, PIECE):
        file.write(bytes(min(PIECE, nbytes - first)))
    file.flush()
