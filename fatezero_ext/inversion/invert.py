"""Inverting a clip: check first, then find the inversion in the cache or compute it and record its attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..attention.clip_parts import Parts, most_frames
from ..diffusion.guided_text import check_guidance, embedded, guided_text
from ..errors import check_kind
from ..printable import format_bytes
from ..prompts.prompt import TextEncoder
from ..storage.disk_cache.cache import default_cache
from .checkpoints import RunFiles
from .controller import Controller
from .guided_prediction import OnFrames, OnStep, ignore_frames, ignore_step
from .plan import InversionPlan, plan_inversion
from .run import GuidedTexts, InversionRun, OnPlan, ignore_plan, stores_evaluated
from .storage_plan import (
    StoragePlan,
    check_room,
    check_waiting,
    choose_storage,
    frames_that_fit,
    frames_to_make_room_for,
    measured_room,
)


@dataclass(frozen=True)
class Reconstruction:
    """Settings for denoising an inverted clip again under its own prompt.

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
    inversion_passes: int = 1,
    frames_at_once: int = 0,
    reconstruct: Reconstruction | None = None,
    on_plan: OnPlan = ignore_plan,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
) -> Controller:
    """Invert a clip under a prompt that describes it, recording attention on the way.

    text_encoder: the model's own text encoder
    latents: raw latents [frames, channels, height, width], as a VAE's `encode` gives them, not scaled
    steps:   DDIM steps, as many for every edit that follows
    inversion_passes: fixed-point passes of each step, 0..10: a step calls the UNet once more for each and leads back to
             the clip more exactly; attention is recorded in its last call, and a registered controller sees that one
             alone; 0: plain DDIM inversion, as the authors' program
    frames_at_once: most frames that one call of the UNet computes, for long clips on small devices; the result is that
             of the whole clip within rounding, and edits of it go on alike. No fewer than the clip has: all. 0: all
             that the device may hold. Where its memory runs out all the same, the step runs again with fewer
    reconstruct: take the source's attention from denoising the inverted clip again under its own prompt; None: from
             the inversion itself, as FateZero does
    on_plan: called before the first step with a sentence: how attention will be stored and how large that will be, or
             that the inversion was found on disk; again at the end where memory ran out on the way
    on_step: called with a `StepDone` after each step, and once for all that an earlier run finished; raising ends the
             run, which changes nothing but what a later one goes on from
    on_frames: called within a step with the number of frames that a call of the UNet computed; raising ends the run
    Returns the controller with its trace, its storage decided where it was "auto". The trace's own latents are scaled.
    Raises FateZeroError kinds for a prompt that is too long, latents that do not fit, a step count out of range,
    attention that does not fit into memory, and `frames_at_once` where a clip must stay whole, see `NoiseModel.parts`.
    """
    planned = plan_inversion(
        controller,
        text_encoder,
        latents,
        source_prompt,
        steps=steps,
        inversion_passes=inversion_passes,
        frames_at_once=frames_at_once,
    )
    return invert_planned(
        planned, text_encoder, reconstruct=reconstruct, on_plan=on_plan, on_step=on_step, on_frames=on_frames
    )


def invert_planned(
    planned: InversionPlan,
    text_encoder: TextEncoder,
    *,
    reconstruct: Reconstruction | None = None,
    on_plan: OnPlan = ignore_plan,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
) -> Controller:
    """Do the work that `plan_inversion` checked; with `reconstruct` twice as many steps are reported."""
    if reconstruct is not None:
        check_kind(
            reconstruct, "negative_prompt", "reconstruct", "a Reconstruction, or None, is needed: Reconstruction()"
        )
    unet, source, wanted = planned.unet, planned.prompt.text, planned.controller.storage
    # The text encoder first: where memory is short, bringing it in may send the UNet out.
    text = embedded(text_encoder, [source], unet)
    guided = None
    if reconstruct is not None:
        texts = guided_text(text_encoder, unet, source, reconstruct.guidance, reconstruct.negative_prompt)
        guided = GuidedTexts(texts, reconstruct.guidance)
    chunks = 1 if guided is None else len(guided.texts)

    def work() -> Controller:
        at_once = frames_that_fit(unet, planned.frames, planned.frames_at_once, planned.size)
        fitting = replace(planned, frames_at_once=at_once)
        if at_once == planned.frames_at_once:  # else they were chosen by the same bound
            # Carried keys are less than whole frames: a bound that refuses leaves them out, one that is free has them.
            shape = replace(planned.shape(text.shape[1]), frames=_of_largest(planned.parts))
            check_room(unet, shape, planned.frames)
        chosen = _chosen_storage(fitting, text, guided)
        run = InversionRun(fitting, text, guided, chosen, wanted.policy == "auto", on_step, on_frames)
        if chosen.storage.place == "disk":
            inverted = run.through_cache(chosen.storage.cache or default_cache(), on_plan)
        else:
            on_plan(str(chosen))
            inverted = run.computed(run.memory_store())
        if 0 < inverted.frames_at_once < _of_largest(run.parts):
            on_plan(f"{chosen}; memory ran out on the way, {inverted.frames_at_once} frames at once since then")
        return replace(planned.controller, storage=chosen.storage, trace=inverted)

    asked = frames_to_make_room_for(unet, planned.parts, planned.frames_at_once, chunks=chunks, size=planned.size)
    return unet.run(work, chunks, asked, *planned.size)


def _chosen_storage(plan: InversionPlan, text: Tensor, guided: GuidedTexts | None) -> StoragePlan:
    """Choose how to store attention; raise SettingsError for what does not fit into memory."""
    unet, parts, shape = plan.unet, plan.parts, plan.shape(text.shape[1])
    waits = check_waiting(unet, plan.capture, parts, shape)
    # The edit that follows has two chunks.
    room = measured_room(unet, 2, replace(shape, frames=most_frames(parts)))
    steps, evaluated = len(plan.schedule), stores_evaluated(plan, guided)
    wanted = plan.controller.storage
    files = RunFiles(steps, recorded=True, twice=guided is not None, clip=plan.latents.shape, evaluated=evaluated)
    chosen = choose_storage(
        wanted, unet, plan.capture, shape, steps, room, evaluated=evaluated, finished_steps=files.nbytes
    )
    in_parts = f"; {_of_largest(parts)} frames at once" if len(parts) > 1 else ""
    apart = " (none with norm 'frame')" if waits and unet.joins_norms_alone else ""
    held = f", up to {format_bytes(waits)} of the others wait in ram{apart}" if waits else ""
    return replace(chosen, in_parts=in_parts + held)


def _of_largest(parts: Parts) -> int:
    return max(len(part.frames) for part in parts)
