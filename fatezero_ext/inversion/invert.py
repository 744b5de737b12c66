"""Inverting a clip: checked first, then found in the cache or computed, its attention recorded on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..attention.records import Form
from ..attention.sites import LayerAddress
from ..diffusion.guidance import check_guidance, embedded, guided_text
from ..diffusion.noise_model import NoiseModel
from ..digests import combined
from ..errors import SettingsError, StoreError
from ..prompts.words import TextEncoder, read_prompt
from ..storage.disk_cache.cache import InversionCache, default_cache
from ..storage.disk_cache.completeness import LAYERS, LEVELS, page_name, unusable
from ..storage.disk_cache.entry import Entry
from ..storage.disk_cache.tensor_file import DamagedFile
from ..storage.disk_store import DiskDraft, DiskStore, aligned
from ..storage.record_store import MemoryStore, Recomputed, RecordStore
from .arguments import check_controller, check_kind, check_latents, check_text, check_text_encoder
from .controller import Controller
from .footprint import ClipShape, recorded_forms
from .loop import NOTHING, Recording, invert_latents, reconstruct_latents
from .prediction import OnStep, StepDone, ignore_step
from .storage_plan import StoragePlan, check_room, choose_storage, kept_as, measured_room
from .trace import Trace

log = logging.getLogger(__name__)

RECORDS = 2
"""Of saved inversions that are found: those before were kept although threads shared a model and mixed their attention
up, or although their numbers were not finite."""
OnPlan = Callable[[str], None]


def ignore_plan(said: str) -> None:
    """The default `on_plan`."""


@dataclass(frozen=True)
class Reconstruction:
    """How an inverted clip is denoised again under its own prompt.

    guidance:        classifier-free guidance, 1 for none
    negative_prompt: what guidance leads away from
    """

    guidance: float = 7.5
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        check_guidance(self.guidance)


def invert(
    controller: Controller,
    text_encoder: TextEncoder,
    latents: Tensor,
    source_prompt: str,
    *,
    steps: int = 50,
    reconstruct: Reconstruction | None = None,
    on_plan: OnPlan = ignore_plan,
    on_step: OnStep = ignore_step,
) -> Controller:
    """Invert a clip under a prompt that describes it, recording attention on the way.

    text_encoder: a text encoder
    latents: raw latents [frames, channels, height, width], as a VAE's `encode` gives them, not scaled
    steps:   DDIM steps, as many for every edit that follows
    reconstruct: take the source's attention from denoising the inverted clip again under its own prompt; None: from
             the inversion itself, as FateZero does
    on_plan: told before the first step how attention will be kept and how large that will be, or that the inversion was
             found on disk
    on_step: told of each `StepDone`; raising ends the run and changes nothing
    Returns the controller with its trace, its storage decided where it was "auto". The trace's own latents are scaled.
    Raises FateZeroError kinds for a prompt that is too long, latents that do not fit, a step count out of range, and
    attention that does not fit into memory.
    """
    planned = plan_inversion(controller, text_encoder, latents, source_prompt, steps=steps)
    return invert_planned(planned, text_encoder, reconstruct=reconstruct, on_plan=on_plan, on_step=on_step)


def plan_inversion(
    controller: Controller, text_encoder: TextEncoder, latents: Tensor, source_prompt: str, *, steps: int = 50
) -> Controller:
    """The controller as `invert` will leave it, with nothing computed: enough to check edits against.

    Takes and raises what `invert` does.
    """
    check_controller(controller)
    check_text_encoder(text_encoder)
    check_text(source_prompt, "source prompt")
    unet = controller.unet
    prompt = read_prompt(text_encoder, source_prompt, "source prompt")
    schedule = unet.schedule(steps)
    check_latents(latents, unet)
    _check_control(controller)
    clean = latents.float() * unet.latent_format.scale
    levels, no_text = clean.expand(steps + 1, -1, -1, -1, -1), clean.new_empty(1, 0, 0)
    trace = Trace(schedule, prompt, no_text, levels, clean, Recomputed(), controller.capture)
    return replace(controller, trace=trace)


def _check_control(controller: Controller) -> None:
    """Raise SettingsError where a registered control, which may not do the same twice, does not go with the storage."""
    storage = controller.storage
    controller.unet.report_left_out()
    if storage.place == "disk" and controller.unet.uncacheable_parts:
        raise SettingsError(
            f"place 'disk' finds an inversion again by what made it, but {controller.unet.name} has "
            f"{controller.unet.uncacheable_parts}, which have no name that lasts. Keep attention in ram or on the gpu."
        )
    if controller.unet.attend is controller.unet.kernel or not (storage.recomputes or storage.place == "disk"):
        return
    asked = f"policy {storage.policy!r} runs the source again" if storage.recomputes else "place 'disk' finds it again"
    raise SettingsError(
        f"{asked}, but a registered control takes part in the inversion and may not do the same twice. Use policy "
        f"features in ram or on the gpu, or unregister it."
    )


def invert_planned(
    planned: Controller,
    text_encoder: TextEncoder,
    *,
    reconstruct: Reconstruction | None = None,
    on_plan: OnPlan = ignore_plan,
    on_step: OnStep = ignore_step,
) -> Controller:
    """Do the work that `plan_inversion` checked; with `reconstruct` twice as many steps are reported."""
    if reconstruct is not None:
        check_kind(
            reconstruct, "negative_prompt", "reconstruct", "a Reconstruction, or None, is needed: Reconstruction()"
        )
    unet, trace = planned.unet, planned.trace
    # The text encoder first: where memory is short, bringing it in may send the UNet out.
    text = embedded(text_encoder, [trace.prompt.text], unet)
    guided = None
    if reconstruct is not None:
        texts = guided_text(text_encoder, unet, trace.prompt.text, reconstruct.guidance, reconstruct.negative_prompt)
        guided = _GuidedTexts(texts, reconstruct.guidance)
    chunks = 1 if guided is None else len(guided.texts)

    def work() -> Controller:
        shape = ClipShape(trace.frames, *trace.size, text.shape[1])
        check_room(unet, shape)
        room = measured_room(unet, max(chunks, 2), shape)  # the edit that follows has two chunks
        chosen = choose_storage(planned.storage, unet, planned.capture, shape, len(trace.schedule), room)
        run = _Inversion(unet, trace, text, guided, chosen, planned.storage.policy == "auto", on_step)
        if chosen.storage.place == "disk":
            inverted = run.through_cache(chosen.storage.cache or default_cache(), on_plan)
        else:
            on_plan(str(chosen))
            inverted = run.computed(run.memory_store())
        return replace(planned, storage=chosen.storage, trace=inverted)

    return unet.run(work, chunks, trace.frames, *trace.size)


@dataclass(frozen=True)
class _GuidedTexts:
    """texts [2 or 1, tokens, width] and the guidance of a reconstruction."""

    texts: Tensor
    guidance: float


@dataclass(frozen=True)
class _Inversion:
    """One inversion, ready to run: the planned trace has the clip at every level.

    may_recompute: whether edits may run the source again where its pages cannot be kept
    """

    unet: NoiseModel
    planned: Trace
    text: Tensor
    guided: _GuidedTexts | None
    chosen: StoragePlan
    may_recompute: bool
    on_step: OnStep

    @property
    def level_offset(self) -> int:
        """Where a page that is computed again finds the latents of its step, see `Recomputed`."""
        return int(self.guided is not None or self.chosen.storage.policy == "recompute same level")

    def memory_store(self) -> RecordStore:
        """An empty store in the computer's memory or the device's."""
        storage = self.chosen.storage
        if storage.recomputes:
            return Recomputed(self.level_offset)
        device = torch.device("cpu") if storage.place == "ram" else None
        return MemoryStore(device, storage.precision, frozenset(self._forms()))

    def computed(self, store: RecordStore) -> Trace:
        """Run the UNet, and fill the store."""
        unet, trace, guided = self.unet, self.planned, self.guided
        steps = len(trace.schedule)
        total = steps if guided is None else 2 * steps
        recording = Recording(store, self._forms())
        inverted = invert_latents(
            unet,
            trace.latents[0].to(unet.device),
            self.text.to(unet.device),
            trace.prompt,
            trace.schedule,
            capture=trace.capture,
            recording=recording if guided is None else NOTHING,
            controlled=guided is None,
            on_step=lambda step: self.on_step(replace(step, total=total)),
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
        )

    def without_pages(self) -> Trace:
        """Run the UNet, and keep the latents alone."""
        storage = replace(self.chosen.storage, policy="recompute", place="ram")
        return replace(self, chosen=replace(self.chosen, storage=storage)).computed(Recomputed(self.level_offset))

    def through_cache(self, cache: InversionCache, on_plan: OnPlan) -> Trace:
        """Take the inversion from the cache where it is there, else run it and leave it there."""
        key, storage = self._key(), self.chosen.storage
        if kept := self._found(cache, key):
            on_plan(f"found on disk, nothing to invert: {cache.folder / key}")
            steps = len(kept.schedule) * (1 if self.guided is None else 2)
            self.on_step(StepDone(steps, steps, kept.noise, partial(kept.noise.to, self.unet.device)))
            return kept
        try:
            draft = DiskDraft(
                cache.begin(key, self._about(), self.chosen.nbytes), storage.precision, frozenset(self._forms())
            )
        except StoreError as error:
            if not self.may_recompute:
                raise
            on_plan(f"{error} Nothing is kept instead: edits run the source again.")
            return self.without_pages()
        try:
            on_plan(f"{self.chosen}, in {cache.folder}")
            trace = self.computed(draft)
            entry = draft.publish({"latents": trace.latents, "noise": trace.noise})
        finally:
            draft.abandon()
        if entry is not None:
            return replace(trace, store=self._published(entry))
        log.warning("%s The inversion is kept; its edits run the source again instead of reading it.", draft.failure)
        return replace(trace, store=Recomputed(self.level_offset))

    def _published(self, entry: Entry) -> RecordStore:
        storage = self.chosen.storage
        if not storage.recomputes:
            layers = frozenset(self._forms())
            return DiskStore(entry, storage.policy, storage.precision, self.level_offset, layers)
        entry.release()  # all there is of it, the latents, is in memory
        return Recomputed(self.level_offset)

    def _found(self, cache: InversionCache, key: str) -> Trace | None:
        """The trace of an entry of the cache; pages are checked when they are read."""
        entry = cache.find(key)
        if entry is None:
            return None
        try:
            steps = range(len(self.planned.schedule)) if self._forms() else ()  # no layer is recorded: no pages
            for name in (LEVELS, *map(page_name, steps)):
                if name not in entry.names:  # it would be computed again at every edit
                    raise DamagedFile(entry.place(name), "it is not there")
            levels = {name: aligned(tensor) for name, tensor in entry.read(LEVELS).items()}
            if reason := unusable(levels, len(self.planned.schedule), self.planned.noise.shape):
                raise DamagedFile(entry.place(LEVELS), reason)
        except DamagedFile as damage:
            log.warning("%s The clip is inverted again.", damage)
            entry.release()
            cache.remove(key)
            return None
        return replace(self.planned, text=self.text.cpu(), **levels, store=self._published(entry))

    def _forms(self) -> Mapping[LayerAddress, Form]:
        """How each layer is recorded."""
        if self.chosen.storage.recomputes:
            return {}
        trace = self.planned
        shape = ClipShape(trace.frames, *trace.size, self.text.shape[1])
        return recorded_forms(self.unet, trace.capture, self.chosen.storage.policy, shape)

    def _key(self) -> str:
        """Everything the kept numbers depend on."""
        trace, schedule, storage = self.planned, self.planned.schedule, self.chosen.storage
        return combined(
            {
                "records": RECORDS,
                "unet": self.unet.digest(),
                "dtype": str(self.unet.dtype),
                "schedule": [schedule.timesteps, schedule.alphas, schedule.final_alpha, schedule.prediction_type],
                "latents": trace.latents[0],
                "text": self.text,
                "guided": self.guided and [combined({"texts": self.guided.texts}), self.guided.guidance],
                "capture": [trace.capture.most_cells, trace.capture.self_attention],
                "kept": "latents" if storage.recomputes else [storage.policy, storage.precision],
            }
        )

    def _about(self) -> Mapping[str, object]:
        """What people are told of the entry."""
        trace, storage = self.planned, self.chosen.storage
        return {
            "model": self.unet.name,
            "prompt": trace.prompt.text,
            "frames": trace.frames,
            "size": [side * self.unet.latent_format.pixels_per_cell for side in reversed(trace.size)],
            "steps": len(trace.schedule),
            "policy": kept_as(storage),
            LAYERS: [str(at) for at in self._forms()],
        }
