"""The editing loop: denoising with the source's attention where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from ..attention.clip_parts import ClipPart, Parts, joined, part_sites, whole_clip
from ..attention.sites import LayerAddress
from ..diffusion.finite import check_result, watched
from ..diffusion.noise_model import NoiseModel
from ..inversion.guided_prediction import (
    HALVINGS,
    OUT_OF_MEMORY_ADVICE,
    GuidedPrediction,
    OnFrames,
    OnStep,
    StepDone,
    ignore_frames,
    ignore_step,
    memory_remedies,
    parked_at,
    result_name,
)
from ..inversion.source_reader import AskedText, SourceReader, SourceRecords
from ..inversion.trace import Trace, keeps_levels
from ..memory.free_memory import Remedy, within_memory
from .attention import EditAttention
from .masks import Heat, MaskMaker
from .plan import EditPlan
from .still_places import StillPlaces

FOUND = 0.05
"""Share of the highest attention in the clip that words of the source get in a frame that has what they name. Frames
without it had less than a hundredth, on the toy model."""


@dataclass(frozen=True)
class EditedLatents:
    """Result of an edit.

    latents:   [frames, channels, height, width], scaled
    mask:      [frames, height, width] share of the blended steps at which a cell was free to differ, 0..1; 1 without
    last_mask: bool [frames, height, width], see `MaskMaker.last`
    shown:     [frames] how strongly each shows the words of the edit prompt, see `MaskMaker.see_edit_words`; NaN for
               frames that cannot show them: their mask is empty, or the source has nothing that makes way; None where
               nothing asks for it
    """

    latents: Tensor
    mask: Tensor
    last_mask: Tensor
    shown: Tensor | None


@torch.no_grad()
def edit_latents(
    unet: NoiseModel,
    trace: Trace,
    plan: EditPlan,
    text: Tensor,
    *,
    user_mask: Tensor | None = None,
    asked_text: Tensor | None = None,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
    parts: Parts = (),
) -> EditedLatents:
    """Denoise the inverted clip under the edit prompt, with the source's attention where the plan says so.

    text:      [2, tokens, width] negative and edit prompt, or [1, tokens, width] the edit prompt without guidance
    user_mask: bool [frames, height, width] of any scale, True where the edit may differ; where the plan makes a mask
               from words too, both must allow it or this one overrides it; None: words alone decide
    asked_text: [1, tokens, width] of the plan's `asked_text`, if it has one
    parts:     of the clip, each computed by a call of its own, see `NoiseModel.parts`; none: all frames in one
    """
    steps, parts = len(trace.schedule), parts or whole_clip(trace.frames)
    shape = (trace.frames, *trace.size)
    predict = GuidedPrediction(
        unet, text, plan.guidance, shape, trace.store, trace.capture, parts=parts, on_frames=on_frames
    )
    plan = plan.to(unet.device, unet.dtype)
    run = _ClipRun(partial(EditRun, unet, trace, plan, user_mask), predict)
    x = trace.noise.to(unet.device)
    still = StillPlaces(trace.latents[0].to(unet.device)) if plan.holds_still else None
    fresh = plan.fresh_noise(trace.schedule)
    wanted = [run.parts[0].wanted(step) for step in range(steps)]
    asked = None
    if asked_text is not None:
        reading = [step for step in range(steps) if run.parts[0].reads_mask(step)]
        asked = AskedText(asked_text, plan.mask_layers, reading)
    spread = plan.mask_layers if plan.shape_layers else ()
    with SourceReader(unet, trace, wanted, asked, parts=parts, spread=spread, on_frames=on_frames) as source:
        for step in range(steps):
            x, estimates = run.edited(x, step, source)
            trace.let_go()
            parts = predict.parts
            if watched(x, last=step == steps - 1):
                name = result_name(x, step + 1, steps, "the edit")
                check_result(unet, x, name, given=trace.noise, guidance=plan.guidance)
            estimate = partial(_of_clip, parts, estimates)
            fused = _of_parts(parts, [each.attention_mask for each in run.parts])
            blended = _of_parts(parts, [each.latent_mask for each in run.parts])
            if fresh is not None:
                x = fresh.put_into(x, step, estimate, run.free)
            if still is not None:
                free = run.free()
                x, estimate = still.hold(x, free), partial(_held, still, estimate, free)
            on_step(StepDone(step + 1, steps, x, estimate, fused, blended))
    masks = [each.masks for each in run.parts]
    peak = torch.stack([each.spared_peak() for each in masks]).amax(0)
    last = [each.last(peak) for each in masks]
    shown, found = (
        _of_parts(parts, pieces) for pieces in zip(*((each.shown, each.found) for each in masks), strict=True)
    )
    if shown is not None and found is not None:
        shown = shown.where(found >= FOUND * found.max(), torch.nan)
    return EditedLatents(x, joined(parts, [each.mean() for each in masks]), joined(parts, last), shown)


class _ClipRun:
    """The edit of a clip in its parts, which get smaller when the device runs out of memory.

    parts: the edit of each; held here alone, as that of a whole clip keeps levels on the device
    """

    def __init__(self, run_of: Callable[[ClipPart], EditRun], predict: GuidedPrediction) -> None:
        """run_of: begins the edit of a part"""
        self._run_of, self._predict = run_of, predict
        self.parts = [run_of(part) for part in predict.parts]
        self._masks_before: Sequence[MaskMaker] = ()

    def free(self) -> Tensor | None:
        """Return where the clip may differ, bool [frames, height, width], or None: everywhere."""
        return _of_parts([run.part for run in self.parts], [run.masks.free() for run in self.parts])

    def edited(self, x: Tensor, step: int, source: SourceReader) -> tuple[Tensor, list[Callable[[], Tensor]]]:
        """Do one step; return the clip's latents, and what makes each part's clean estimate."""

        def edited_once() -> tuple[Tensor, list[Callable[[], Tensor]]]:
            self._masks_before = [copy(run.masks) for run in self.parts]
            return _edited_step(self.parts, x, step, source, self._predict)

        again = [partial(self._begin_again_after, remedy, source) for remedy in self._predict.remedies()]
        smaller = [partial(self._smaller_parts, source)] * HALVINGS
        return within_memory(edited_once, [*again, *smaller], OUT_OF_MEMORY_ADVICE)

    def _begin_again_after(self, remedy: Remedy, source: SourceReader) -> str | None:
        said = remedy()
        if said is not None:
            source.begin_again()
            for run, masks in zip(self.parts, self._masks_before, strict=True):
                run.masks = masks
        return said

    def _smaller_parts(self, source: SourceReader) -> str | None:
        before = self._predict.parts
        said = self._predict.smaller_parts()
        if said is not None:
            source.split(self._predict.parts)
            self.parts = []  # before others are made
            self.parts = [self._run_of(part) for part in self._predict.parts]
            for run in self.parts:
                run.masks.go_on_from(self._masks_before, before, run.part)
        return said


def _edited_step(
    runs: Sequence[EditRun], x: Tensor, step: int, source: SourceReader, predict: GuidedPrediction
) -> tuple[Tensor, list[Callable[[], Tensor]]]:
    """Do one step of the edit part by part; return the clip's latents, and what makes each part's clean estimate."""
    done = [
        each
        for group in predict.groups
        for each in _edited_group([runs[part.number] for part in group], x, step, source, predict)
    ]
    # A controller on maps is told of the whole clip, once all its maps were seen; beside one an edit blends nothing.
    x = predict.unet.after_step(joined(predict.parts, [piece for piece, _ in done]))
    return x, [estimate for _, estimate in done]


def _edited_group(
    runs: Sequence[EditRun], x: Tensor, step: int, source: SourceReader, predict: GuidedPrediction
) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Do one step of parts that are computed together; return each part's latents and what makes its clean estimate."""
    remedies = memory_remedies(predict.unet, predict.store)
    group, starts = [run.part for run in runs], [run.part.of(x) for run in runs]
    attends = []
    for run in runs:
        read = partial(source.read, step, run.part.number)
        attends.append(run.attention(step, within_memory(read, remedies, OUT_OF_MEMORY_ADVICE), parked_at(group)))
    predictions = predict(starts, runs[0].timesteps[step], [attend for attend, _ in attends], group)
    return [
        run.denoised(start, prediction, step, attend.edit_maps, heat)
        for run, start, prediction, (attend, heat) in zip(runs, starts, predictions, attends, strict=True)
    ]


def _of_clip(parts: Parts, estimates: Sequence[Callable[[], Tensor]]) -> Tensor:
    return joined(parts, [estimate() for estimate in estimates])


def _held(still: StillPlaces, made: Callable[[], Tensor], free: Tensor | None) -> Tensor:
    return still.hold(made(), free)


def _of_parts(parts: Parts, pieces: Sequence[Tensor | None]) -> Tensor | None:
    made = [piece for piece in pieces if piece is not None]
    return joined(parts, made) if made else None


class EditRun:
    """The state of one edit of a part of a clip while it runs."""

    def __init__(
        self,
        unet: NoiseModel,
        trace: Trace,
        plan: EditPlan,
        user_mask: Tensor | None,
        part: ClipPart | None = None,
    ) -> None:
        """Begin an edit.

        user_mask: of the whole clip
        part:      None: all frames
        """
        self.unet, self.trace = unet, trace
        self.part = part = part or whole_clip(trace.frames)[0]
        self.timesteps = torch.tensor(trace.schedule.timesteps, device=unet.device)
        self.plan = plan.to(unet.device, unet.dtype)
        self.sites = part_sites(unet.sites(trace.frames, *trace.size), part)
        self.masks = MaskMaker(
            self.plan.source_mask,
            self.plan.edit_mask,
            {at: self.sites[at] for at in plan.mask_layers},
            None if user_mask is None else part.of(user_mask).to(unet.device),
            torch.zeros(len(part.frames), *trace.size, dtype=torch.float32, device=unet.device),
            plan.shape_layers,
        )
        blend, has_mask = plan.blend, user_mask is not None
        self.fuses_under_mask = has_mask if blend is None else blend.self_attention
        self.original = plan.settings.quirks == "original"
        self.last_fused, self.joined_last, self.shown = plan.last_fused, plan.joined_last, plan.shown
        self.judged = plan.judged
        levels, self.source_latents = trace.latents, trace.latents
        if len(part.frames) == trace.frames and any(step.blend_latents for step in plan.steps):
            self.source_latents = levels.to(keeps_levels(unet.device, [part], levels.nbytes))
        self.attention_mask: Tensor | None = None
        self.latent_mask: Tensor | None = None

    def reads_mask(self, step: int) -> bool:
        """Return whether a step reads a mask."""
        plan = self.plan.steps[step]
        return (plan.fuse_self and self.fuses_under_mask) or plan.blend_latents or step == self.shown

    def wanted(self, step: int) -> frozenset[LayerAddress]:
        """Return the layers whose source attention a step reads."""
        plan = self.plan.steps[step]
        covered = [at for at, site in self.sites.items() if self.trace.capture.covers(site)]
        read = [at for at in covered if (plan.replace_cross if at.kind == "cross" else plan.fuse_self)]
        shapes = (layer.address for layer in self.plan.shape_layers)
        return frozenset([*read, *((*self.plan.mask_layers, *shapes) if self.reads_mask(step) else ())])

    def denoised(
        self, x: Tensor, prediction: Tensor, step: int, edit_maps: Mapping[LayerAddress, Tensor], heat: Heat
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """End a step of the edit; return its latents, and what makes the clean estimate to preview."""
        estimate = partial(self.trace.schedule.clean, x, prediction, step)
        x = self.blend_latents(self.trace.schedule.denoise(x, prediction, step), step, edit_maps, heat)
        if not self.original:  # else the next step adds its own
            self.masks.forget_edit_maps()
        return x, estimate

    def attention(
        self, step: int, source: SourceRecords, park: torch.device | None = None
    ) -> tuple[EditAttention, Heat]:
        """Return a step's attention, and the source's heat: it is made once a step, masks once a size.

        park: see `EditAttention`
        """
        plan, heat, mask = self.plan.steps[step], self.masks.source_heat(source), None
        self.attention_mask = self.latent_mask = None
        if self.reads_mask(step):
            self.masks.watch_spared(heat)
            if self.judged is not None:
                self.masks.find_source_words(heat)
        if plan.fuse_self and self.fuses_under_mask:
            mask = cache(partial(self.masks.mask, heat))
            self.attention_mask = mask(self.trace.size)
            self.masks.count(self.attention_mask, blends_latents=False)
        if step == self.shown:
            self.masks.show(heat)
        if self.joined_last is not None and step in (self.last_fused, self.shown):
            self.masks.bar_edit_words(heat)
        joins = self.plan.joins and (plan.blend_latents or self.original)
        attend = EditAttention(
            plan=plan,
            source=source,
            mask=mask,
            base=self.unet.attend,
            keep_cross=self.plan.mask_layers if joins else (),
            watch_cross=self.plan.mask_layers if step in (self.joined_last, self.judged) else (),
            kernel=self.unet.kernel,
            park=park,
        )
        return attend, heat

    def blend_latents(self, x: Tensor, step: int, edit_maps: Mapping[LayerAddress, Tensor], heat: Heat) -> Tensor:
        """Put the source's latents back outside the mask.

        edit_maps: the step's own cross maps of the mask's layers; heat: the source's at this step
        """
        # The authors' program compares the sum over all steps so far with the source's single step.
        self.masks.add_edit_maps(edit_maps, summed=self.original)
        if step == self.judged:
            self.masks.see_edit_words()
        if step == self.joined_last:
            self.masks.join_last()
        if not self.plan.steps[step].blend_latents:
            return x
        self.latent_mask = mask = self.masks.mask(heat, self.trace.size, with_edit=True)
        self.masks.count(mask, blends_latents=True)
        # After step j the edit stands at level T - 1 - j; the authors' program reads one level noisier.
        level = len(self.trace.schedule) - 1 - step + int(self.original)
        source = self.part.of(self.source_latents[level]).to(x.device, x.dtype)
        return torch.where(mask[:, None], x, source)
