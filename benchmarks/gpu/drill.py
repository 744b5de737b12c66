"""Too little memory on purpose: remedies are taken in their order, and the result stays the same.

On a GPU torch's allocator is given a limit. On a CPU, calls of the UNet run out of memory by a model of it: what the
store holds, and half of a full store for each text in the call.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.meter import Measured, finish, gib, measured, relative
from benchmarks.subjects import Subject
from fatezero_ext.attention.records import Form, to_precision
from fatezero_ext.attention.sites import LayerAddress
from fatezero_ext.inversion.guided_prediction import OUT_OF_MEMORY_ADVICE
from fatezero_ext.inversion.loop import Recording
from fatezero_ext.inversion.trace import Trace
from fatezero_ext.memory.free_memory import OutOfMemoryError
from fatezero_ext.storage.record_store import MemoryStore

CPU = torch.device("cpu")
REMEDIES = ("recorded attention moves to the computer's memory", "the two halves of guidance are computed one after the other")  # fmt: skip  # noqa: E501
SMALL_THINGS = 256 * 2**20
"""Bytes: less than one call of 8 frames takes, more than latents, texts and masks do."""
OUT_OF_ORDER, TOO_FAR = "OUT OF ORDER", "TOO FAR"
LIKE = 2e-2
"""How far half precision may lie from itself where batches of another size take other kernels."""


@dataclass
class Room:
    """The memory that a run may take.

    store: of the run, for the model of a CPU; full: bytes of a full store
    """

    device: torch.device
    store: MemoryStore
    full: int

    def need(self, batch_in_clips: float) -> float:
        """Bytes by the model of a CPU."""
        held = self.store.nbytes if self.store.device is None else 0
        return held + batch_in_clips * self.full / 2

    @contextmanager
    def capped(self, subject: Subject, limit: float) -> Iterator[None]:
        """No more than `limit` bytes within the block."""
        gc.collect()
        finish(self.device)
        if self.device.type != "cuda":
            with self._simulated(subject, limit):
                yield
            return
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    @contextmanager
    def _simulated(self, subject: Subject, limit: float) -> Iterator[None]:
        def check(_net: object, given: tuple[Tensor, ...]) -> None:
            if self.need(len(given[0]) / len(subject.latents)) > limit:
                raise OutOfMemoryError("out of memory, by the model of it")

        hook = subject.unet.net.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()


@dataclass(frozen=True)
class Drill:
    """What is tried under limits of memory. ready: before the limit is set; work: under it."""

    name: str
    bench: Bench
    subject: Subject
    room: Room
    ready: Callable[[], object]
    work: Callable[[], Tensor]

    def needs(self) -> Measured[Tensor]:
        """Without a limit, from an empty allocator: what it reserves is what a limit counts."""
        self.ready()
        self.work()
        self.ready()
        gc.collect()
        if self.bench.device.type == "cuda":
            torch.cuda.empty_cache()
        return measured(self.bench.device, self.work)

    def under(self, limit: float, wanted: Tensor) -> dict[str, object]:
        """One run under a limit, beside what it should give."""
        found: dict[str, object] = {"limit": limit, "remedies": [], "error": None}
        self.ready()
        with _warnings_of(found["remedies"]):
            try:
                with self.room.capped(self.subject, limit):
                    got = self.work()
                found |= {"relative": relative(got, wanted), "equal": got.equal(wanted)}
            except RuntimeError as error:  # other classes too: a library may fail in its own way where memory is short
                found["error"] = f"{type(error).__name__}: {error}"[-400:]
        found["in_order"] = tuple(found["remedies"]) == REMEDIES[: len(found["remedies"])]
        tried = sum(key.startswith(f"{self.name} within") for key in self.bench.part.figures)
        self.bench.keep(f"{self.name} within limit {tried + 1}", found)
        told = _told(found)
        self.bench.line(f"{self.name} within {gib(int(limit))}", told)
        if OUT_OF_ORDER in told or TOO_FAR in told:
            self.bench.wrong(f"{self.name} within {gib(int(limit))}: {told}")
        return found


def run(bench: Bench) -> None:
    """An inversion and an edit under lower and lower limits, beside what they give without one."""
    subject, steps = bench.scene.subject(steps=bench.scale.few, name="shape"), bench.scale.few
    forms = subject.recording("features").forms
    reference = subject.inverted(Recording(MemoryStore(CPU), forms))
    pages = [reference.store.read(step) for step in range(steps)]
    room, traces = Room(bench.device, MemoryStore(), reference.store.nbytes), []
    bench.keep("bytes of a full store", room.full)

    def empty() -> None:
        traces.clear()
        room.store = MemoryStore()

    def full() -> None:
        empty()
        for step, page in enumerate(pages):
            room.store.write(step, to_precision(page, bench.device, "as computed"))
        room.store.seal()
        traces.append(Trace(**{**vars(reference), "store": room.store}))

    least = _least(bench)
    _inversions(Drill("inversion", bench, subject, room, empty, lambda: _inverted(subject, room, forms)), least)
    _edits(Drill("edit", bench, subject, room, full, lambda: subject.edited(traces[0])), least)


def _inverted(subject: Subject, room: Room, forms: Mapping[LayerAddress, Form]) -> Tensor:
    return subject.inverted(Recording(room.store, forms)).noise


def _least(bench: Bench) -> float:
    """Bytes that no call fits in: the weights, and room for small things."""
    if bench.device.type != "cuda":
        return 1.0
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(bench.device) + SMALL_THINGS


def _inversions(drill: Drill, least: float) -> None:
    """Two limits that the store outgrows on the way, and one that nothing fits in."""
    needs = drill.needs()
    highest, full = needs.reserved or 1.5 * drill.room.full, drill.room.full
    for limit in (highest - 0.3 * full, highest - 0.7 * full, least):
        drill.under(limit, needs.result)


def _edits(drill: Drill, least: float) -> None:
    """Limits from what an edit takes down to what it cannot do with."""
    needs = drill.needs()
    highest, seen = needs.reserved or 2.05 * drill.room.full, []
    levels = drill.bench.scale.limits
    for level in range(levels):
        limit = highest - (highest - least) * level / (levels - 1)
        seen.append(drill.under(limit, needs.result))
    ways = [" then ".join(str(REMEDIES.index(each) + 1) for each in one["remedies"]) or "none" for one in seen]
    drill.bench.line("remedies of an edit as the limit falls", ", ".join(dict.fromkeys(ways)), "none, 1, 1 then 2")


def _told(found: dict[str, object]) -> str:
    taken = f"{len(found['remedies'])} remedies" + ("" if found["in_order"] else f", {OUT_OF_ORDER}")
    if found["error"] is None:
        far = "" if found["relative"] <= LIKE else f", {TOO_FAR}"
        return f"{taken}, {'the same bits' if found['equal'] else format(found['relative'], '.1e')}{far}"
    return f"{taken}, then the error {'with' if OUT_OF_MEMORY_ADVICE in found['error'] else 'WITHOUT'} its advice"


@contextmanager
def _warnings_of(into: list[str]) -> Iterator[None]:
    """Collects what is said of remedies, without the sentence around it."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            into.extend(remedy for remedy in REMEDIES if remedy in record.getMessage())

    log, handler = logging.getLogger("fatezero_ext"), Collect()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
