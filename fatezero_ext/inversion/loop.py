"""DDIM inversion and reconstruction, both recording attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..attention.clip_parts import Parts, joined
from ..attention.functional import Attend
from ..attention.records import Form
from ..attention.sites import LayerAddress
from ..diffusion.finite import check_result, watched
from ..diffusion.noise_model import NoiseModel
from ..diffusion.schedule import Schedule
from ..memory.free_memory import within_memory
from ..prompts.prompt import Prompt
from ..storage.disk_cache.completeness import EVALUATED
from ..storage.record_store import Recomputed, RecordStore, on_device
from .checkpoints import LATENTS, NO_CHECKPOINTS, Checkpoints
from .guided_prediction import (
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
from .recording import Capture, RecordAttention
from .source_parts import PageParts
from .trace import LevelsRoom, Trace, keeps_levels, levels_dtype


@dataclass(frozen=True)
class Recording:
    """Destination of an inversion's attention.

    store: open, empty
    forms: the form in which each layer is recorded; empty: nothing is recorded
    """

    store: RecordStore
    forms: Mapping[LayerAddress, Form]


NO_RECORDING = Recording(Recomputed(), {})


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
    passes: int = 0,
    keep_evaluated: bool = True,
    controlled: bool = True,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
    parts: Parts = (),
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Trace:
    """Invert a clip by DDIM without guidance.

    latents:    [frames, channels, height, width], scaled; text: [1, tokens, width] of the source prompt
    passes:     fixed-point passes before the last UNet call of a step, each on the result of the one before: denoising
                calls the UNet on a step's result, DDIM inversion on the latent it began from
    keep_evaluated: whether the latents of those last calls are kept in the trace, if there are passes before them
    controlled: whether a registered controller takes part, in the last call of each step; the passes before it are the
                model's own, so that the controller sees one call a step
    parts:      of the clip, each computed by a call of its own, see `NoiseModel.parts`; none: all frames in one
    checkpoints: steps that are finished already, and what keeps those that this run finishes
    Source: DDIM (arXiv 2010.02502); fixed-point passes as in AIDI (arXiv 2309.04907), without its acceleration.
    """
    store, steps = recording.store, len(schedule)
    clip = (len(latents), *latents.shape[-2:])
    predict = GuidedPrediction(unet, text, 1.0, clip, store, capture, parts=parts, on_frames=on_frames)
    dtype = levels_dtype(unet.dtype)
    nbytes = (steps + 1) * latents.numel() * dtype.itemsize * (2 if passes and keep_evaluated else 1)
    room = LevelsRoom(keeps_levels(latents.device, parts, nbytes), checkpoints.folder)
    levels = room.tensor(LATENTS, (steps + 1, *latents.shape), dtype)
    evaluated = room.tensor(EVALUATED, (steps, *latents.shape), dtype) if passes and keep_evaluated else None
    # Laid out in memory as the stored levels are, so that a step that runs again from one of them gives the same bits.
    x = levels[0] = latents.contiguous()
    timesteps = torch.tensor(schedule.timesteps, device=x.device)
    base = unet.attend if controlled else unet.kernel

    def stepped(x: Tensor, at: Tensor, step: int, base: Attend, recording: Recording) -> Tensor:
        prediction = _recorded(predict, at, timesteps[step], base, recording, step=step)
        return schedule.invert(x, prediction, step, exactly=passes > 0)

    for done in range(1, checkpoints.finished + 1):
        x, at = checkpoints.restored(done)
        levels[done] = x
        if evaluated is not None and at is not None:
            evaluated[done - 1] = at
        room.let_go()
    x = x.to(latents.device)
    if checkpoints.finished:
        on_step(StepDone(checkpoints.finished, steps, x))
    for step in reversed(range(steps - checkpoints.finished)):
        at = x
        for _ in range(passes):
            at = stepped(x, at, step, unet.kernel, NO_RECORDING)
        if evaluated is not None:
            evaluated[steps - 1 - step] = at
        x = stepped(x, at, step, base, recording)
        if controlled:
            x = unet.after_step(x)
        if watched(x, last=step == 0):
            check_result(unet, x, result_name(x, steps - step, steps, "the inversion"), given=latents)
        levels[steps - step] = x
        room.let_go()
        checkpoints.finish(steps - step, x, None if evaluated is None else at)
        on_step(StepDone(steps - step, steps, x))
    store.seal()
    kept = _on_cpu(unet, levels, latents, room)
    ran_on = None if evaluated is None else _on_cpu(unet, evaluated, latents, room)
    noise, at_once = x.float().cpu(), predict.frames_at_once
    return Trace(schedule, prompt, text.cpu(), kept, noise, store, capture, ran_on, at_once, room.paged)


@torch.no_grad()
def reconstruct_latents(
    unet: NoiseModel,
    inverted: Trace,
    text: Tensor,
    guidance: float,
    *,
    recording: Recording,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
    parts: Parts = (),
    checkpoints: Checkpoints = NO_CHECKPOINTS,
) -> Trace:
    """Denoise an inverted clip under its own prompt and record the attention of that.

    text:  [2, tokens, width] negative and source prompt, or [1, tokens, width] the source prompt without guidance
    parts, checkpoints: as of `invert_latents`
    Returns a trace whose levels are the latents of this pass, from the inversion's noisiest one down.
    """
    schedule, store, steps = inverted.schedule, recording.store, len(inverted.schedule)
    clip = (inverted.frames, *inverted.size)
    predict = GuidedPrediction(unet, text, guidance, clip, store, inverted.capture, parts=parts, on_frames=on_frames)
    timesteps = torch.tensor(schedule.timesteps, device=unet.device)
    room = LevelsRoom(keeps_levels(unet.device, parts, inverted.latents.nbytes), checkpoints.folder)
    levels = room.tensor(LATENTS, inverted.latents.shape, inverted.latents.dtype)
    levels[-1] = inverted.noise
    x = inverted.noise
    for done in range(1, checkpoints.finished + 1):
        x, _ = checkpoints.restored(done)
        levels[steps - done] = x
        room.let_go()
    x = x.to(unet.device)
    if checkpoints.finished:
        on_step(StepDone(checkpoints.finished, steps, x))
    for step in range(checkpoints.finished, steps):
        prediction = _recorded(predict, x, timesteps[step], unet.attend, recording, step=step)
        estimate = partial(schedule.clean, x, prediction, step)
        x = unet.after_step(schedule.denoise(x, prediction, step))
        if watched(x, last=step == steps - 1):
            name = result_name(x, step + 1, steps, "the reconstruction")
            check_result(unet, x, name, given=inverted.noise, guidance=guidance)
        levels[steps - 1 - step] = x
        room.let_go()
        checkpoints.finish(step + 1, x)
        on_step(StepDone(step + 1, steps, x, estimate))
    store.seal()
    return replace(
        inverted,
        latents=_on_cpu(unet, levels, inverted.noise, room),
        store=store,
        evaluated=None,
        frames_at_once=predict.frames_at_once,
        paged=room.paged,
    )


def _recorded(
    predict: GuidedPrediction, x: Tensor, timestep: Tensor, base: Attend, recording: Recording, *, step: int
) -> Tensor:
    """Predict for a clip, part by part, and store the attention of each part; `base` computes it."""
    pages = PageParts(recording.store, len(x))

    def predicted() -> Tensor:
        pages.begin()
        pieces = list[Tensor]()
        for group in predict.groups:
            park = None if on_device(recording.store) else parked_at(group)
            recorders = [RecordAttention(recording.forms, base, park=park) for _ in group] if recording.forms else []
            pieces += predict([part.of(x) for part in group], timestep, recorders or [base] * len(group), group)
            while recorders:  # each is let go once it is written
                part = group[-len(recorders)]
                # Converting to the stored precision needs room on the device as well.
                write = partial(pages.write, step, recorders.pop(0).records, part.frames)
                within_memory(write, memory_remedies(predict.unet, recording.store), OUT_OF_MEMORY_ADVICE)
        return joined(predict.parts, pieces)

    remedies = (*predict.remedies(), *[predict.smaller_parts] * HALVINGS)
    return within_memory(predicted, remedies, OUT_OF_MEMORY_ADVICE)


def _on_cpu(unet: NoiseModel, levels: Tensor, given: Tensor, room: LevelsRoom) -> Tensor:
    """Return levels on the CPU; raise ModelError if one left the range of the precision that it is stored in."""
    stored = levels.cpu()
    for level in stored:  # one by one: a check of all makes two more copies of them
        check_result(unet, level, f"the inversion, stored in {stored.dtype},", given=given)
        room.let_go()
    return stored
