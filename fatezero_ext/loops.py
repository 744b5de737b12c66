"""The two loops: DDIM inversion that records attention, and editing that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .attend import Capture, EditAttention, MaskOf, RecordAttention
from .attention import Attend, plain
from .blend import blend_layers, word_heat
from .layers import LayerAddress
from .plan import EditPlan
from .prompts import Prompt
from .records import Page
from .schedule import Schedule
from .stores import PageStore, Storage, open_store
from .unet import Pseudo3DUNet

OnStep = Callable[[int, int, Tensor], None]


def ignore_step(done: int, total: int, latents: Tensor) -> None:
    """The default `on_step`: called after every step; one that raises ends the run there."""


@dataclass(frozen=True)
class Trace:
    """All an inversion leaves behind; nothing in it is ever changed.

    schedule: its steps
    prompt:   the source prompt
    latents:  [T + 1, frames, channels, height, width] on the CPU, level k is the clip after k inversion steps
    store:    sealed pages, one a step
    capture:  which layers were recorded
    """

    schedule: Schedule
    prompt: Prompt
    latents: Tensor
    store: PageStore
    capture: Capture

    @property
    def frames(self) -> int:
        return self.latents.shape[1]

    def __repr__(self) -> str:
        return f"Trace({self.frames} frames, {len(self.schedule)} steps, {self.prompt.text!r}, {self.store!r})"


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
    unet: Pseudo3DUNet,
    latents: Tensor,
    text: Tensor,
    prompt: Prompt,
    schedule: Schedule,
    *,
    capture: Capture,
    storage: Storage | None,
    on_step: OnStep = ignore_step,
) -> Trace:
    """DDIM inversion without guidance.

    latents: [frames, channels, height, width], scaled; text: [1, tokens, width] of the source prompt
    storage: how attention is kept; None: it is not recorded, the trace's store stays empty, and registered controls
             stay out of it: they are for the pass that is recorded
    """
    store, levels, x = open_store(storage or Storage()), [latents.cpu()], latents
    for step in reversed(range(len(schedule))):
        recorder = None if storage is None else RecordAttention(capture, storage.policy, unet.attend)
        prediction = unet(x, schedule.timesteps[step], text, frames=len(x), attend=recorder or plain)
        x = schedule.invert(x, prediction, step)
        if recorder is not None:
            x = unet.after_step(x)
            store.write(step, recorder.page)
        levels.append(x.cpu())
        on_step(len(schedule) - step, len(schedule), x)
    store.seal()
    return Trace(schedule, prompt, torch.stack(levels), store, capture)


@torch.no_grad()
def reconstruct_latents(
    unet: Pseudo3DUNet,
    inverted: Trace,
    text: Tensor,
    guidance: float,
    *,
    storage: Storage,
    on_step: OnStep = ignore_step,
) -> Trace:
    """Denoise an inverted clip under its own prompt and record the attention of that.

    text: [2, tokens, width] negative and source prompt, or [1, tokens, width] the source prompt without guidance
    Returns a trace whose levels are the latents of this pass, from the inversion's noisiest one down.
    """
    schedule, store = inverted.schedule, open_store(storage)
    x = inverted.latents[-1].to(unet.device)
    levels = [inverted.latents[-1]]
    for step in range(len(schedule)):
        recorder = RecordAttention(inverted.capture, storage.policy, unet.attend)
        prediction = _guided(unet, x, schedule.timesteps[step], text, guidance, recorder)
        x = unet.after_step(schedule.denoise(x, prediction, step))
        store.write(step, recorder.page)
        levels.append(x.cpu())
        on_step(step + 1, len(schedule), x)
    store.seal()
    return replace(inverted, latents=torch.stack(levels[::-1]), store=store)


def _guided(
    unet: Pseudo3DUNet, x: Tensor, timestep: int, text: Tensor, guidance: float, attend: Attend | None
) -> Tensor:
    """The prediction for one clip [frames, ...], led by as many texts as there are: one, or a negative one first."""
    prediction = unet(x.repeat(len(text), 1, 1, 1), timestep, text, frames=len(x), attend=attend)
    if len(text) == 1:
        return prediction
    negative, wanted = prediction.chunk(2)
    return torch.lerp(negative, wanted, guidance)


@torch.no_grad()
def edit_latents(
    unet: Pseudo3DUNet,
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
    schedule, guidance = trace.schedule, plan.settings.guidance
    run = _EditRun(unet, trace, plan, user_mask)
    x = run.latents[-1]
    for step in range(len(schedule)):
        attend = run.attention(step)
        prediction = _guided(unet, x, schedule.timesteps[step], text, guidance, attend)
        x = run.blend_latents(unet.after_step(schedule.denoise(x, prediction, step)), step, attend)
        on_step(step + 1, len(schedule), x)
    return EditedLatents(x, run.mean_mask())


class _EditRun:
    """What changes while one edit runs."""

    def __init__(self, unet: Pseudo3DUNet, trace: Trace, plan: EditPlan, user_mask: Tensor | None) -> None:
        self.trace, self.user_mask, self.base = trace, user_mask, unet.attend
        self.plan = plan.to(unet.device, unet.dtype)
        self.latents = trace.latents.to(unet.device)
        self.size = (self.latents.shape[-2], self.latents.shape[-1])
        self.sites = unet.sites(trace.frames, *self.size)
        blend = plan.settings.blend
        self.mask_layers = (
            blend_layers(self.sites, trace.capture.most_cells, blend.downscale) if plan.source_mask is not None else ()
        )
        self.edit_maps: dict[LayerAddress, Tensor] = {}
        self.mask_sum, self.mask_count = torch.zeros(trace.frames, *self.size, device=unet.device), 0

    def attention(self, step: int) -> EditAttention:
        plan, page = self.plan.steps[step], self.trace.store.read(step)
        mask = self._mask_for_self_attention(page) if plan.fuse_self else None
        if mask is not None:
            self._count_mask(mask(self.size))
        return EditAttention(
            plan=plan,
            capture=self.trace.capture,
            source=page,
            mask=mask,
            base=self.base,
            keep_cross=self.mask_layers if self.plan.edit_mask is not None else (),
        )

    def blend_latents(self, x: Tensor, step: int, attend: EditAttention) -> Tensor:
        """Put the source's latents back outside the mask."""
        original = self.plan.settings.quirks == "original"
        for address, probs in attend.kept.items():
            # The authors' program compares the sum over all steps so far with the source's single step.
            summed = original and address in self.edit_maps
            self.edit_maps[address] = self.edit_maps[address] + probs if summed else probs
        if not self.plan.steps[step].blend_latents:
            return x
        free = self._free(partial(self._source_heat, attend.source), self.size, with_edit=True)
        self._count_mask(free)
        # After step j the edit stands at level T - 1 - j; the authors' program reads one level noisier.
        level = len(self.trace.schedule) - 1 - step + int(original)
        return torch.where(free[:, None], x, self.latents[level])

    def mean_mask(self) -> Tensor:
        return self.mask_sum / self.mask_count if self.mask_count else torch.ones_like(self.mask_sum)

    def _count_mask(self, mask: Tensor) -> None:
        self.mask_sum += mask
        self.mask_count += 1

    def _mask_for_self_attention(self, page: Page) -> MaskOf | None:
        blend = self.plan.settings.blend
        fused_under_mask = self.user_mask is not None if blend is None else blend.self_attention
        # Heat is made once a step, masks once a size.
        return cache(partial(self._free, cache(partial(self._source_heat, page)))) if fused_under_mask else None

    def _free(
        self, source_heat: Callable[[Tensor], Tensor], size: tuple[int, int], *, with_edit: bool = False
    ) -> Tensor:
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
        return F.interpolate(self.user_mask[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0.5

    def _source_heat(self, page: Page, weights: Tensor) -> Tensor:
        sites = [self.sites[address] for address in self.mask_layers]
        return word_heat([(page[site.address].probs(site, self.latents), site) for site in sites], weights)

    def _edit_heat(self, weights: Tensor) -> Tensor:
        return word_heat([(self.edit_maps[address], self.sites[address]) for address in self.mask_layers], weights)
