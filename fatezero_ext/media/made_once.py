"""Parts of a clip that cost much to make, such as those that a VAE decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Size, Tensor, dtype


class MadeOnce:
    """Makes each part when it is first asked for, and reads it from a temporary file from then on, bit for bit.

    The file has no name, and ends with this object or its process. A part that the disk has no room for is made again.
    Threads may share it.
    """

    def __init__(self, makers: Sequence[Callable[[], Tensor]]) -> None:
        self._makers = makers
        self._turn = Lock()
        self._file = TemporaryFile("w+b", 0)
        self._found: dict[int, tuple[int, Size, dtype]] = {}  # place in the file, shape and dtype

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the parts in their order."""
        return map(self.part, range(len(self._makers)))

    def part(self, number: int) -> Tensor:
        """Return one part, on the CPU."""
        with self._turn:
            if number in self._found:
                return self._read(*self._found[number])
            part = self._makers[number]().cpu().contiguous()
            with suppress(OSError):
                place = self._file.seek(0, 2)
                if self._file.write(_bytes(part)) == part.nbytes:
                    self._found[number] = place, part.shape, part.dtype
            return part

    def _read(self, place: int, shape: Size, dtype: dtype) -> Tensor:
        import torch

        part = torch.empty(shape, dtype=dtype)
        self._file.seek(place)
        self._file.readinto(_bytes(part))
        return part


def _bytes(x: Tensor) -> memoryview:
    import torch

    return x.detach().reshape(-1).view(torch.uint8).numpy().data
