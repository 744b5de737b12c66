"""The widgets of Prompt-to-Prompt Edit as one value, and those that nodes of recorded attention share with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from ...fatezero_ext.editing.settings import AUTO, GREATEST_SEED, KINDS, MOST_DRAFTS, BlendSettings, EditSettings
from .. import text_lists
from ..api import advanced, io
from ..clips.framing_inputs import ALL, MOST_FRAMES

if TYPE_CHECKING:
    from ...fatezero_ext.prompts.prompt import Window

CUSTOM = "custom"
"""Kind of an edit whose widgets decide, and of graphs from before there were kinds."""
KIND_NAMES = (*KINDS, CUSTOM)
RESOLUTIONS = {"auto": None, "1/1": 1, "1/2": 2, "1/4": 4, "1/8": 8}
"""Resolutions of attention maps relative to the latents, as divisors; auto leaves the choice to the edit."""
NO_SEED = -1
"""Value of the widget that leaves the noise to the edit."""
NO_DRAFTS = 0
"""Value of the widget that leaves the number of drafts to the edit."""
HOLD_STILL: Mapping[str, bool | Literal["auto"]] = {AUTO: AUTO, "on": True, "off": False}
BLEND_WIDGETS = ("blend_words", "blend_edit_words", "subtract_words")


def share_widget(name: str, default: float, tooltip: str) -> io.Input:
    """Make a widget for a share, 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def resolution_widget(name: str, tooltip: str) -> io.Input:
    """Make a widget for one of `RESOLUTIONS`."""
    return advanced(io.Combo.Input(name, options=list(RESOLUTIONS), default="auto", tooltip=tooltip))


def follow_shapes_widget(used: str = "") -> io.Input:
    """Make the switch that lets heat follow the shapes of self-attention; used: a sentence on when it acts."""
    return advanced(
        io.Boolean.Input(
            "follow_shapes",
            default=False,
            optional=True,
            tooltip="Spread the heat of words over all that looks alike by self-attention: fuller, smoother places."
            + used,
        )
    )


def hold_still_widget() -> io.Input:
    """Make the choice of whether what stands still in the source does so in the edit."""
    return advanced(
        io.Combo.Input(
            "hold_still",
            options=list(HOLD_STILL),
            default=AUTO,
            optional=True,
            tooltip="What stands still in the clip, such as the ground before a fixed camera, is drawn once for all "
            "frames, so that it flickers less. auto: for new backgrounds and styles of the built-in models.",
        )
    )


def fresh_noise_seed_widget() -> io.Input:
    """Make the seed of what is drawn anew."""
    return advanced(
        io.Int.Input(
            "fresh_noise_seed",
            default=NO_SEED,
            min=NO_SEED,
            max=GREATEST_SEED,
            optional=True,
            tooltip="0 or more: what is new is drawn from fresh noise, one for all frames, by each seed differently. "
            "-1: from the clip's own noise, which keeps its layout; new objects and backgrounds of the built-in model "
            "take seed 0.",
        )
    )


def drafts_widget() -> io.Input:
    """Make the number of drafts."""
    return advanced(
        io.Int.Input(
            "drafts",
            default=NO_DRAFTS,
            min=NO_DRAFTS,
            max=MOST_DRAFTS,
            optional=True,
            tooltip="New objects from fresh noise: frames that show hardly any of the new words, beside the clip's "
            "best, are drawn again, and the best of up to this many drafts is kept. 0: 4 for new shapes of the "
            "built-in toy model, else 1 (1 with custom).",
        )
    )


def frames_at_once_widget(tooltip: str) -> io.Input:
    """Make the widget for the most frames that one call of the model computes."""
    return advanced(
        io.Int.Input("frames_at_once", default=ALL, min=ALL, max=MOST_FRAMES, optional=True, tooltip=tooltip)
    )


def window(start: float | None, end: float | None) -> Window:
    """Make a window from two widgets; None stands for a widget whose value is linked and not known yet."""
    return (0.0 if start is None else start, 1.0 if end is None else end)


def wrong_bound(start: float | None, end: float | None) -> Literal["start", "end"]:
    """Return which bound of a wrong window is to be corrected: the end if it alone is outside 0..1, else the start."""
    inside = [bound is None or isinstance(bound, (int, float)) and 0 <= bound <= 1 for bound in (start, end)]
    return "end" if inside == [True, False] else "start"


def blending(widgets: Mapping[str, Any], *, with_mask: bool) -> BlendSettings | None:
    """Return the settings of blending, or None if there is no mask and no widget of blending is used.

    Settings that lack something are refused by the edit itself.
    """
    is_used = with_mask or widgets["blend_latents"] or any(widgets[name].strip() for name in BLEND_WIDGETS)
    blend = BlendSettings(
        phrases_or_auto(widgets["blend_words"]),
        edit_words=phrases_or_auto(widgets["blend_edit_words"]),
        threshold=widgets["blend_threshold"],
        self_attention=widgets["blend_self_attention"],
        latents=widgets["blend_latents"],
        subtract_words=text_lists.parse_phrases(widgets["subtract_words"]),
        subtract_threshold=widgets["subtract_threshold"],
        downscale=RESOLUTIONS[widgets["blend_resolution"]],
        mask_use=widgets.get("mask_use", "intersect"),
        follow_shapes=widgets.get("follow_shapes", False),
    )
    return blend if is_used else None


def phrases_or_auto(text: str) -> tuple[str, ...] | Literal["auto"]:
    """Return the phrases of a list of words, or "auto" where that is all it says."""
    return AUTO if text.strip() == AUTO else text_lists.parse_phrases(text)


def from_widgets(widgets: Mapping[str, Any], *, with_mask: bool) -> EditSettings:
    """Return the settings of an edit, those that its kind chooses as "auto".

    with_mask: whether a user's mask is linked
    """
    kind, holds = widgets.get("kind", CUSTOM), widgets.get("hold_still", AUTO)
    seed, drafts = widgets.get("fresh_noise_seed", NO_SEED), widgets.get("drafts", NO_DRAFTS)
    factors = text_lists.parse_weights(widgets["equalizer"], "equalizer")
    settings = EditSettings(
        kind=AUTO if kind == CUSTOM else kind,
        strength=widgets.get("strength", 1.0),
        cross_replace_words=text_lists.parse_windows(widgets["word_windows"], "word_windows"),
        equalizer=factors or AUTO,
        quirks=widgets["quirks"],
        hold_still=HOLD_STILL.get(holds, holds),  # what a link brings may be none of them, and is refused in words
        fresh_noise_seed=AUTO if seed in (None, NO_SEED) else seed,
        drafts=AUTO if drafts in (None, NO_DRAFTS) else drafts,
    )
    if kind != CUSTOM:
        return settings
    return replace(
        settings,
        mode=widgets["mode"],
        cross_replace=(widgets["cross_replace_start"], widgets["cross_replace_end"]),
        self_replace=(widgets["self_replace_start"], widgets["self_replace_end"]),
        blend=blending(widgets, with_mask=with_mask),
        guidance=widgets["guidance"],
        equalizer=factors,
        hold_still=settings.hold_still is True,
        fresh_noise_seed=None if seed in (None, NO_SEED) else seed,
        drafts=1 if settings.drafts == AUTO else settings.drafts,
    )


def unused_widgets(changed: Mapping[str, Any], chosen: EditSettings) -> list[str]:
    """Return the widgets that say something else than what the kind of an edit chose.

    changed: widgets that are not at their defaults
    chosen:  the edit's settings, without any "auto"
    """
    used = _as_widgets(chosen)
    return [name for name, value in changed.items() if name in used and _read(name, value) not in (AUTO, used[name])]


def _read(name: str, value: object) -> object:
    return phrases_or_auto(str(value)) if name in BLEND_WIDGETS else value


def _as_widgets(chosen: EditSettings) -> dict[str, object]:
    """Return the values that the widgets of `CUSTOM` alone would need for these settings."""
    cross, own = (cast("Window", window) for window in (chosen.cross_replace, chosen.self_replace))
    blend = chosen.blend if isinstance(chosen.blend, BlendSettings) else BlendSettings(())
    return {
        "mode": chosen.mode,
        "guidance": chosen.guidance,
        "cross_replace_start": cross[0],
        "cross_replace_end": cross[1],
        "self_replace_start": own[0],
        "self_replace_end": own[1],
        "blend_words": blend.source_words,
        "blend_edit_words": blend.edit_words,
        "blend_threshold": blend.threshold,
        "blend_self_attention": blend.self_attention,
        "blend_latents": blend.latents,
        "subtract_words": blend.subtract_words,
        "subtract_threshold": blend.subtract_threshold,
        "blend_resolution": next(name for name, divisor in RESOLUTIONS.items() if divisor == blend.downscale),
        "mask_use": blend.mask_use,
        "follow_shapes": blend.follow_shapes,
    }
