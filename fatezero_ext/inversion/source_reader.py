"""The source's attention as an edit reads it: step by step, from wherever it is stored."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..attention.clip_parts import Parts, part_sites, whole_clip
from ..attention.functional import Attend, plain
from ..attention.records import Record, StepRecords, to_precision
from ..attention.sites import LayerAddress, Site
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError, StoreError
from ..memory.free_memory import OutOfMemoryError
from ..storage.disk_cache.tensor_file import DamagedFile
from ..storage.disk_store import DiskStore
from ..storage.offload import copy_stream
from ..storage.record_store import MemoryStore, Recomputed, RecordStore
from .footprint import ClipShape, recorded_forms
from .guided_prediction import OnFrames, ignore_frames
from .source_parts import CarriedFrames, SourceRun, StoredPages
from .trace import Trace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskedText:
    """A text whose words are looked for in the source, whether its prompt has them or not.

    text:   [1, tokens, width] text embedding
    layers: the cross-attention layers that show where these words are
    steps:  at which they are looked for
    """

    text: Tensor
    layers: Collection[LayerAddress]
    steps: Collection[int]


def check_repeatable(unet: NoiseModel, layer: LayerAddress) -> None:
    """Raise SettingsError if a registered controller keeps the source from running again as it did.

    layer: whose maps are stored, for the error
    """
    if unet.attend is not unet.kernel:
        raise SettingsError(
            f"{layer} is stored as maps, in which words outside the source prompt cannot be looked for; the source "
            f"would have to run again, and a registered controller may change it. Use words of the source prompt, "
            f"or unregister the controller."
        )


class SourceReader:
    """Reads an inversion's records in the order of an edit's steps.

    Records that are on disk or on another device are fetched one step ahead by a thread of their own, on a stream of
    its own if the device has streams. Records that are not stored, or are damaged on disk, are computed again.

    wanted: for each step the layers that will be read; steps without any are skipped
    asked:  a text beside the source prompt whose attention is read, see `SourceAttention.heat`; its layers' queries are
            needed: where maps are stored, the source runs again up to these layers, one UNet call at each of its steps
    parts:  of the clip, read one by one at each step, in their order; none: the clip is read whole
    spread: cross-attention layers whose heat is read for the frames before a part as well, see `spread_over_shapes`
    on_frames: called with 0 while the source runs again; raising ends the run
    Use it in a `with` statement: it ends the thread.
    """

    def __init__(
        self,
        unet: NoiseModel,
        trace: Trace,
        wanted: Sequence[Collection[LayerAddress]],
        asked: AskedText | None = None,
        *,
        parts: Parts = (),
        spread: Collection[LayerAddress] = (),
        on_frames: OnFrames = ignore_frames,
    ) -> None:
        self._on_frames = on_frames
        self._unet, self._trace, self._wanted, self._spread = unet, trace, wanted, frozenset(spread)
        self._asked_text = None if asked is None else asked.text
        self._asked_layers: Collection[LayerAddress] = () if asked is None else asked.layers
        self._asked_steps: Collection[int] = () if asked is None else frozenset(asked.steps)
        self._thread = ThreadPoolExecutor(1, "source records") if _is_far(trace.store, unet.device) else None
        self._stream = copy_stream(unet.device) if self._thread and unet.device.type == "cuda" else None
        self._coming: dict[tuple[int, int], Future[StepRecords]] = {}
        self.split(parts or whole_clip(trace.frames))

    def split(self, parts: Parts) -> None:
        """Read other parts of the clip from here on, beginning with the first of a step."""
        self._parts = parts
        self.begin_again()
        self._sites = self._sites_under(self._trace.text)
        self._asked_sites = () if self._asked_text is None else self._sites_under(self._asked_text)
        # Records of all parts at once would fill the device: each is brought there when its layer is computed.
        self._parked = len(parts) > 1 and self._unet.joins_parts
        self._source = SourceRun(self._unet, self._trace, parts, self._on_frames)
        self._carried, self._carried_asked = CarriedFrames(), CarriedFrames()

    def begin_again(self) -> None:
        """Begin a step again, with nothing of it in hand: what was read may have left the device since."""
        waiting = [coming for coming in self._coming.values() if not coming.cancel()]
        wait(waiting)  # their thread must have ended with the pages
        self._coming = {}
        self._pages = StoredPages(self._trace.store, self._parts, self._trace.frames)

    def _sites_under(self, text: Tensor) -> Sequence[Mapping[LayerAddress, Site]]:
        sites = self._unet.source_sites(text, self._trace.frames, *self._trace.size)
        return [part_sites(sites, part) for part in self._parts]

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(self, *_ended: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def read(self, step: int, number: int = 0) -> SourceRecords:
        """Return the source's attention that a step reads, on the UNet's device; {} if it reads none.

        number: of the part whose frames it is read for
        """
        if not self._wanted[step]:
            return {}
        part, sites, kernel = self._parts[number], self._sites[number], self._unet.kernel
        records = (
            self._computed(step, number) if isinstance(self._trace.store, Recomputed) else self._stored(step, number)
        )
        if missing := [at for at in self._wanted[step] if at not in records]:
            raise StoreError(
                f"step {step} of the inversion has no attention of {missing[0]}, which an edit reads. Invert again."
            )
        keyed = [at for at, record in records.items() if record.form == "features" and sites[at].key_frames]
        spread = [at for at in records if at in self._spread]
        whole = self._carried.with_before(records, part, [*keyed, *spread])
        heat = {at: SourceAttention(whole[at], sites[at], kernel) for at in spread if part.before}
        heat.update(self._asked(step, number, records))
        own = {**records, **{at: whole[at] for at in keyed}}
        return {at: SourceAttention(record, sites[at], kernel, heat.get(at)) for at, record in own.items()}

    def _asked(self, step: int, number: int, records: StepRecords) -> Mapping[LayerAddress, SourceAttention]:
        """Return the attention of the asked text at a step: recorded queries with this text's keys."""
        layers = [at for at in self._asked_layers if at in self._wanted[step]] if step in self._asked_steps else []
        queries = {at: records[at] for at in layers if records[at].form == "features"}
        if maps := [at for at in layers if at not in queries]:
            check_repeatable(self._unet, maps[0])
            queries = {**queries, **self._source.record(step, number, dict.fromkeys(maps, "features"))}
        spread = [at for at in layers if at in self._spread]
        queries = {**queries, **self._carried_asked.with_before(queries, self._parts[number], spread)}
        return {at: SourceAttention(queries[at], self._asked_sites[number][at], self._unet.kernel) for at in layers}

    def _stored(self, step: int, number: int) -> StepRecords:
        if self._thread is None:
            return self._fetched(step, number)
        coming = self._coming.pop((step, number), None) or self._thread.submit(self._fetched, step, number)
        if isinstance(coming.exception(), OutOfMemoryError):
            # It was fetched beside a step at its peak; between two steps there is room.
            coming = self._thread.submit(self._fetched, step, number)
        following = self._following(step, number)
        if following is not None and following not in self._coming:
            self._coming[following] = self._thread.submit(self._fetched, *following)
        try:
            records = coming.result()
        except DamagedFile:
            try:
                # Reading may have failed once, or another process has made the entry anew since the prefetch.
                records = self._thread.submit(self._fetched, step, number).result()
            except DamagedFile as damage:
                log.warning("%s Step %d is computed again.", damage, step)
                return self._computed_again(step, number)
        if self._stream is not None and not self._parked:
            for record in records.values():
                for tensor in record.kept.tensors():
                    tensor.record_stream(torch.cuda.current_stream(self._unet.device))
        return records

    def _following(self, step: int, number: int) -> tuple[int, int] | None:
        """Return the step and the part that are read next."""
        if number + 1 < len(self._parts):
            return step, number + 1
        return next(((later, 0) for later in range(step + 1, len(self._wanted)) if self._wanted[later]), None)

    def _fetched(self, step: int, number: int) -> StepRecords:
        records = self._pages.read(step, number, self._wanted[step])
        if self._parked:
            return records
        with torch.cuda.stream(self._stream):
            moved = {
                at: type(record)(record.kept.to(self._unet.device, non_blocking=True)) for at, record in records.items()
            }
        if self._stream is not None:
            self._stream.synchronize()  # in this thread: the edit's own never waits for the device
        return moved

    def _computed_again(self, step: int, number: int) -> StepRecords:
        """Compute damaged records of a step again, in their stored precision; the next inversion is saved anew."""
        store = self._trace.store
        assert isinstance(store, DiskStore)
        store.forget()
        place = None if self._parked else self._unet.device
        return to_precision(self._computed(step, number, store.policy), place, store.precision)

    def _computed(self, step: int, number: int, policy: Literal["features", "maps"] = "features") -> StepRecords:
        forms = recorded_forms(self._unet, self._trace.capture, policy, self._shape)
        if policy == "features" and step in self._asked_steps:
            forms |= dict.fromkeys(self._asked_layers, "features")
        return self._source.record(step, number, {at: form for at, form in forms.items() if at in self._wanted[step]})

    @property
    def _shape(self) -> ClipShape:
        return ClipShape(self._trace.frames, *self._trace.size, self._trace.text.shape[1])


def _is_far(store: RecordStore, device: torch.device) -> bool:
    """Return whether records must be moved: from files, or from the computer's memory to another device."""
    if isinstance(store, MemoryStore):
        return store.device is not None and store.device.type != device.type
    return not isinstance(store, Recomputed)


@dataclass(frozen=True)
class SourceAttention:
    """One layer's attention of the source, on the UNet's device or to be brought there when it is read.

    site:   of the call that was recorded
    kernel: computes attention from stored features
    asked:  the attention that words of an `AskedText` get in this layer; None: only those of the source prompt are read
    """

    record: Record
    site: Site
    kernel: Attend = plain
    asked: SourceAttention | None = None

    @property
    def heat(self) -> SourceAttention:
        """The attention that shows where words are."""
        return self.asked or self

    def apply(self, v: Tensor) -> Tensor:
        """Apply the source's attention to values [frames, heads, tokens, dim]."""
        return self._on(v.device).apply(v, self.site, self.kernel)

    def probs(self, like: Tensor) -> Tensor:
        """Return the source's map [frames, heads, cells, keys], with the device and dtype of `like`."""
        return self._on(like.device).probs(like, self.site)

    def _on(self, device: torch.device) -> Record:
        kept = self.record.kept
        return self.record if kept.values.device == device else type(self.record)(kept.to(device))


SourceRecords = Mapping[LayerAddress, SourceAttention]
