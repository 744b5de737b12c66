"""The value that travels along the graph, and the two calls that use it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .attend import Capture
from .blend import blend_layers
from .errors import SettingsError, StoreError
from .loops import OnStep, Trace, edit_latents, ignore_step, invert_latents, reconstruct_latents
from .map_control import OnMaps
from .plan import EditPlan, EditSettings, check_guidance, compile_edit
from .prompts import Clip, read_prompt
from .schedule import Schedule
from .stores import Storage, open_store
from .unet import Pseudo3DUNet
from .user_mask import fitted_mask


@dataclass(frozen=True)
class Controller:
    """A UNet, what to record of its attention, where to keep it, and, once a clip was inverted, its trace."""

    unet: Pseudo3DUNet
    capture: Capture = field(default_factory=Capture)
    storage: Storage = field(default_factory=Storage)
    trace: Trace | None = None

    def __repr__(self) -> str:
        return f"Controller({self.unet.name!r}, {self.storage.policy} in {self.storage.place}, {self.trace})"

    def with_storage(self, storage: Storage) -> Controller:
        """The same controller keeping attention elsewhere; what an inversion left is dropped."""
        return replace(self, storage=storage, trace=None)


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


@dataclass(frozen=True)
class EditResult:
    """An edited clip.

    latents: raw latents [frames, channels, height, width], on the CPU, ready for a VAE
    mask:    [frames, height, width] in cells: share of the blended steps at which a cell was free to differ, 0..1
    """

    latents: Tensor
    mask: Tensor


def invert(
    controller: Controller,
    clip: Clip,
    latents: Tensor,
    source_prompt: str,
    *,
    steps: int = 50,
    reconstruct: Reconstruction | None = None,
    on_step: OnStep = ignore_step,
) -> Controller:
    """Invert a clip under a prompt that describes it, recording attention on the way.

    clip:    a text encoder
    latents: raw latents [frames, channels, height, width] of a VAE
    steps:   DDIM steps, as many for every edit that follows
    reconstruct: take the source's attention from denoising the inverted clip again under its own prompt; None: from
             the inversion itself, as FateZero does
    on_step: called as (done, total, latents) after each step; raising ends the run and changes nothing
    Returns the controller with its trace.
    Raises FateZeroError kinds for a prompt that is too long, latents that do not fit, a step count out of range.
    """
    planned = plan_inversion(controller, clip, latents, source_prompt, steps=steps)
    return invert_planned(planned, clip, reconstruct=reconstruct, on_step=on_step)


def plan_inversion(
    controller: Controller, clip: Clip, latents: Tensor, source_prompt: str, *, steps: int = 50
) -> Controller:
    """The controller as `invert` will leave it, with nothing computed: enough to check edits against.

    Takes and raises what `invert` does.
    """
    unet = controller.unet
    prompt = read_prompt(clip, source_prompt, "source prompt")
    schedule = Schedule.from_config(unet.scheduler, steps)
    if latents.ndim != 4 or not len(latents):
        raise StoreError(
            f"the clip's latents are shaped {list(latents.shape)}; [frames, channels, height, width] with at least one "
            f"frame is needed. Encode the frames of one clip with the VAE."
        )
    unet.check_latents(latents)
    if not latents.isfinite().all():
        raise StoreError(
            "the clip's latents hold values that are not finite; numbers are needed. Encode the frames again, with the "
            "VAE in float32 if it was in half precision."
        )
    levels = (latents.float() * unet.latents.scale).expand(steps + 1, -1, -1, -1, -1)
    return replace(
        controller, trace=Trace(schedule, prompt, levels, open_store(controller.storage), controller.capture)
    )


def invert_planned(
    planned: Controller, clip: Clip, *, reconstruct: Reconstruction | None = None, on_step: OnStep = ignore_step
) -> Controller:
    """Do the work that `plan_inversion` checked; with `reconstruct` twice as many steps are reported."""
    unet, trace = planned.unet, planned.trace
    # The text encoder first: where memory is short, bringing it in may send the UNet out.
    text = _embed(clip, [trace.prompt.text], unet)
    wanted = text if reconstruct is None else _guided_text(clip, unet, trace.prompt.text, reconstruct)
    unet.prepare(unet.working_memory(len(wanted), *_clip_size(trace)))
    steps = len(trace.schedule)
    total = steps if reconstruct is None else 2 * steps
    inverted = invert_latents(
        unet,
        trace.latents[0].to(unet.device),
        text.to(unet.device),
        trace.prompt,
        trace.schedule,
        capture=planned.capture,
        storage=planned.storage if reconstruct is None else None,
        on_step=lambda done, _total, latents: on_step(done, total, latents),
    )
    if reconstruct is not None:
        inverted = reconstruct_latents(
            unet,
            inverted,
            wanted.to(unet.device),
            reconstruct.guidance,
            storage=planned.storage,
            on_step=lambda done, _total, latents: on_step(steps + done, total, latents),
        )
    return replace(planned, trace=inverted)


def edit(
    controller: Controller,
    clip: Clip,
    edit_prompt: str,
    settings: EditSettings | None = None,
    *,
    negative_prompt: str = "",
    mask: Tensor | None = None,
    on_step: OnStep = ignore_step,
) -> EditResult:
    """Edit an inverted clip by words; the inversion is only read, so any number of edits may follow one.

    mask:    [frames or 1, height, width] of the clip's proportions, above 0.5 where the edit may differ; with blend
             words both must allow a cell, unless `BlendSettings.mask_use` says "override"; None: words alone decide
    on_step: called as (done, total, latents) after each step; raising ends the run and changes nothing
    Raises FateZeroError kinds for settings, words and masks that do not fit, before any long work.
    """
    unet, settings = controller.unet, settings or EditSettings()
    plan = plan_edit(controller, clip, edit_prompt, settings, with_mask=mask is not None)
    _check_control(unet, plan)
    size, cell = controller.trace.latents.shape[-2:], unet.latents.pixels_per_cell
    user_mask = None if mask is None else fitted_mask(mask, controller.trace.frames, tuple(size), cell)
    text = _guided_text(clip, unet, edit_prompt, Reconstruction(settings.guidance, negative_prompt))
    unet.prepare(unet.working_memory(len(text), *_clip_size(controller.trace)))
    edited = edit_latents(
        unet,
        controller.trace,
        plan,
        text.to(unet.device),
        user_mask=None if user_mask is None else user_mask.to(unet.device),
        on_step=on_step,
    )
    return EditResult((edited.latents / unet.latents.scale).cpu(), edited.mask.cpu())


def plan_edit(
    controller: Controller, clip: Clip, edit_prompt: str, settings: EditSettings, *, with_mask: bool = False
) -> EditPlan:
    """Compile an edit of an inverted clip, or say what does not fit.

    with_mask: whether a user's mask will come along, so that blending needs no words
    """
    trace = controller.trace
    if trace is None:
        raise StoreError(
            "the controller has no inversion; an edit reads one. Invert the clip first: DDIMInvert in "
            "a graph, invert() in Python."
        )
    blend = settings.blend
    overridden = with_mask and blend is not None and blend.mask_use == "override"
    if blend is not None and not blend.source_words and not with_mask:
        raise SettingsError(
            f"blending has neither blend_words nor a mask; words of the source prompt {trace.prompt.text!r} or a mask "
            f"are needed. Name the object that may change, or leave out blending's other words and switches."
        )
    if blend is not None and blend.source_words and not overridden:
        sites = controller.unet.sites(trace.frames, *trace.latents.shape[-2:])
        blend_layers(sites, trace.capture.most_cells, blend.downscale)
    prompt = read_prompt(clip, edit_prompt, "edit prompt")
    plan = compile_edit(settings, trace.prompt, prompt, len(trace.schedule))
    if not trace.capture.self_attention and any(step.fuse_self for step in plan.steps):
        raise SettingsError(
            f"self_replace is {settings.self_replace} but the inversion recorded no self-attention; it is needed for "
            f"that. Record self-attention, or set self_replace to 0."
        )
    if with_mask:
        _check_mask_is_read(plan, len(trace.schedule))
    return replace(plan, source_mask=None, edit_mask=None) if overridden else plan


def _check_mask_is_read(plan: EditPlan, steps: int) -> None:
    """Raise SettingsError where no step would look at a user's mask."""
    blend = plan.settings.blend
    fuses = any(step.fuse_self for step in plan.steps) and (blend is None or blend.self_attention)
    if not fuses and not any(step.blend_latents for step in plan.steps):
        raise SettingsError(
            f"a mask is given but nothing reads it in {steps} steps: self-attention is not fused under it and no "
            f"latents are blended. Set self_replace above 0 with blend_self_attention on, or turn on blend_latents "
            f"with at least 5 steps."
        )


def _check_control(unet: Pseudo3DUNet, plan: EditPlan) -> None:
    """Raise SettingsError where a registered map controller and the edit would both change attention."""
    changes = any(step.replace_cross or step.fuse_self for step in plan.steps) or plan.edit_mask is not None
    if changes and isinstance(unet.attend, OnMaps):
        raise SettingsError(
            f"{type(unet.attend.controller).__name__} is registered and changes attention by itself; the edit must "
            f"leave it alone. Set cross_replace and self_replace to 0 and blend to None, or unregister the controller."
        )


def _guided_text(clip: Clip, unet: Pseudo3DUNet, prompt: str, guided: Reconstruction) -> Tensor:
    """Embeddings [2, tokens, width] of the negative prompt and the prompt; without guidance of the prompt alone."""
    read_prompt(clip, guided.negative_prompt, "negative prompt")
    return _embed(clip, [prompt] if guided.guidance == 1 else [guided.negative_prompt, prompt], unet)


def _clip_size(trace: Trace) -> tuple[int, int, int]:
    """Frames, height and width of the inverted clip in cells."""
    return (trace.frames, *trace.latents.shape[-2:])


def _embed(clip: Clip, texts: list[str], unet: Pseudo3DUNet) -> Tensor:
    """Text embeddings [texts, tokens, width]."""
    embeddings = torch.cat([clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in texts])
    width = unet.net.config.cross_attention_dim
    if embeddings.shape[-1] != width:
        raise SettingsError(
            f"the text encoder gives embeddings {embeddings.shape[-1]} wide; {unet.name} needs {width}. "
            f"Use the CLIP that belongs to the model."
        )
    return embeddings
