"""Frames that are made part by part where they are used, so that a long clip is never whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from ..errors import VideoError
from .framing import Framing, crop_and_scale, frame_indices, size_after

if TYPE_CHECKING:
    from torch import Tensor

PART = 8
"""Frames of a part, as many as a VAE computes in one call."""
HELD_BYTES = 64 * 2**20
"""Bytes up to which a clip may be held whole: 21 frames of 512x512. Made once, it need not be made for each use."""
FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class StreamedFrames:
    """Frames of a clip, or masks, that are made anew each time they are asked for.

    shape: frames, height, width and colours of the whole, or of masks without colours
    make:  returns them in their order, in pieces [frames, height, width(, colours)] of any length
    part_at: returns a part of PART frames by its number, where that needs none of those before it
    """

    shape: tuple[int, ...]
    make: Callable[[], Iterator[Tensor]]
    part_at: Callable[[int], Tensor] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that it would take whole."""
        total = FLOAT_BYTES
        for side in self.shape:
            total *= side
        return total

    def parts(self) -> Iterator[Tensor]:
        """Yield parts of PART frames, the last of which may be shorter. Raises VideoError if there are not as many."""
        found = 0
        for part in regrouped(self.make()):
            found += len(part)
            yield part
        if found != len(self):
            raise VideoError(
                f"the clip had {len(self)} frames and now has {found}; its file has changed while it was used. Run "
                f"again."
            )

    def all(self) -> Tensor:
        """Return the whole clip."""
        parts = self.parts()
        part = next(parts)
        clip, first = part.new_empty(self.shape), len(part)
        clip[:first] = part
        for part in parts:
            clip[first : first + len(part)] = part
            first += len(part)
        return clip

    def part(self, first: int, length: int) -> Tensor:
        """Return at most `length` frames from `first` on, and at least the last one."""
        import torch

        first = min(first, len(self) - 1)
        found: list[Tensor] = []
        wanted = range(first, min(first + length, len(self)))
        number = 0 if self.part_at is None else first // PART
        parts = self.parts() if self.part_at is None else map(self.part_at, count(number))
        seen = number * PART
        for part in parts:
            rows = [frame - seen for frame in wanted if seen <= frame < seen + len(part)]
            found += [part[rows]] if rows else []
            seen += len(part)
            if seen >= wanted.stop:
                break
        return torch.cat(found)

    def reframed(self, framing: Framing) -> StreamedFrames:
        """Select, crop and scale frames, as `reframe` does."""
        taken = frame_indices(framing, len(self))
        height, width = self.shape[1:3]

        def pieces() -> Iterator[Tensor]:
            seen = 0
            for part in self.parts():
                rows = [frame - seen for frame in taken if seen <= frame < seen + len(part)]
                if rows:
                    yield crop_and_scale(part[rows], framing)
                seen += len(part)

        return StreamedFrames((len(taken), *size_after(height, width, framing), *self.shape[3:]), pieces)


def parts_of(frames: Tensor | StreamedFrames) -> Iterator[Tensor]:
    """Yield parts of PART frames of a clip, whether it is held whole or not."""
    if isinstance(frames, StreamedFrames):
        yield from frames.parts()
    else:
        yield from frames.split(PART)


def whole(frames: Tensor | StreamedFrames) -> Tensor:
    """Return a clip whole, which it may be already."""
    return frames.all() if isinstance(frames, StreamedFrames) else frames


def regrouped(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Join and split pieces of a clip to parts of PART frames."""
    import torch

    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        while sum(map(len, waiting)) >= PART:
            joined = torch.cat(waiting) if len(waiting) > 1 else waiting[0]
            yield joined[:PART]
            waiting = [joined[PART:]] if len(joined) > PART else []
    if waiting:
        yield torch.cat(waiting)


def read_ahead(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """Make each piece in a thread while the one before it is used; no more than that one waits."""
    with ThreadPoolExecutor(1, "frames") as thread:
        coming = thread.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = thread.submit(next, pieces, None)
            yield piece
