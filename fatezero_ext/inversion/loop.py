"""The two loops: DDIM inversion that records attention, and editing that reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.functional import Attend
from ..attention.records import Form
from ..attention.sites import LayerAddress
from ..diffusion.finite import check_result, watched
from ..diffusion.noise_model import NoiseModel
from ..diffusion.schedule import Schedule
from ..editing.masks import blend_layers, word_heat
from ..editing.plan import EditPlan
from ..memory.free_memory import Remedy, free_on, within_memory
from ..prompts.words import Prompt
from ..storage.record_store import MemoryStore, PageStore, Recomputed
from .recording import Capture, EditAttention, RecordAttention, SourcePage
from .source_reader import SourcePages
from .trace import Trace, levels_dtype

log = logging.getLogger(__name__)

Heat = Callable[[Tensor], Tensor]
"""From token weights [77] to the attention they get, [frames, height, width]."""
LESS = "Use fewer or smaller frames, policy recompute, or a store in ram."


@dataclass(frozen=True)
class StepDone:
    """What a run says of itself after each step.

    done, total: steps, 1 after the first
    latents:     [frames, channels, height, width] the clip after the step, scaled; not to be changed
    shown:       gives latents of that shape, scaled too, which show best what goes on: an inversion's own, which turn
                 into noise; what an edit takes for the clean clip
    attention_mask: bool [frames, height, width] in latent cells, where the computation runs: True where this step of an
                 edit kept its own self-attention; None where it was not fused under a mask
    latent_mask: the same of latent blending: False where the source's latents were put back
    """

    done: int
    total: int
    latents: Tensor
    shown: Callable[[], Tensor]
    attention_mask: Tensor | None = None
    latent_mask: Tensor | None = None


OnStep = Callable[[StepDone], None]


def ignore_step(step: StepDone) -> None:
    """The default `on_step`: called after every step; one that raises ends the run there."""


@dataclass(frozen=True)
class Recording:
    """Where an inversion's attention goes.

    store: open, empty
    forms: how each layer is kept; none of them: nothing is recorded, and registered controls stay out of the pass
    """

    store: PageStore
    forms: Mapping[LayerAddress, Form]


NOTHING = Recording(Recomputed(), {})


@dataclass(frozen=True)
class EditedLatents:
    """An edit's result.

    latents: [frames, channels, height, width], scaled
    mask:    [frames, height, width] share of the blended steps at which a cell was free to differ, 0..1; 1 without mask
    """

    latents: Tensor
    mask: Tensor


@torch.no_grad()
def invert_latents(
    unet: NoiseModel,
    latents: Tensor,
    text: Tensor,
    prompt: Prompt,
    schedule: Schedule,
    *,
    capture: Capture,
    recording: Recording,
    controlled: bool = True,
    on_step: OnStep = ignore_step,
) -> Trace:
    """DDIM inversion without guidance.

    latents:    [frames, channels, height, width], scaled; text: [1, tokens, width] of the source prompt
    controlled: whether a registered control takes part
    """
    store, steps = recording.store, len(schedule)
    levels = latents.new_empty(steps + 1, *latents.shape, dtype=levels_dtype(unet.dtype))
    # Laid out in memory as the kept levels are, so that a step that runs again from one of them gives the same bits.
    x = levels[0] = latents.contiguous()
    timesteps = torch.tensor(schedule.timesteps, device=x.device)
    base = unet.attend if controlled else unet.kernel
    for step in reversed(range(steps)):
        attend = RecordAttention(recording.forms, base) if recording.forms else base
        call = partial(unet, x, timesteps[step], text, frames=len(x), attend=attend)
        x = schedule.invert(x, within_memory(call, _remedies(unet, store), LESS), step)
        if controlled:
            x = unet.after_step(x)
        if recording.forms:
            # Packing needs room on the device as well.
            within_memory(partial(store.write, step, attend.page), _remedies(unet, store), LESS)
        if watched(x, last=step == 0):
            check_result(unet, x, _result_of(x, steps - step, steps, "the inversion"), given=latents)
        levels[steps - step] = x
        on_step(StepDone(steps - step, steps, x, partial(_same, x)))
    store.seal()
    return Trace(schedule, prompt, text.cpu(), _kept(unet, levels, latents), x.float().cpu(), store, capture)


@torch.no_grad()
def reconstruct_latents(
    unet: NoiseModel,
    inverted: Trace,
    text: Tensor,
    guidance: float,
    *,
    recording: Recording,
    on_step: OnStep = ignore_step,
) -> Trace:
    """Denoise an inverted clip under its own prompt and record the attention of that.

    text: [2, tokens, width] negative and source prompt, or [1, tokens, width] the source prompt without guidance
    Returns a trace whose levels are the latents of this pass, from the inversion's noisiest one down.
    """
    schedule, store, steps = inverted.schedule, recording.store, len(inverted.schedule)
    predict = _Guided(unet, text, guidance, (inverted.frames, *inverted.size), store)
    timesteps = torch.tensor(schedule.timesteps, device=unet.device)
    levels = torch.empty_like(inverted.latents, device=unet.device)
    levels[-1] = x = inverted.noise.to(unet.device)
    for step in range(steps):
        attend = RecordAttention(recording.forms, unet.attend) if recording.forms else unet.attend
        prediction = predict(x, timesteps[step], attend)
        shown = partial(schedule.clean, x, prediction, step)
        x = unet.after_step(schedule.denoise(x, prediction, step))
        if recording.forms:
            # Packing needs room on the device as well.
            within_memory(partial(store.write, step, attend.page), _remedies(unet, store), LESS)
        if watched(x, last=step == steps - 1):
            said = _result_of(x, step + 1, steps, "the reconstruction")
            check_result(unet, x, said, given=inverted.noise, guidance=guidance)
        levels[steps - 1 - step] = x
        on_step(StepDone(step + 1, steps, x, shown))
    store.seal()
    return replace(inverted, latents=_kept(unet, levels, inverted.noise), store=store)


def _kept(unet: NoiseModel, levels: Tensor, given: Tensor) -> Tensor:
    """Levels on the CPU; raises ModelError where one left the range of the precision that it is kept in."""
    kept = levels.cpu()
    check_result(unet, kept, f"the inversion, kept in {kept.dtype},", given=given)
    return kept


def _result_of(x: Tensor, done: int, steps: int, run: str) -> str:
    """What gave a result: its step only where each is looked at, else any of them may have gone wrong first."""
    return f"step {done} of {steps} of {run}" if watched(x, last=False) else run


def _same(x: Tensor) -> Tensor:
    return x


def _remedies(unet: NoiseModel, store: PageStore) -> tuple[Remedy, ...]:
    """What a run on `store` can do when the device runs out of memory in the middle of a call.

    Nothing under a registered control: the call would go through it again, and it may count its calls.
    """
    if not isinstance(store, MemoryStore) or unet.attend is not unet.kernel:
        return ()
    return (lambda: "recorded attention moves to the computer's memory" if store.leave_device() else None,)


class _Guided:
    """Predictions for one clip, led by as many texts as there are: one, or a negative one first.

    Two texts share a call where the device has room for it, until it runs out of memory; else each has its own.
    """

    def __init__(
        self,
        unet: NoiseModel,
        text: Tensor,
        guidance: float,
        clip: tuple[int, int, int],
        store: PageStore,
    ) -> None:
        """clip: frames, height and width in cells; store: of the run, which can leave the device."""
        self.unet, self.text, self.guidance, self.store = unet, text, guidance, store
        self.one_at_a_time = len(text) == 1
        short = unet.device.type == "cuda" and unet.working_memory(2, *clip) > free_on(unet.device)
        if short and (said := self._take_turns()):
            log.warning("The device is short of memory: %s.", said)

    def __call__(self, x: Tensor, timestep: int | Tensor, attend: Attend) -> Tensor:
        """x: [frames, channels, height, width]; `attend` computes the call that has the last text."""
        remedies = (*_remedies(self.unet, self.store), self._take_turns)
        return within_memory(lambda: self._prediction(x, timestep, attend), remedies, LESS)

    def _prediction(self, x: Tensor, timestep: int | Tensor, attend: Attend) -> Tensor:
        if self.one_at_a_time:
            wanted = self.unet(x, timestep, self.text[-1:], frames=len(x), attend=attend)
            if len(self.text) == 1:
                return wanted
            negative = self.unet(x, timestep, self.text[:1], frames=len(x))
        else:
            both = self.unet(x, timestep, self.text, frames=len(x), attend=attend)
            negative, wanted = both.chunk(2)
        return torch.lerp(negative, wanted, self.guidance)

    def _take_turns(self) -> str | None:
        if self.one_at_a_time or self.unet.attend is not self.unet.kernel:  # a control may count its calls
            return None
        self.one_at_a_time = True
        return "the two halves of guidance are computed one after the other"


@torch.no_grad()
def edit_latents(
    unet: NoiseModel,
    trace: Trace,
    plan: EditPlan,
    text: Tensor,
    *,
    user_mask: Tensor | None = None,
    on_step: OnStep = ignore_step,
) -> EditedLatents:
    """Denoise the inverted clip under the edit prompt, with the source's attention where the plan says so.

    text:      [2, tokens, width] negative and edit prompt, or [1, tokens, width] the edit prompt without guidance
    user_mask: bool [frames, height, width] of any scale, True where the edit may differ; where the plan makes a mask
               from words too, both must allow it or this one overrides it; None: words alone decide
    """
    steps, store = len(trace.schedule), trace.store
    predict = _Guided(unet, text, plan.settings.guidance, (trace.frames, *trace.size), store)
    run, x = _EditRun(unet, trace, plan, user_mask), trace.noise.to(unet.device)
    with SourcePages(unet, trace, [run.wanted(step) for step in range(steps)]) as pages:
        for step in range(steps):
            read = partial(pages.read, step)
            # The page is an argument only: it is let go before the next one is read.
            x, shown = run.denoise(x, step, within_memory(read, _remedies(unet, store), LESS), predict)
            if watched(x, last=step == steps - 1):
                said = _result_of(x, step + 1, steps, "the edit")
                check_result(unet, x, said, given=trace.noise, guidance=plan.settings.guidance)
            on_step(StepDone(step + 1, steps, x, shown, run.attention_mask, run.latent_mask))
    return EditedLatents(x, run.mean_mask())


class _EditRun:
    """What changes while one edit runs."""

    def __init__(self, unet: NoiseModel, trace: Trace, plan: EditPlan, user_mask: Tensor | None) -> None:
        self.unet, self.trace, self.user_mask = unet, trace, user_mask
        self.timesteps = torch.tensor(trace.schedule.timesteps, device=unet.device)
        self.plan = plan.to(unet.device, unet.dtype)
        self.size = trace.size
        self.sites = unet.sites(trace.frames, *self.size)
        blend = plan.settings.blend
        self.mask_layers = (
            blend_layers(self.sites, trace.capture.most_cells, blend.downscale) if plan.source_mask is not None else ()
        )
        blends = any(step.blend_latents for step in plan.steps)
        self.source_latents = trace.latents.to(unet.device) if blends else trace.latents
        self.edit_maps: dict[LayerAddress, Tensor] = {}
        self.user_masks: dict[tuple[int, int], Tensor] = {}
        self.attention_mask: Tensor | None = None
        self.latent_mask: Tensor | None = None
        self.mask_sum = torch.zeros(trace.frames, *self.size, dtype=torch.float32, device=unet.device)
        self.mask_count = 0

    def wanted(self, step: int) -> frozenset[LayerAddress]:
        """The layers whose source attention a step reads."""
        plan = self.plan.steps[step]
        covered = [at for at, site in self.sites.items() if self.trace.capture.covers(site)]
        read = [at for at in covered if (plan.replace_cross if at.kind == "cross" else plan.fuse_self)]
        masked = (plan.fuse_self and self._fuses_under_mask) or plan.blend_latents
        return frozenset([*read, *(self.mask_layers if masked else ())])

    def denoise(
        self, x: Tensor, step: int, source: SourcePage, predict: _Guided
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """One step of the edit, and what shows it."""
        attend, heat = self.attention(step, source)
        prediction = predict(x, self.timesteps[step], attend)
        shown = partial(self.trace.schedule.clean, x, prediction, step)
        x = self.unet.after_step(self.trace.schedule.denoise(x, prediction, step))
        return self.blend_latents(x, step, attend.kept, heat), shown

    def attention(self, step: int, source: SourcePage) -> tuple[EditAttention, Heat]:
        """A step's attention, and the source's heat: it is made once a step, masks once a size."""
        plan, original = self.plan.steps[step], self.plan.settings.quirks == "original"
        heat, mask = cache(partial(self._source_heat, source)), None
        self.attention_mask = self.latent_mask = None
        if plan.fuse_self and self._fuses_under_mask:
            mask = cache(partial(self._free, heat))
            self.attention_mask = mask(self.size)
            self._count_mask(self.attention_mask)
        joins = self.plan.edit_mask is not None and (plan.blend_latents or original)
        attend = EditAttention(
            plan=plan,
            source=source,
            mask=mask,
            base=self.unet.attend,
            keep_cross=self.mask_layers if joins else (),
            kernel=self.unet.kernel,
        )
        return attend, heat

    def blend_latents(self, x: Tensor, step: int, edit_maps: Mapping[LayerAddress, Tensor], heat: Heat) -> Tensor:
        """Put the source's latents back outside the mask.

        edit_maps: the step's own cross maps of the mask's layers; heat: the source's at this step
        """
        original = self.plan.settings.quirks == "original"
        for address, probs in edit_maps.items():
            # The authors' program compares the sum over all steps so far with the source's single step.
            summed = original and address in self.edit_maps
            self.edit_maps[address] = self.edit_maps[address] + probs if summed else probs
        if not self.plan.steps[step].blend_latents:
            return x
        free = self.latent_mask = self._free(heat, self.size, with_edit=True)
        self._count_mask(free)
        # After step j the edit stands at level T - 1 - j; the authors' program reads one level noisier.
        level = len(self.trace.schedule) - 1 - step + int(original)
        return torch.where(free[:, None], x, self.source_latents[level].to(x.dtype))

    def mean_mask(self) -> Tensor:
        return self.mask_sum / self.mask_count if self.mask_count else torch.ones_like(self.mask_sum)

    def _count_mask(self, mask: Tensor) -> None:
        self.mask_sum += mask
        self.mask_count += 1

    @property
    def _fuses_under_mask(self) -> bool:
        blend = self.plan.settings.blend
        return self.user_mask is not None if blend is None else blend.self_attention

    def _free(self, source_heat: Heat, size: tuple[int, int], *, with_edit: bool = False) -> Tensor:
        """bool [frames, *size], True where the edit may differ."""
        allowed = []
        if self.plan.source_mask is not None:
            joins = with_edit and self.plan.edit_mask is not None
            joining = self.plan.edit_mask.at(self._edit_heat, size) if joins else None
            allowed.append(self.plan.source_mask.at(source_heat, size, joining))
        if self.user_mask is not None:
            allowed.append(self._user_mask_at(size))
        return torch.stack(allowed).all(0)

    def _user_mask_at(self, size: tuple[int, int]) -> Tensor:
        if size not in self.user_masks:
            scaled = F.interpolate(self.user_mask[:, None].float(), size=size, mode="nearest-exact")
            self.user_masks[size] = scaled[:, 0] > 0.5
        return self.user_masks[size]

    def _source_heat(self, source: SourcePage, weights: Tensor) -> Tensor:
        maps = [(source[address].probs(self.mask_sum), self.sites[address]) for address in self.mask_layers]
        return word_heat(maps, weights)

    def _edit_heat(self, weights: Tensor) -> Tensor:
        return word_heat([(self.edit_maps[address], self.sites[address]) for address in self.mask_layers], weights)
