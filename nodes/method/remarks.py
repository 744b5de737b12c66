"""Sentences that nodes show before their work: what was chosen, and what makes poor results likely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from ...fatezero_ext.prompts.phrases import FUNCTION_WORDS
from ...fatezero_ext.prompts.prompt import bare
from ...fatezero_ext.prompts.word_changes import changed_words
from ..clips.clip_remarks import too_short
from ..first_use import importing
from .edit_widgets import unused_widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ...fatezero_ext.diffusion.noise_model import NoiseModel
    from ...fatezero_ext.editing.plan import EditPlan
    from ...fatezero_ext.editing.settings import BlendSettings, EditSettings
    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.inversion.plan import InversionPlan
    from ...fatezero_ext.prompts.prompt import TextEncoder, Window

MOST_NAMED = 5
"""Words that a remark names one by one."""
FAR_FROM_TRAINING = 2
"""Times as large or small as what a model was trained on: there Stable Diffusion draws things twice, or crumbs."""


def edit_remarks(
    controller: Controller,
    clip: TextEncoder,
    edit_prompt: str,
    wanted: EditSettings,
    *,
    with_mask: bool,
    changed: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Return remarks on what makes an edit poor, some of them '', and a line on what it is about to do.

    changed: widgets of the node that are not at their defaults
    Raises what `edit` raises for settings and words that do not fit.
    """
    with importing():
        from ...fatezero_ext.editing.edit import plan_edit

    trace = controller.inverted()
    plan = plan_edit(controller.unet, trace, clip, edit_prompt, wanted, with_mask=with_mask)
    remarks = [
        not_used(unused_widgets(changed, plan.settings), plan.settings),
        *_remarks(controller.unet, plan),
        unknown_words(controller.unet, edit_prompt),
        unlike_prompts(trace.prompt.text, edit_prompt),
    ]
    length = f"{trace.frames} frames in {len(trace.schedule)} steps"
    settings = replace(plan.settings, drafts=plan.drafts(trace.schedule, trace.frames))
    if settings.drafts == 1:
        remarks.append(_drafts_not_used(wanted, plan))
    if settings.fresh_noise_seed is not None and plan.fresh_noise(trace.schedule) is None:
        settings = replace(settings, fresh_noise_seed=None)
        remarks.append(_seed_not_used(wanted, plan))
    return [*remarks, f"Edit of {length}, {chosen(settings)}: {edit_prompt}"]


def inversion_remarks(planned: InversionPlan) -> list[str]:
    """Return remarks on what makes the edits behind an inversion poor; some are ''."""
    unet, frames = planned.unet, planned.frames
    return [
        far_from_training(unet, min(planned.size)),
        unknown_words(unet, planned.prompt.text),
        too_short(frames),
        independent_frames(unet, frames),
    ]


def chosen(settings: EditSettings) -> str:
    """Describe resolved settings in a few words."""
    blend = cast("BlendSettings | None", settings.blend)
    cross, own = (cast("Window", window) for window in (settings.cross_replace, settings.self_replace))
    parts = [
        f"{settings.kind}, {settings.mode}",
        f"cross-attention {cross[0]:g}-{cross[1]:g}",
        f"self-attention {own[0]:g}-{own[1]:g}",
        f"guidance {settings.guidance:g}",
    ]
    if blend is not None:
        words = f"from {', '.join(blend.source_words)} above {blend.threshold:g}" if blend.source_words else "given"
        parts.append(f"mask {words}" + (f", sparing {', '.join(blend.spare_words)}" if blend.spare_words else ""))
    parts += [f"{words} x {factor:g}" for words, factor in cast("Mapping[str, float]", settings.equalizer).items()]
    if settings.hold_still:
        parts.append("still places held")
    if settings.fresh_noise_seed is not None and settings.strength > 0:
        parts.append(f"fresh noise {settings.fresh_noise_seed}")
    if isinstance(settings.drafts, int) and settings.drafts > 1:
        parts.append(f"up to {settings.drafts} drafts")
    if settings.strength != 1:
        parts.append(f"strength {settings.strength:g}")
    return ", ".join(parts)


def drawn_again(drafts: Tensor) -> str:
    """Return a line on the frames that were drawn again; '' without any. drafts: see `EditResult`."""
    frames = [str(frame) for frame in drafts.nonzero()[:, 0].tolist()]
    if not frames:
        return ""
    more = f" and {len(frames) - MOST_NAMED} more" if len(frames) > MOST_NAMED else ""
    return f"Drawn again, as they hardly showed the new words: frames {', '.join(frames[:MOST_NAMED])}{more}"


def not_used(widgets: Sequence[str], chosen: EditSettings) -> str:
    """Return a remark on widgets whose values an edit does not use; '' without any."""
    if not widgets:
        return ""
    return (
        f"Not used: {', '.join(widgets)}. The kind {chosen.kind} chooses these itself; choose the kind custom if the "
        f"widgets are to decide."
    )


def unknown_words(unet: NoiseModel, prompt: str) -> str:
    """Return a remark on words that the built-in model has never seen, with those it has that are spelt alike.

    Further lines list all it has, by what they name. '' for other models, and without such words.
    """
    if not unet.built_in:
        return ""
    with importing():
        from ...fatezero_ext.models.folder.detect import BUILT_IN_NAMES
        from ...fatezero_ext.toy.world.captions import nearest_words, vocabulary, word_groups
        from ...fatezero_ext.toy.world.world import OBJECTS

    known = {*vocabulary(unet.objects), ""}
    unknown = [word for word in dict.fromkeys(prompt.split()) if bare(word) not in known]
    if not unknown:
        return ""
    nearest = {word: nearest_words(bare(word), unet.objects) for word in unknown[:MOST_NAMED]}
    near = [f"{word[:30]}: {', '.join(words)}" for word, words in nearest.items() if words]
    head = (
        f"This built-in model does not know {_listed(unknown)}, and can neither find nor draw "
        f"{'it' if len(unknown) == 1 else 'them'}."
    )
    if elsewhere := [word for word in unknown if bare(word) in {*OBJECTS} - known]:
        other = BUILT_IN_NAMES["objects"]
        head += f" The {other} knows {_listed(elsewhere)}: choose it on Load Stable Diffusion for Video."
    head += f" Nearest to {'; to '.join(near)}" if near else ""
    groups = word_groups(unet.objects).items()
    return "\n".join([head, *(f"{name.capitalize()} it knows: {', '.join(words)}" for name, words in groups)])


def far_from_training(unet: NoiseModel, shorter: int, advice: str = "scale it with Prepare Frames") -> str:
    """Return a remark on a clip of which the model has seen nothing like; '' where its size is near.

    shorter: latent cells of the clip's shorter side
    advice:  what to do about it
    """
    trained = unet.trained_side
    if trained is None or trained / FAR_FROM_TRAINING < shorter < trained * FAR_FROM_TRAINING:
        return ""
    cell = unet.latent_format.pixels_per_cell
    return (
        f"The frames' shorter side has {shorter * cell} pixels, {unet.name} was trained on {trained * cell}: {advice}."
    )


def unlike_prompts(source: str, edit: str) -> str:
    """Return a remark on prompts of which nothing can be kept, or nothing changed; '' for others."""
    before, after = source.split(), edit.split()
    if not before:
        return ""
    if not changed_words(before, after):
        return "Both prompts say the same: the edit draws the clip again as it is."
    words, edited = ({bare(word) for word in words} - FUNCTION_WORDS for words in (before, after))
    if words & edited:
        return ""
    return (
        "The prompts have no word in common, so that no word holds the clip in place: begin the edit prompt as the "
        "source prompt, and change as little as possible."
    )


def black_mask(mask: Tensor | None) -> str:
    """Return a remark on a mask that allows no change anywhere; '' for others, and for None.

    mask: [frames, height, width], above 0.5 where an edit may differ
    """
    if mask is None or bool((mask > 0.5).any()):
        return ""
    return "The mask is black everywhere: the edit may differ from the source nowhere. Check what makes the mask."


def independent_frames(unet: NoiseModel, frames: int) -> str:
    """Return a remark on frames that read no keys of each other; '' for others, and for the built-in model."""
    if frames == 1 or unet.built_in or any(layer.key_frames for layer in unet.layers):
        return ""
    return "Each frame reads its own keys alone, and edits may flicker: set key_frames of the model to -1, first."


def _seed_not_used(wanted: EditSettings, plan: EditPlan) -> str:
    """Return a remark on a seed that somebody gave; '' for one chosen by the kind, and where nothing is to change."""
    if not isinstance(wanted.fresh_noise_seed, int) or plan.settings.strength == 0:
        return ""
    return (
        f"fresh_noise_seed {wanted.fresh_noise_seed} is not used: none of the {len(plan.steps)} steps but the last "
        f"reads the mask. Take more steps, or longer windows."
    )


def _drafts_not_used(wanted: EditSettings, plan: EditPlan) -> str:
    """Return a remark on drafts that somebody asked for and that would all be the same; '' for others."""
    if not isinstance(wanted.drafts, int) or wanted.drafts == 1:
        return ""
    return (
        f"drafts {wanted.drafts} is not used: that needs more than one frame, fresh noise (fresh_noise_seed), words of "
        f"both prompts that make the mask (kind object, or blend_words and blend_edit_words) and a strength of 1. The "
        f"edit is drawn once."
    )


def _remarks(unet: NoiseModel, plan: EditPlan) -> Iterator[str]:
    blend = plan.blend
    if blend is not None and blend.latents and not any(step.blend_latents for step in plan.steps):
        yield (
            f"The source's latents are put back in the middle of 3 or more steps (blend_latents of Prompt-to-Prompt "
            f"Edit); in {len(plan.steps)} none of them does."
        )
    if plan.settings.kind == "background" and unet.built_in and not any(layer.key_frames for layer in unet.layers):
        yield (
            "New backgrounds of the built-in model flicker less with key_frames mid, 0 on Load Stable Diffusion for "
            "Video."
        )


def _listed(words: Sequence[str]) -> str:
    shown, more = [repr(word[:30]) for word in words[:MOST_NAMED]], len(words) - MOST_NAMED
    return ", ".join([*shown, f"{more} more"] if more > 0 else shown)
