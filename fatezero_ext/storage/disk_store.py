"""Stores pages in files that later runs and other programs find again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from ..attention.records import StepRecords, check_records, named_tensors, records_from
from ..attention.sites import LayerAddress
from ..choices import Precision
from ..errors import StoreError
from ..printable import format_bytes
from .disk_cache.completeness import FINISHED, LEVELS, finished_name, lacking, layers_of, page_name
from .disk_cache.entry import Draft, Entry
from .disk_cache.tensor_file import DamagedFile, Held
from .offload import Offloader

log = logging.getLogger(__name__)

ALIGNMENT = 64  # bytes, of the CPU memory that torch allocates


class DiskDraft:
    """Pages that a running inversion writes; nobody else sees them before `publish`.

    With each step it keeps the latents from which another run goes on, should this one end before that.
    failure: error that ended the writing, such as a full disk; None if there is none
    """

    def __init__(
        self, draft: Draft, precision: Precision, layers: Collection[LayerAddress], parts: Sequence[Sequence[int]] = ()
    ) -> None:
        """layers: the layers that every page must have; parts: see `RecordStore`"""
        self.failure: StoreError | None = None
        self._abandoned = False
        self.nbytes = 0
        self._draft, self._layers, self.parts = draft, layers, parts
        self._offloader = Offloader(precision)

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        check_records(page, self._layers, step)
        if self.failure is None:
            self._offloader.submit(page, partial(self._save, page_name(step, part if self.parts else None)))

    def read(self, step: int, part: int = 0) -> StepRecords:
        raise StoreError(f"step {step} is still being written; it can be read once the inversion is done.")

    def held_tensors(self) -> Iterator[Tensor]:
        """None: they are on their way to disk."""
        return iter(())

    def seal(self) -> None:
        self._offloader.finish()

    def finish_step(self, done: int, latents: Mapping[str, Tensor]) -> None:
        """Keep the latents after so many steps of the run, whose pages were written: another run goes on from here."""
        if self.failure is None:
            self._offloader.follow(latents, partial(self._save_finished, finished_name(done)))

    def finished_steps(self, pages: Sequence[Sequence[str]], sound: Callable[[Mapping[str, Tensor]], str]) -> int:
        """Count the steps that an earlier run finished and whose files are what it wrote; all other files are deleted.

        pages: names of the files of each step, in the order in which the run comes to them
        sound: returns why latents of a step cannot be used, a clause, or ""
        """
        kept: list[str] = []
        for number, names in enumerate(pages):
            needed, latents = [*names, finished_name(number + 1)], finished_name(number + 1)
            if not set(needed) <= set(self._draft.names):
                break
            try:
                for name in names:
                    self._draft.check(name)
                if reason := sound(self._draft.read(latents)):
                    raise DamagedFile(self._draft.place(latents), reason)
            except DamagedFile as damage:
                log.warning("%s Of the unfinished inversion %d steps are used.", damage, number)
                break
            kept += needed
        self._draft.keep(kept)
        return sum(name.startswith(FINISHED) for name in kept)

    def finished_step(self, done: int) -> Mapping[str, Tensor]:
        """Read the latents after a finished step, see `finish_step`."""
        return {name: aligned(tensor) for name, tensor in self._draft.read(finished_name(done)).items()}

    def publish(self, levels: Mapping[str, Held]) -> Entry | None:
        """Add the latents and make it an entry that everybody finds; None if that failed."""
        try:
            if self.failure is None:
                self._draft.write(LEVELS, levels)
                return self._draft.publish([name for name in self._draft.names if not name.startswith(FINISHED)])
        except StoreError as error:  # where the folder is only locked, a later run publishes what was left
            self.failure = error
        return None

    def leave(self) -> None:
        """Let another run go on behind the last finished step; after publishing or `abandon`, does nothing."""
        if not self._abandoned:
            with suppress(Exception):  # of a page that cannot be stored: its step is not finished
                self._offloader.finish()
        self._draft.leave()

    def abandon(self) -> None:
        """Delete all that was written, and drop a page that is on its way. After publishing, does nothing."""
        self._abandoned = True
        self._draft.abandon()
        self._offloader.stop()

    def _save(self, name: str, page: StepRecords) -> None:
        self._written(name, named_tensors(page))

    def _save_finished(self, name: str, latents: Mapping[str, Tensor]) -> None:
        if self.failure is None:
            self._written(name, latents, self._draft.checkpoint)

    def _written(self, name: str, tensors: Mapping[str, Tensor], then: Callable[[], None] = lambda: None) -> None:
        try:
            self._draft.write(name, tensors)
            then()
        except StoreError as error:
            if not self._abandoned:
                self._failed(error)

    def _failed(self, error: StoreError) -> None:
        self.failure = error
        self._draft.abandon()


@dataclass(frozen=True)
class DiskStore:
    """Pages of a published entry, read when needed, each checked against its checksum.

    policy, precision, level_offset: settings of the recording, with which a damaged page is computed again
    layers: the layers that every page must have; a page that lacks one is damaged
    parts: see `RecordStore`
    """

    entry: Entry
    policy: Literal["features", "maps"]
    precision: Precision
    level_offset: int
    layers: frozenset[LayerAddress] = frozenset()
    parts: Sequence[Sequence[int]] = ()

    def __repr__(self) -> str:
        return f"DiskStore({self.entry.key[:12]}, {format_bytes(self.nbytes)})"

    @property
    def nbytes(self) -> int:
        return self.entry.nbytes

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        raise StoreError(f"step {step} came after the store was sealed; invert again to record anew.")

    def read(self, step: int, part: int = 0) -> StepRecords:
        name = page_name(step, part if self.parts else None)
        if name not in self.entry.names:
            raise DamagedFile(self.entry.place(name), "it is not there")
        tensors = self.entry.read(name)
        missing = {str(at) for at in self.layers} - layers_of(tensors)
        if missing:
            raise DamagedFile(self.entry.place(name), lacking(missing))
        return records_from({name: aligned(tensor) for name, tensor in tensors.items()})

    def held_tensors(self) -> Iterator[Tensor]:
        """Yield no tensor: they are on disk."""
        return iter(())

    def seal(self) -> None:
        """Do nothing: a published entry is sealed."""

    def forget(self) -> None:
        """Let no later run find the entry, part of which is damaged, so that it is made anew."""
        try:
            self.entry.forget()
        except StoreError as error:
            log.warning("%s The damaged inversion stays in the cache.", error)


def aligned(x: Tensor) -> Tensor:
    """The tensor at an address that torch would choose: kernels may round differently at others."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()
