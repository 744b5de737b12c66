"""The editing loop: denoising with the source's attention where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.sites import LayerAddress
from ..diffusion.finite import check_result, watched
from ..diffusion.noise_model import NoiseModel
from ..inversion.prediction import (
    OUT_OF_MEMORY_ADVICE,
    GuidedPrediction,
    OnStep,
    StepDone,
    ignore_step,
    memory_remedies,
    result_name,
)
from ..inversion.source_reader import SourceReader, SourceRecords
from ..inversion.trace import Trace
from ..memory.free_memory import within_memory
from .attention import EditAttention
from .masks import blend_layers, word_heat
from .plan import EditPlan

Heat = Callable[[Tensor], Tensor]
"""From token weights [77] to the attention they get, [frames, height, width]."""


@dataclass(frozen=True)
class EditedLatents:
    """An edit's result.

    latents: [frames, channels, height, width], scaled
    mask:    [frames, height, width] share of the blended steps at which a cell was free to differ, 0..1; 1 without mask
    """

    latents: Tensor
    mask: Tensor


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
    predict = GuidedPrediction(unet, text, plan.settings.guidance, (trace.frames, *trace.size), store)
    run, x = EditRun(unet, trace, plan, user_mask), trace.noise.to(unet.device)
    with SourceReader(unet, trace, [run.wanted(step) for step in range(steps)]) as pages:
        for step in range(steps):
            read = partial(pages.read, step)
            # The page is an argument only: it is let go before the next one is read.
            x, shown = run.denoise(
                x, step, within_memory(read, memory_remedies(unet, store), OUT_OF_MEMORY_ADVICE), predict
            )
            if watched(x, last=step == steps - 1):
                said = result_name(x, step + 1, steps, "the edit")
                check_result(unet, x, said, given=trace.noise, guidance=plan.settings.guidance)
            on_step(StepDone(step + 1, steps, x, shown, run.attention_mask, run.latent_mask))
    return EditedLatents(x, run.mean_mask())


class EditRun:
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
        self, x: Tensor, step: int, source: SourceRecords, predict: GuidedPrediction
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """One step of the edit, and what shows it."""
        attend, heat = self.attention(step, source)
        prediction = predict(x, self.timesteps[step], attend)
        shown = partial(self.trace.schedule.clean, x, prediction, step)
        x = self.unet.after_step(self.trace.schedule.denoise(x, prediction, step))
        return self.blend_latents(x, step, attend.kept, heat), shown

    def attention(self, step: int, source: SourceRecords) -> tuple[EditAttention, Heat]:
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

    def _source_heat(self, source: SourceRecords, weights: Tensor) -> Tensor:
        maps = [(source[address].probs(self.mask_sum), self.sites[address]) for address in self.mask_layers]
        return word_heat(maps, weights)

    def _edit_heat(self, weights: Tensor) -> Tensor:
        return word_heat([(self.edit_maps[address], self.sites[address]) for address in self.mask_layers], weights)
