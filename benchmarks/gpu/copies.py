"""Pages on their way: what leaves the device and comes back is what was computed, beside a device that is at work."""

from __future__ import annotations

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.meter import finish, gib, measured, seconds
from benchmarks.subjects import Subject
from fatezero_ext.attention.records import PRECISIONS, StepRecords, StoredTensor, records_bytes, to_precision
from fatezero_ext.inversion.loop import Recording
from fatezero_ext.inversion.source_reader import SourceReader
from fatezero_ext.inversion.trace import Trace
from fatezero_ext.storage.record_store import MemoryStore, RecordStore

CPU = torch.device("cpu")


class Both:
    """A store that writes each page to several, so that they hold what one computation gave, each in memory of its own:
    what spoils one of them must not spoil the other alike.
    """

    nbytes = 0
    parts = ()

    def __init__(self, *stores: RecordStore) -> None:
        self.stores = stores

    def write(self, step: int, page: StepRecords, part: int = 0) -> None:
        for store in self.stores:
            store.write(step, {at: type(record)(_own(record.kept)) for at, record in page.items()}, part)

    def seal(self) -> None:
        for store in self.stores:
            store.seal()


def _own(kept: StoredTensor) -> StoredTensor:
    return StoredTensor(kept.values.clone(), None if kept.scale is None else kept.scale.clone())


def run(bench: Bench) -> None:
    """Bandwidths, records alike to the bit, pages read beside work, and how much of the copying is hidden."""
    subject = bench.scene.subject(steps=bench.scale.few)
    _bandwidths(bench)
    _same_records(bench, subject)
    _read_beside_work(bench, subject)
    _hidden(bench, subject)


def _bandwidths(bench: Bench) -> None:
    """GB/s of one large copy: the ceiling of what a store in the computer's memory can take."""
    size = 2**20 if bench.scale.tiny else 2**28
    there, pinned = torch.ones(size, dtype=torch.uint8, device=bench.device), bench.device.type == "cuda"
    here, pageable = torch.empty(size, dtype=torch.uint8, pin_memory=pinned), torch.ones(size, dtype=torch.uint8)
    ways = {
        "to new memory": lambda: there.to(CPU, copy=True),
        "to pinned memory": lambda: here.copy_(there, non_blocking=True),
        "from pageable memory": lambda: there.copy_(pageable),
        "from pinned memory": lambda: there.copy_(here, non_blocking=True),
    }
    found = {name: size / 1e9 / seconds(bench.device, copy, 3) for name, copy in ways.items()}
    bench.keep("copies, GB/s", found)
    bench.line("copies", ", ".join(f"{rate:.1f} GB/s {name}" for name, rate in found.items()))


def _same_records(bench: Bench, subject: Subject) -> None:
    """In every precision, pages packed and moved beside the computation against those packed in its own stream."""
    forms = subject.recording("features").forms
    for precision in ("as computed", "int8") if bench.scale.tiny else PRECISIONS:
        moved, stayed = MemoryStore(CPU, precision), MemoryStore(None, precision)
        subject.inverted(Recording(Both(stayed, moved), forms))
        differing = _differing(stayed, moved, bench.scale.few)
        bench.keep(f"records that differ, {precision}", differing)
        bench.line(f"records that differ after their way, {precision}", str(len(differing)), "0")
        if differing:
            bench.wrong(f"{len(differing)} records in {precision} differ after their way")


def _differing(one: RecordStore, other: RecordStore, steps: int) -> list[str]:
    found = []
    for step in range(steps):
        first, second = one.read(step), other.read(step)
        missing = first.keys() ^ second.keys()
        found += [f"{step} {at}" for at in missing]
        for at in first.keys() - missing:
            pairs = zip(first[at].kept.tensors(), second[at].kept.tensors(), strict=True)
            if not all(a.cpu().equal(b.cpu()) for a, b in pairs):
                found.append(f"{step} {at}")
    return found


def _read_beside_work(bench: Bench, subject: Subject) -> None:
    """Pages that a thread brings back while the UNet runs, against the ones that never left."""
    forms, steps = subject.recording("features").forms, bench.scale.few
    stayed, moved = MemoryStore(), MemoryStore(CPU)
    trace = subject.inverted(Recording(Both(stayed, moved), forms))
    trace = Trace(**{**vars(trace), "store": moved})
    wrong = []
    with torch.no_grad(), SourceReader(subject.unet, trace, [frozenset(forms)] * steps) as pages:
        for step in range(steps):
            page = pages.read(step)
            # The device is busy and its memory changes hands while the next page is on its way.
            subject.unet(subject.latents, 501, subject.texts[:1], frames=len(subject.latents))
            for at, source in page.items():
                kept = stayed.read(step)[at].kept.tensors()
                here = source.record.kept.tensors()
                if not all(a.device.type == bench.device.type and a.equal(b) for a, b in zip(here, kept, strict=True)):
                    wrong.append(f"{step} {at}")
    bench.keep("records that differ when read beside work", wrong)
    bench.line("records that differ when read beside work", str(len(wrong)), "0")
    if wrong:
        bench.wrong(f"{len(wrong)} records differ when read beside work")


def _hidden(bench: Bench, subject: Subject) -> None:
    """Seconds with a store in the computer's memory against one on the device, beside those of the copies alone."""
    device, few = bench.device, bench.scale.few
    forms = subject.recording("features").forms
    stores = {"gpu": lambda: MemoryStore(), "ram": lambda: MemoryStore(CPU)}
    figures: dict[str, float] = {}
    traces = {}
    for name, store in stores.items():
        took = [measured(device, lambda store=store: subject.inverted(Recording(store(), forms))) for _ in range(2)]
        traces[name] = took[-1].result
        figures[f"inversion_{name}_s"] = took[-1].seconds
        subject.edited(traces[name])
        figures[f"edit_{name}_s"] = measured(device, lambda name=name: subject.edited(traces[name])).seconds
    on_device = [traces["gpu"].store.read(step) for step in range(few)]
    finish(device)
    alone = measured(device, lambda: [to_precision(page, CPU, "as computed") for page in on_device])
    back = measured(device, lambda: [to_precision(page, device, "as computed") for page in alone.result])
    figures |= {
        "copies_out_s": alone.seconds,
        "copies_back_s": back.seconds,
        "records_bytes": records_bytes(on_device[0]),
    }
    bench.keep(f"{few} steps", figures)
    for run_, copies in (("inversion", "copies_out_s"), ("edit", "copies_back_s")):
        more = figures[f"{run_}_ram_s"] - figures[f"{run_}_gpu_s"]
        bench.line(
            f"{few} steps of {run_} in ram against gpu",
            f"{more:+.2f} s, of {figures[copies]:.2f} s that {gib(few * figures['records_bytes'])} take alone",
        )
