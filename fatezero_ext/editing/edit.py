"""Editing an inverted clip by words: the public call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from ..attention.clip_parts import check_frames_at_once
from ..attention.map_control import MapControlAttention
from ..diffusion.guided_text import embedded, guided_text
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError, check_kind, check_text
from ..inversion.arguments import check_controller, check_text_encoder
from ..inversion.controller import Controller
from ..inversion.footprint import ClipShape, recorded_forms
from ..inversion.guided_prediction import OnFrames, OnStep, ignore_frames, ignore_step
from ..inversion.plan import InversionPlan
from ..inversion.source_reader import check_repeatable
from ..inversion.storage_plan import check_waiting, frames_to_make_room_for
from ..inversion.trace import Trace
from ..prompts.other_words import AskedPrompt, with_other_words
from ..prompts.prompt import TextEncoder, read_prompt
from .automatic import resolved_settings
from .drafts import best_drafts, draft_settings, reads_others
from .loop import EditedLatents, edit_latents
from .masks import check_other_words, shape_layers
from .plan import EditPlan, compile_edit, mask_layers
from .settings import BlendSettings, EditSettings, check_mask_is_made
from .strength import text_at_strength
from .user_mask import checked_mask


@dataclass(frozen=True)
class EditResult:
    """An edited clip.

    latents:   raw latents [frames, channels, height, width], on the CPU, ready for a VAE
    mask:      [frames, height, width] in cells: share of the blended steps at which a cell was free to differ, 0..1
    last_mask: bool [frames, height, width] in cells: the mask of the last step that blended latents, else of the last
               that fused self-attention under a mask, with the place of `BlendSettings.edit_words` and without that
               of its `spare_words`; where no step reads the mask of the words, it is made all the same; True everywhere
               without a mask. For `keep_source_pixels`
    drafts:    int64 [frames]: the number of each frame's draft, 0 where the first was kept, see `EditSettings.drafts`
    """

    latents: Tensor
    mask: Tensor
    last_mask: Tensor
    drafts: Tensor

    def __repr__(self) -> str:
        frames, height, width = self.mask.shape
        return f"EditResult({frames} frames of {height}x{width} cells, {self.mask.mean():.0%} free to differ)"


def edit(
    controller: Controller,
    text_encoder: TextEncoder,
    edit_prompt: str,
    settings: EditSettings | None = None,
    *,
    negative_prompt: str = "",
    mask: Tensor | None = None,
    frames_at_once: int = 0,
    on_step: OnStep = ignore_step,
    on_frames: OnFrames = ignore_frames,
) -> EditResult:
    """Edit an inverted clip by words; the inversion is only read, so any number of edits may follow one.

    text_encoder: the text encoder of the inversion
    mask:    [frames or 1, height, width] of the clip's proportions, above 0.5 where the edit may differ; with blend
             words both must allow a cell, unless `BlendSettings.mask_use` says "override"; None: words alone decide
    frames_at_once: most frames that one call of the UNet computes, as of `invert`; 0: as the inversion was computed
    on_step: called with a `StepDone` after each step; raising ends the run and changes nothing. Where frames are drawn
             again (`EditSettings.drafts`) the steps are counted from 1 again
    on_frames: called within a step with the number of frames that a call of the UNet computed; raising ends the run
    Returns raw latents, for a VAE's `decode`, and the masks.
    Raises FateZeroError kinds for settings, words and masks that do not fit, before any long work.
    """
    settings = EditSettings() if settings is None else settings
    check_text(negative_prompt, "negative prompt")
    check_controller(controller)
    unet, trace = controller.unet, controller.inverted()
    plan = plan_edit(unet, trace, text_encoder, edit_prompt, settings, with_mask=mask is not None)
    _check_control(controller, plan)
    check_frames_at_once(frames_at_once)
    at_once = frames_at_once or trace.frames_at_once
    parts = unet.parts(trace.frames, at_once, controlled=True)
    cell = unet.latent_format.pixels_per_cell
    user_mask = None if mask is None else checked_mask(mask, trace.frames, trace.size, cell)
    text = guided_text(text_encoder, unet, edit_prompt, plan.guidance, negative_prompt)
    text = text_at_strength(text, trace.text, plan.token_map, plan.settings.strength)
    asked_text = None if plan.asked_text is None else embedded(text_encoder, [plan.asked_text], unet)

    # A registered controller may count its calls: it sees one draft.
    drafts = plan.drafts(trace.schedule, trace.frames) if unet.attend is unet.kernel else 1
    plan = replace(plan, settings=replace(plan.settings, drafts=drafts))

    def planned(number: int) -> EditPlan:
        if number == 0:
            return plan
        wanted = draft_settings(plan.settings, number)
        return plan_edit(unet, trace, text_encoder, edit_prompt, wanted, with_mask=mask is not None)

    def draw(number: int) -> EditedLatents:
        return edit_latents(
            unet,
            trace,
            planned(number),
            text.to(unet.device),
            user_mask=user_mask,
            asked_text=asked_text,
            on_step=on_step,
            on_frames=on_frames,
            parts=parts,
        )

    def work() -> tuple[EditedLatents, Tensor]:
        check_waiting(unet, trace.capture, parts, ClipShape(trace.frames, *trace.size, trace.text.shape[1]))
        # What stands still is one for all frames of a draft.
        return best_drafts(draw, drafts, together=reads_others(unet) or plan.holds_still)

    asked = frames_to_make_room_for(unet, parts, at_once, chunks=len(text), size=trace.size)
    edited, numbers = unet.run(work, len(text), asked, *trace.size)
    latents = (edited.latents / unet.latent_format.scale).cpu()
    return EditResult(latents, edited.mask.cpu(), edited.last_mask.cpu(), numbers)


def plan_edit(
    unet: NoiseModel,
    source: Trace | InversionPlan,
    text_encoder: TextEncoder,
    edit_prompt: str,
    settings: EditSettings,
    *,
    with_mask: bool = False,
) -> EditPlan:
    """Compile an edit of a clip that is inverted or will be; raise FateZeroError kinds for what does not fit.

    settings:  those that are "auto" are resolved first
    with_mask: whether a user's mask will come along, so that blending needs no words
    """
    check_kind(settings, "cross_replace", "settings", "EditSettings, or None, is needed: EditSettings(mode='replace')")
    check_text_encoder(text_encoder)
    prompt = read_prompt(text_encoder, edit_prompt, "edit prompt")
    texts, own = (source.prompt.text, prompt.text), source.capture.self_attention
    settings = resolved_settings(
        settings,
        *texts,
        built_in=unet.built_in,
        draws_objects=bool(unet.objects),
        with_mask=with_mask,
        self_attention=own,
    )
    blend = cast("BlendSettings | None", settings.blend)
    overridden = with_mask and blend is not None and blend.mask_use == "override"
    check_mask_is_made(blend, with_mask=with_mask)
    layers = () if overridden else mask_layers(settings, unet, source)
    asked = source.prompt if blend is None else with_other_words(text_encoder, source.prompt, blend.looked_for)
    plan = compile_edit(settings, source.prompt, prompt, len(source.schedule), layers, asked)
    if not own:
        _check_none_is_fused(plan)
    if with_mask:
        _check_mask_is_read(plan, len(source.schedule))
    if overridden:
        return replace(plan, source_mask=None, edit_mask=None)
    if isinstance(asked, AskedPrompt):
        check_other_words(unet, layers, asked.others)
        plan = replace(plan, asked_text=asked.whole)
    shapes = shape_layers(unet, layers, source.capture) if layers and blend is not None and blend.follow_shapes else ()
    return replace(plan, shape_layers=shapes)


def _check_none_is_fused(plan: EditPlan) -> None:
    """Raise SettingsError if a step would take the source's self-attention, of which there is none."""
    if any(step.fuse_self for step in plan.steps):
        raise SettingsError(
            f"self_replace is {plan.settings.self_replace} but the inversion recorded no self-attention; it is needed "
            f"for that. Record self-attention (self_attention of Register Attention Control), or set self_replace to 0."
        )


def _check_mask_is_read(plan: EditPlan, steps: int) -> None:
    """Raise SettingsError if no step would use the user's mask."""
    blend = plan.blend
    fuses = any(step.fuse_self for step in plan.steps) and (blend is None or blend.self_attention)
    if not fuses and not any(step.blend_latents for step in plan.steps):
        raise SettingsError(
            f"a mask is given but nothing reads it in {steps} steps: self-attention is not fused under it and no "
            f"latents are blended. Set self_replace above 0 with blend_self_attention on, or turn on blend_latents "
            f"with at least 3 steps."
        )


def _check_control(controller: Controller, plan: EditPlan) -> None:
    """Raise SettingsError if a registered controller and the edit would both change attention.

    Likewise where the source would have to run again under it: words that it does not have are looked for, and of a
    layer that is to show them maps are stored, which show no others.
    """
    unet, trace, policy = controller.unet, controller.inverted(), controller.storage.policy
    unet.report_left_out()
    changes = any(step.replace_cross or step.fuse_self for step in plan.steps) or plan.joins
    if changes and isinstance(unet.attend, MapControlAttention):
        raise SettingsError(
            f"{type(unet.attend.controller).__name__} is registered and changes attention by itself; the edit must "
            f"leave it alone. Set cross_replace and self_replace to 0 and blend to None, or unregister the controller."
        )
    if plan.asked_text is not None and (policy == "features" or policy == "maps"):
        shape = ClipShape(trace.frames, *trace.size, trace.text.shape[1])
        forms = recorded_forms(unet, trace.capture, policy, shape)
        if maps := [at for at in plan.mask_layers if forms[at] == "map"]:
            check_repeatable(unet, maps[0])
