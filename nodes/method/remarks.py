"""Sentences that nodes show before their work: what was chosen, and what makes poor results likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from ..first_use import importing

if TYPE_CHECKING:
    from ...fatezero_ext.diffusion.noise_model import NoiseModel
    from ...fatezero_ext.editing.plan import EditPlan
    from ...fatezero_ext.editing.settings import BlendSettings, EditSettings
    from ...fatezero_ext.inversion.controller import Controller
    from ...fatezero_ext.prompts.prompt import TextEncoder, Window

FAR_FROM_TRAINING = 3
"""Times as large or small as what a model was trained on; results are poor long before."""


def edit_remarks(
    controller: Controller, clip: TextEncoder, edit_prompt: str, settings: EditSettings, *, with_mask: bool
) -> str:
    """Say what an edit is about to do, behind remarks on what makes it poor.

    Raises what `edit` raises for settings and words that do not fit.
    """
    with importing():
        from ...fatezero_ext.editing.edit import plan_edit

    trace = controller.inverted()
    plan = plan_edit(controller.unet, trace, clip, edit_prompt, settings, with_mask=with_mask)
    remarks = [*_remarks(controller.unet, plan), unknown_words(controller.unet, edit_prompt)]
    length = f"{trace.frames} frames in {len(trace.schedule)} steps"
    return f"{' '.join(remarks)} Edit of {length}, {chosen(plan.settings)}: {edit_prompt}"


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
    if settings.strength != 1:
        parts.append(f"strength {settings.strength:g}")
    return ", ".join(parts)


def unknown_words(unet: NoiseModel, prompt: str) -> str:
    """Return a remark on words that the built-in model has never seen, with those it has, the nearest first.

    '' for other models, and without such words.
    """
    if not unet.built_in:
        return ""
    with importing():
        from ...fatezero_ext.prompts.prompt import bare
        from ...fatezero_ext.toy.world.captions import nearest_words, vocabulary

    known = {*vocabulary(), ""}
    unknown = [word for word in dict.fromkeys(prompt.split()) if bare(word) not in known]
    if not unknown:
        return ""
    means = "means" if len(unknown) == 1 else "mean"
    return (
        f"The built-in model does not know {_listed(unknown)}, which {means} nothing to it. It knows "
        f"{', '.join(nearest_words(bare(unknown[0])))}."
    )


def far_from_training(unet: NoiseModel, shorter: int) -> str:
    """Return a remark on a clip of which the model has seen nothing like; '' where its size is near.

    shorter: latent cells of the clip's shorter side
    """
    trained = unet.trained_side
    if trained is None or trained / FAR_FROM_TRAINING < shorter < trained * FAR_FROM_TRAINING:
        return ""
    cell = unet.latent_format.pixels_per_cell
    return (
        f"The clip's shorter side has {shorter * cell} pixels, {unet.name} was trained on {trained * cell}: "
        f"scale it with Prepare Frames."
    )


def _remarks(unet: NoiseModel, plan: EditPlan) -> Iterator[str]:
    blend = plan.blend
    if blend is not None and blend.latents and not any(step.blend_latents for step in plan.steps):
        yield f"blend_latents needs at least 5 steps; in {len(plan.steps)} none of them blends."
    if plan.settings.kind == "background" and unet.built_in and not any(layer.key_frames for layer in unet.layers):
        yield "New backgrounds of the built-in model flicker less with key_frames mid, 0 on Load Pseudo-3D UNet."


def _listed(words: Sequence[str]) -> str:
    shown = [repr(word[:30]) for word in words[:5]]
    return ", ".join([*shown, f"{len(words) - 5} more"] if len(words) > 5 else shown)
