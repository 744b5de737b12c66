"""Stores for pages of attention between an inversion and its edits."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..attention.records import (
    StepRecords,
    beyond_range,
    check_range,
    check_records,
    narrowed,
    records_bytes,
    records_tensors,
    to_precision,
)
from ..attention.sites import LayerAddress
from ..choices import Precision
from ..errors import StoreError
from ..memory.free_memory import free_ram
from ..printable import format_bytes
from .offload import CPU, Offloader


class RecordStore(Protocol):
    """Pages by step, each whole or in parts of the clip; step 0 is the noisiest, as in `Schedule`."""

    @property
    def parts(self) -> Sequence[Sequence[int]]:
        """Frames of each part of a page; () where pages are whole."""
        ...

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        """Store a page or a part of it. Raises StoreError if it lacks a layer, and once the store is sealed."""
        ...

    def read(self, step: int, part: int = 0) -> StepRecords:
        """Read the page of a step or a part of it; its tensors must not be changed.

        Raises StoreError if there is none.
        """
        ...

    def seal(self) -> None:
        """Allow no more writing. Raises SettingsError if values were beyond the range of the precision."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        ...

    def held_tensors(self) -> Iterator[Tensor]:
        """Yield the tensors that are in memory."""
        ...


class MemoryStore:
    """Pages in memory, moved to a device and precision as they are written.

    device: None leaves each tensor where it was computed
    layers: the layers that every page must have
    level_offset: of the latents that its attention was recorded on, see `Recomputed`
    parts: see `RecordStore`
    """

    _leaving: ClassVar[threading.Lock] = threading.Lock()
    """One lock for all stores, which can be copied and pickled without it; few ever leave their device."""

    def __init__(
        self,
        device: torch.device | None = None,
        precision: Precision = "as computed",
        layers: Collection[LayerAddress] = (),
        level_offset: int = 0,
        parts: Sequence[Sequence[int]] = (),
    ) -> None:
        self.device = device
        self.parts = parts
        self.level_offset = level_offset
        self.precision = precision
        self.layers = layers
        self._pages: dict[tuple[int, int], StepRecords] = {}
        self._offloader: Offloader | None = None
        self._sealed = False
        self._unchecked: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"MemoryStore({len(self)} steps, {format_bytes(self.nbytes)})"

    def __len__(self) -> int:
        return len({step for step, _part in self._pages})

    @property
    def nbytes(self) -> int:
        return sum(records_bytes(page) for page in self._pages.values())

    def held_tensors(self) -> Iterator[Tensor]:
        for page in self._pages.values():
            yield from records_tensors(page)

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        if self._sealed:
            raise StoreError(f"step {step} came after the store was sealed; invert again to record anew.")
        check_records(page, self.layers, step)
        if self.device == CPU and any(record.kept.values.device != CPU for record in page.values()):
            self._offloader = self._offloader or Offloader(self.precision)
            self._offloader.submit(page, partial(self._pages.__setitem__, (step, part)))
        else:
            kept = to_precision(page, self.device, self.precision)
            if all(tensor.device == CPU for tensor in records_tensors(kept)):
                check_range(page, kept)
            elif narrowed(page, kept):  # looking would wait for the device at every step
                self._unchecked.append((step, part))
            self._pages[step, part] = kept

    def read(self, step: int, part: int = 0) -> StepRecords:
        if (step, part) not in self._pages:
            raise StoreError(
                f"step {step} is not in the store, which has {len(self)}; an edit needs every step of its "
                f"inversion. Invert again with as many steps."
            )
        return self._pages[step, part]

    def seal(self) -> None:
        if self._offloader is not None:
            self._offloader.finish()
        self._offloader, self._sealed = None, True
        finite = [x.isfinite().all() for place in self._unchecked for x in records_tensors(self._pages[place])]
        if finite and not torch.stack(finite).all():
            self._pages.clear()
            raise beyond_range("some of it is larger")

    def leave_device(self) -> bool:
        """Move everything to RAM, now and later. Returns False if there was nothing to move, or no room."""
        on_device = self.device != CPU
        with self._leaving:
            if self.device == CPU:
                return on_device  # another thread, which reads the same store, has moved it meanwhile
            if self.nbytes > free_ram():
                return False
            self._pages = {at: to_precision(page, CPU, "as computed") for at, page in self._pages.items()}
            self.device = CPU
            return True


def on_device(store: RecordStore) -> bool:
    """Return whether a store leaves pages where they are computed."""
    return isinstance(store, MemoryStore) and store.device is None


@dataclass(frozen=True)
class Recomputed:
    """Stores no pages: an edit runs the source again.

    level_offset: 0: on the latent of the inversion, one level cleaner than the edit's; 1: on the edit's level
    """

    level_offset: int = 0
    nbytes: int = 0
    parts: Sequence[Sequence[int]] = ()

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        """Do nothing."""

    def read(self, step: int, part: int = 0) -> StepRecords:
        raise StoreError(f"step {step} is not stored but computed again; read it through SourceReader.")

    def held_tensors(self) -> Iterator[Tensor]:
        """Yield no tensor."""
        return iter(())

    def seal(self) -> None:
        """Do nothing."""
