"""The source's attention of a part of a clip: cut from stored pages, or computed by running the source again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from ..attention.clip_parts import ClipPart, PartCalls, Parts, rows_of
from ..attention.records import Form, Record, StepRecords, StoredTensor, joined_frames
from ..attention.sites import LayerAddress
from ..diffusion.noise_model import NoiseModel
from ..storage.disk_store import DiskStore
from ..storage.offload import CPU
from ..storage.record_store import MemoryStore, Recomputed, RecordStore, on_device
from .guided_prediction import OnFrames, ignore_frames, looked_after, parked_at
from .recording import PassEnded, RecordAttention
from .trace import Trace, keeps_levels


class StoredPages:
    """Pages of a store, read part by part, in whatever parts they were written.

    What holds frames of several parts is read once a step: the parts are asked for in their order.
    """

    def __init__(self, store: RecordStore, parts: Parts, frames: int) -> None:
        """frames: of the whole clip"""
        self._store = store
        written = store.parts or (range(frames),)
        self._sources = [_sources(part, written) for part in parts]
        self._last_part = {place: number for number, found in enumerate(self._sources) for place, _rows in found}
        self._order = [_order(part, written, found) for part, found in zip(parts, self._sources, strict=True)]
        self._step, self._open = -1, dict[int, StepRecords]()

    def read(self, step: int, number: int, layers: Collection[LayerAddress]) -> StepRecords:
        """Read the records of some layers for a part, in rows of its frames. Raises what the store does."""
        if step != self._step:
            self._step, self._open = step, {}
        pages = []
        for place, rows in self._sources[number]:
            if place not in self._open:
                self._open[place] = self._store.read(step, place)
            pages.append((self._open[place], rows))
        self._open = {place: page for place, page in self._open.items() if self._last_part[place] > number}
        order = self._order[number]
        there = [at for at in pages[0][0] if at in layers and all(at in page for page, _rows in pages)]
        return {at: _cut(at, pages, order) for at in there}


_Rows = slice | list[int] | None


def _sources(part: ClipPart, written: Sequence[Sequence[int]]) -> list[tuple[int, _Rows]]:
    """Return which stored parts hold frames of a part, and at which rows; None: at all of them."""
    wanted, found = set(part.frames), list[tuple[int, _Rows]]()
    for place, frames in enumerate(written):
        if rows := [row for row, frame in enumerate(frames) if frame in wanted]:
            found.append((place, None if len(rows) == len(frames) else rows_of(rows)))
    return found


def _order(part: ClipPart, written: Sequence[Sequence[int]], found: list[tuple[int, _Rows]]) -> list[int] | None:
    """Return what puts frames as they were found into the part's order; None where they are in order."""
    came = [frame for place, _rows in found for frame in written[place] if frame in part.frames]
    return None if came == sorted(came) else sorted(range(len(came)), key=came.__getitem__)


def _cut(at: LayerAddress, pages: Sequence[tuple[StepRecords, _Rows]], order: list[int] | None) -> Record:
    pieces = [page[at].kept if rows is None else page[at].kept.frames(rows) for page, rows in pages]
    if order is None and len(pieces) == 1 and pages[0][1] is None:
        return pages[0][0][at]
    kept = joined_frames(pieces)
    return type(pages[0][0][at])(kept if order is None else kept.frames(order))


class PageParts:
    """One page on its way to a store: written in the store's parts, in whatever parts of the clip it comes."""

    def __init__(self, store: RecordStore, frames: int) -> None:
        """frames: of the whole clip"""
        self._store, self._places = store, store.parts or (range(frames),)
        self._came: dict[int, list[tuple[list[int], StepRecords]]] = {}
        self._written = set[int]()

    def begin(self) -> None:
        """Begin the page, again after a call that ran out of memory: what is written stays."""
        self._came = {}

    def write(self, step: int, records: StepRecords, frames: Sequence[int]) -> None:
        """Take the records of some frames, and store each part of the page whose last frames these are."""
        for place, wanted in enumerate(self._places):
            if place in self._written:
                continue
            if tuple(wanted) == tuple(frames):
                self._write(step, records, place)
                continue
            rows = {frame: row for row, frame in enumerate(frames) if frame in wanted}
            if not rows:
                continue
            came = self._came.setdefault(place, [])
            if list(rows) not in [there for there, _ in came]:  # as after a page that did not fit at first
                came.append((list(rows), self._held(records, list(rows.values()))))
            if sum(len(there) for there, _ in came) == len(wanted):
                self._write(step, _sorted_by_frame(came), place)
                del self._came[place]

    def _write(self, step: int, records: StepRecords, place: int) -> None:
        self._store.write(step, records, place)
        self._written.add(place)

    def _held(self, records: StepRecords, rows: list[int]) -> StepRecords:
        """Return rows of records to wait for others, off the device unless the store keeps them there."""
        held = {at: record.kept.frames(rows_of(rows)) for at, record in records.items()}
        place = None if on_device(self._store) else CPU
        return {at: type(records[at])(kept if place is None else kept.to(place)) for at, kept in held.items()}


def _sorted_by_frame(came: Sequence[tuple[list[int], StepRecords]]) -> StepRecords:
    numbers = [frame for frames, _ in came for frame in frames]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    joined = {at: joined_frames([records[at].kept for _, records in came]) for at in came[0][1]}
    in_order = {at: kept if order == list(range(len(order))) else kept.frames(order) for at, kept in joined.items()}
    return {at: type(came[0][1][at])(kept) for at, kept in in_order.items()}


class CarriedFrames:
    """Records of frames that later parts of a step read, such as the input that their keys are projected from."""

    def __init__(self) -> None:
        self._rows: dict[LayerAddress, dict[int, StoredTensor]] = {}

    def with_before(self, records: StepRecords, part: ClipPart, layers: Collection[LayerAddress]) -> StepRecords:
        """Return some layers' records with those of the frames before the part in front; carry on what is read later.

        The parts of a step come in their order; one may come twice.
        """
        self._rows = {
            at: {frame: row for frame, row in rows.items() if frame in part.before} for at, rows in self._rows.items()
        }
        found: dict[LayerAddress, Record] = {}
        for at in layers:
            record, rows = records[at], self._rows.setdefault(at, {})
            before = [rows[frame] for frame in part.before]
            found[at] = type(record)(joined_frames([*before, record.kept])) if before else record
            for frame in part.carried:
                row = part.frames.index(frame)
                # In memory of its own, so that the other frames' is given back.
                rows[frame] = record.kept.frames(slice(row, row + 1)).copied()
        return found


class SourceRun:
    """The source, run again part by part at the latents that it was recorded on."""

    def __init__(self, unet: NoiseModel, trace: Trace, parts: Parts, on_frames: OnFrames = ignore_frames) -> None:
        """on_frames: called with 0 before each call of the model, and within one of all parts; raising ends the run"""
        self._unet, self._trace, self._parts, self._on_frames = unet, trace, parts, on_frames
        self._together = len(parts) > 1 and unet.joins_parts
        self._calls = PartCalls(parts, unet.sites(trace.frames, *trace.size))
        self._next: tuple[int, LayerAddress | None, int] = (-1, None, 0)
        self._ahead: dict[tuple[int, frozenset[tuple[LayerAddress, Form]]], list[StepRecords]] = {}

    def record(self, step: int, number: int, forms: Mapping[LayerAddress, Form]) -> StepRecords:
        """Run a part at a step, up to the last of the layers; one UNet call of one chunk.

        A part that reads others follows them: where they were not run, they are run first.
        """
        last = [layer.address for layer in self._unet.layers if layer.address in forms][-1]
        if self._together:
            return self._recorded_ahead(step, number, forms, last)
        (at_step, until, following), first = self._next, number
        self._next = (-1, None, 0)  # where this call fails, all are run again
        if self._parts[number].before:
            first = following if (at_step, until) == (step, last) and following <= number else 0
        for each in range(first, number + 1):
            (records,) = self._recorded(step, self._parts[each : each + 1], forms, last)
            self._next = (step, last, each + 1)
        return records

    def _recorded_ahead(
        self, step: int, number: int, forms: Mapping[LayerAddress, Form], last: LayerAddress
    ) -> StepRecords:
        """Run all parts when the first is asked for; their records wait until the next step."""
        wanted = step, frozenset(forms.items())
        if wanted not in self._ahead:
            self._ahead = {key: records for key, records in self._ahead.items() if key[0] == step}
            self._ahead[wanted] = self._recorded(step, self._parts, forms, last)
        return self._ahead[wanted][number]

    def _recorded(
        self, step: int, group: Parts, forms: Mapping[LayerAddress, Form], last: LayerAddress
    ) -> list[StepRecords]:
        unet, level, park = self._unet, len(self._trace.schedule) - 1 - step, parked_at(group)
        # Each layer is computed for the last part when it was for all others: there alone the call may end.
        ends = [last if part is group[-1] else None for part in group]
        recorders = [RecordAttention(forms, unet.kernel, until=end, park=park) for end in ends]
        self._on_frames(0)
        watched = [looked_after(each, self._on_frames) for each in recorders] if len(group) > 1 else recorders
        with suppress(PassEnded):
            latents = [part.of(self._latents[level]).to(unet.device) for part in group]
            attends = [self._calls.attend(*each) for each in zip(watched, group, strict=True)]
            unet.predict_parts(latents, self._timesteps[step], self._text, attends)
        self._trace.let_go()
        return [recorder.records for recorder in recorders]

    @cached_property
    def _latents(self) -> Tensor:
        """All levels, where a run keeps them."""
        store = cast("Recomputed | DiskStore | MemoryStore", self._trace.store)
        latents = self._trace.source_latents(store.level_offset)
        return latents.to(keeps_levels(self._unet.device, self._parts, latents.nbytes))

    @cached_property
    def _timesteps(self) -> Tensor:
        return torch.tensor(self._trace.schedule.timesteps, device=self._unet.device)

    @cached_property
    def _text(self) -> Tensor:
        return self._trace.text.to(self._unet.device)
