"""The run of a planned inversion: found in the cache, or computed with its attention recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ..attention.clip_parts import Parts
from ..attention.records import Form
from ..attention.sites import LayerAddress
from ..errors import ModelError, StoreError
from ..storage.disk_cache.cache import InversionCache
from ..storage.disk_cache.completeness import EVALUATED, LEVELS, WRONG_PARTS, page_names, stored_parts, unusable
from ..storage.disk_cache.entry import Entry
from ..storage.disk_cache.tensor_file import DamagedFile
from ..storage.disk_store import DiskDraft, DiskStore
from ..storage.record_store import MemoryStore, Recomputed, RecordStore
from .cache_key import cache_key, entry_about
from .checkpoints import LATENTS, NO_CHECKPOINTS, Checkpoints, RunFiles, resumed
from .footprint import recorded_forms
from .guided_prediction import OnFrames, OnStep, StepDone, ignore_frames
from .loop import NO_RECORDING, Recording, invert_latents, reconstruct_latents
from .plan import InversionPlan
from .storage_plan import StoragePlan, reads_evaluated
from .trace import LevelsRoom, Trace

log = logging.getLogger(__name__)

OnPlan = Callable[[str], None]


def ignore_plan(sentence: str) -> None:
    """The default `on_plan`."""


@dataclass(frozen=True)
class GuidedTexts:
    """Texts [2 or 1, tokens, width] and the guidance of a reconstruction."""

    texts: Tensor
    guidance: float


def stores_evaluated(plan: InversionPlan, guided: GuidedTexts | None) -> bool:
    """Return whether the latents that the UNet was called on are others than the levels; a reconstruction's are not."""
    return plan.inversion_passes > 0 and guided is None


@dataclass(frozen=True)
class InversionRun:
    """One inversion, ready to run.

    may_recompute: whether edits may run the source again if its attention cannot be stored
    """

    plan: InversionPlan
    text: Tensor
    guided: GuidedTexts | None
    chosen: StoragePlan
    may_recompute: bool
    on_step: OnStep
    on_frames: OnFrames = ignore_frames

    @property
    def level_offset(self) -> int:
        """Offset of the level whose latents recomputed attention starts from, see `Recomputed`."""
        return int(self.guided is not None or self.chosen.storage.policy == "recompute same level")

    @cached_property
    def forms(self) -> Mapping[LayerAddress, Form]:
        """The form in which each layer is recorded; none for policies that recompute."""
        policy = self.chosen.storage.policy
        if not (policy == "features" or policy == "maps"):
            return {}
        return recorded_forms(self.plan.unet, self.plan.capture, policy, self.plan.shape(self.text.shape[1]))

    @cached_property
    def parts(self) -> Parts:
        """The parts in which the clip is computed."""
        return self.plan.parts

    @property
    def stored_parts(self) -> list[list[int]]:
        """The frames of each part of a page; none where the clip is computed whole."""
        return [list(part.frames) for part in self.parts] if len(self.parts) > 1 else []

    def memory_store(self) -> RecordStore:
        """Return an empty store in the computer's memory or the device's."""
        storage = self.chosen.storage
        if storage.recomputes:
            return Recomputed(self.level_offset)
        device = torch.device("cpu") if storage.place == "ram" else None
        return MemoryStore(device, storage.precision, frozenset(self.forms), self.level_offset, self.stored_parts)

    def computed(self, store: RecordStore, checkpoints: Checkpoints = NO_CHECKPOINTS) -> Trace:
        """Run the UNet, and fill the store."""
        plan, unet, guided = self.plan, self.plan.unet, self.guided
        inverting, reconstructing = checkpoints.split(len(plan.schedule))
        steps = len(plan.schedule)
        total = steps if guided is None else 2 * steps
        recording = Recording(store, self.forms)
        inverted = invert_latents(
            unet,
            plan.latents.to(unet.device),
            self.text.to(unet.device),
            plan.prompt,
            plan.schedule,
            capture=plan.capture,
            recording=recording if guided is None else NO_RECORDING,
            passes=plan.inversion_passes,
            keep_evaluated=guided is None and reads_evaluated(self.chosen.storage),
            controlled=guided is None,
            on_step=lambda step: self.on_step(replace(step, total=total)),
            on_frames=self.on_frames,
            parts=self.parts,
            checkpoints=inverting,
        )
        if guided is None:
            return replace(inverted, store=store)
        return reconstruct_latents(
            unet,
            inverted,
            guided.texts.to(unet.device),
            guided.guidance,
            recording=recording,
            on_step=lambda step: self.on_step(replace(step, done=steps + step.done, total=total)),
            on_frames=self.on_frames,
            parts=self.parts,
            checkpoints=reconstructing,
        )

    def without_records(self) -> Trace:
        """Run the UNet, and keep the latents alone."""
        storage = replace(self.chosen.storage, policy="recompute", place="ram")
        return replace(self, chosen=replace(self.chosen, storage=storage)).computed(Recomputed(self.level_offset))

    def through_cache(self, cache: InversionCache, on_plan: OnPlan) -> Trace:
        """Take the inversion from the cache if it is there, else run it and save it there."""
        storage, files = self.chosen.storage, self._files
        guided = None if self.guided is None else (self.guided.texts, self.guided.guidance)
        key, nbytes = cache_key(self.plan, self.text, storage, guided), self.chosen.most_bytes
        about = entry_about(self.plan, storage, self.forms, self.stored_parts)
        if saved := self._found(cache, key):
            return self._reported(saved, on_plan, cache.folder / key)
        try:
            left = resumed(cache, key, about, nbytes)
            if left is None and (saved := self._found(cache, key)):  # what was left was whole
                return self._reported(saved, on_plan, cache.folder / key)
            begun = left or cache.begin(key, about, nbytes)
            # A run that goes on writes the pages in the parts of the one before, in whatever parts it computes.
            parts = stored_parts(begun.about) or []
            draft = DiskDraft(begun, storage.precision, frozenset(self.forms), parts)
            done = draft.finished_steps(files.pages(len(parts)), files.fault) if left else 0
        except StoreError as error:
            if not self.may_recompute:
                raise
            on_plan(f"{error} Nothing is kept instead: edits run the source again.")
            return self.without_records()
        try:
            behind = f"goes on behind step {done} of {files.total}, where a run of it ended: " if done else ""
            on_plan(f"{behind}{self.chosen}, in {cache.folder}")
            trace = self.computed(draft, Checkpoints(draft, finished=done, folder=cache.folder))
            evaluated = {} if trace.evaluated is None else {EVALUATED: trace.evaluated}
            entry = draft.publish({LATENTS: trace.latents, "noise": trace.noise, **evaluated, **trace.paged})
        except ModelError:  # its numbers were refused: whoever goes on from them is refused too
            draft.abandon()
            raise
        finally:
            draft.leave()
        if entry is not None:
            return self._in_memory(replace(trace, store=self._published(entry)))
        log.warning("%s The inversion is kept; its edits run the source again instead of reading it.", draft.failure)
        return self._in_memory(replace(trace, store=Recomputed(self.level_offset)))

    @property
    def _files(self) -> RunFiles:
        """The files of each step on disk, until all are computed."""
        return RunFiles(
            len(self.plan.schedule),
            recorded=bool(self.forms),
            twice=self.guided is not None,
            clip=self.plan.latents.shape,
            evaluated=stores_evaluated(self.plan, self.guided),
        )

    def _reported(self, saved: Trace, on_plan: OnPlan, place: Path) -> Trace:
        """Report the end of an inversion that was found."""
        on_plan(f"found on disk, nothing to invert: {place}")
        steps = len(saved.schedule) * (1 if self.guided is None else 2)
        self.on_step(StepDone(steps, steps, saved.noise, partial(saved.noise.to, self.plan.unet.device)))
        return saved

    def _in_memory(self, trace: Trace) -> Trace:
        """Leave out the latents that the UNet was called on, if they are stored for another policy alone."""
        if self.chosen.storage.policy != "recompute same level":
            return trace
        paged = {name: held for name, held in trace.paged.items() if name != EVALUATED}
        return replace(trace, evaluated=None, paged=paged)

    def _published(self, entry: Entry) -> RecordStore:
        policy, precision = self.chosen.storage.policy, self.chosen.storage.precision
        if policy == "features" or policy == "maps":
            # An entry that was there before, or that another process was faster with, may have other parts.
            parts = stored_parts(entry.about) or []
            return DiskStore(entry, policy, precision, self.level_offset, frozenset(self.forms), parts)
        entry.release()  # all there is of it, the latents, is in memory
        return Recomputed(self.level_offset)

    def _found(self, cache: InversionCache, key: str) -> Trace | None:
        """Return the trace of an entry of the cache; its records are checked when they are read."""
        entry, plan = cache.find(key), self.plan
        if entry is None:
            return None
        try:
            steps = len(plan.schedule) if self.forms else 0  # no layer is recorded: no files of steps
            parts = stored_parts(entry.about)
            if parts is None or (parts and sum(map(len, parts)) != plan.frames):
                raise DamagedFile(entry.place(LEVELS), WRONG_PARTS)
            for name in (LEVELS, *page_names(steps, len(parts))):
                if name not in entry.names:  # it would be computed again at every edit
                    raise DamagedFile(entry.place(name), "it is not there")
            room = LevelsRoom(torch.device("cpu"), cache.folder)
            levels = entry.read_into(LEVELS, room.make)
            evaluated = stores_evaluated(plan, self.guided)
            shape = plan.latents.shape
            if reason := unusable(levels, len(plan.schedule), shape, evaluated=evaluated, let_go=room.let_go):
                raise DamagedFile(entry.place(LEVELS), reason)
        except DamagedFile as damage:
            log.warning("%s The clip is inverted again.", damage)
            with suppress(StoreError):  # it stays then, and is found damaged again
                entry.forget()  # also where another process uses it, so that it can be saved anew
            entry.release()
            cache.remove(key)
            return None
        text, store = self.text.cpu(), self._published(entry)
        trace = Trace(
            plan.schedule, plan.prompt, text, levels[LATENTS], levels["noise"], store, plan.capture,
            levels.get(EVALUATED), plan.frames_at_once, room.paged,
        )  # fmt: skip
        return self._in_memory(trace)
