"""Pages in files that later runs and other programs find again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from ..attention.records import StepRecords, check_records, named_tensors, records_from, to_precision
from ..attention.sites import LayerAddress
from ..choices import Precision
from ..errors import StoreError
from .disk_cache.completeness import LEVELS, lacking, layers_of, page_name
from .disk_cache.entry import Draft, Entry
from .disk_cache.tensor_file import DamagedFile
from .offload import CPU, Offloader

log = logging.getLogger(__name__)

ALIGNMENT = 64  # bytes, of the CPU memory that torch allocates


class DiskDraft:
    """Pages as they are written by an inversion that runs; nobody else sees them before `publish`.

    failure: why writing stopped, such as a full disk; None: all is well
    """

    def __init__(self, draft: Draft, precision: Precision, layers: Collection[LayerAddress]) -> None:
        """layers: that every page must have"""
        self.failure: StoreError | None = None
        self._abandoned = False
        self.nbytes = 0
        self._draft, self._layers = draft, layers
        self._carrier = Offloader(precision)

    def write(self, step: int, page: StepRecords) -> None:
        check_records(page, self._layers, step)
        if self.failure is None:
            self._carrier.submit(page, partial(self._save, step))

    def read(self, step: int) -> StepRecords:
        raise StoreError(f"step {step} is still being written; it can be read once the inversion is done.")

    def held_tensors(self) -> Iterator[Tensor]:
        """None: they are on their way to disk."""
        return iter(())

    def seal(self) -> None:
        self._carrier.finish()

    def publish(self, levels: Mapping[str, Tensor]) -> Entry | None:
        """Let everybody see it, with the latents beside the pages; None where writing failed."""
        try:
            if self.failure is None:
                self._draft.write(LEVELS, levels)
                return self._draft.publish()
        except StoreError as error:
            self._failed(error)
        return None

    def abandon(self) -> None:
        """Leave nothing behind; a page on its way is dropped. Of a published draft nothing is left to abandon."""
        self._abandoned = True
        self._draft.abandon()
        self._carrier.stop()

    def _save(self, step: int, page: StepRecords) -> None:
        try:
            self._draft.write(page_name(step), named_tensors(page))
        except StoreError as error:
            if not self._abandoned:
                self._failed(error)

    def _failed(self, error: StoreError) -> None:
        self.failure = error
        self._draft.abandon()


@dataclass(frozen=True)
class DiskStore:
    """Pages of a published entry, read when they are asked for, each checked against its checksum.

    policy, precision, level_offset: how they were recorded, so that a damaged one can be computed again
    layers: that every page must have; one that lacks any is damaged
    """

    entry: Entry
    policy: Literal["features", "maps"]
    precision: Precision
    level_offset: int
    layers: frozenset[LayerAddress] = frozenset()

    def __repr__(self) -> str:
        return f"DiskStore({self.entry.key[:12]}, {self.nbytes / 2**20:.1f} MiB)"

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes

    def write(self, step: int, page: StepRecords) -> None:
        raise StoreError(f"step {step} came after the store was sealed; invert again to record anew.")

    def read(self, step: int) -> StepRecords:
        name = page_name(step)
        if name not in self.entry.names:
            raise DamagedFile(self.entry.place(name), "it is not there")
        tensors = self.entry.read(name)
        missing = {str(at) for at in self.layers} - layers_of(tensors)
        if missing:
            raise DamagedFile(self.entry.place(name), lacking(missing))
        return records_from({name: aligned(tensor) for name, tensor in tensors.items()})

    def held_tensors(self) -> Iterator[Tensor]:
        """None: they are on disk."""
        return iter(())

    def seal(self) -> None:
        """It is sealed since it was published."""

    def repair(self, step: int, page: StepRecords) -> None:
        """Write a damaged page anew; one that cannot be written stays damaged, and is computed again each time."""
        try:
            check_records(page, self.layers, step)
            self.entry.repair(page_name(step), named_tensors(to_precision(page, CPU, "as computed")))
        except StoreError as error:
            log.warning("%s Step %d stays damaged.", error, step)


def aligned(x: Tensor) -> Tensor:
    """The tensor at an address as torch's own: kernels may round differently at others."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
