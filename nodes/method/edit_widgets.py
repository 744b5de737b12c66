"""The widgets of P2P Edit as one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.editing.settings import BlendSettings, EditSettings
from .. import text_lists as words

if TYPE_CHECKING:
    from ...fatezero_ext.prompts.words import Window

RESOLUTIONS = {"auto": None, "1/1": 1, "1/2": 2, "1/4": 4, "1/8": 8}
BLEND_WIDGETS = ("blend_words", "blend_edit_words", "subtract_words")


def window(start: float | None, end: float | None) -> Window:
    """A window of two widgets, either of which may not be known yet."""
    return (0.0 if start is None else start, 1.0 if end is None else end)


def blending(widgets: Mapping[str, Any], *, with_mask: bool) -> BlendSettings | None:
    """Blending is on once there is a mask or anything is asked of it; what it then lacks is said by the edit itself."""
    asked = with_mask or widgets["blend_latents"] or any(widgets[name].strip() for name in BLEND_WIDGETS)
    blend = BlendSettings(
        words.words(widgets["blend_words"]),
        edit_words=words.words(widgets["blend_edit_words"]),
        threshold=widgets["blend_threshold"],
        self_attention=widgets["blend_self_attention"],
        latents=widgets["blend_latents"],
        subtract_words=words.words(widgets["subtract_words"]),
        subtract_threshold=widgets["subtract_threshold"],
        downscale=int(widgets["blend_resolution"].removeprefix("1/"))
        if widgets["blend_resolution"] != "auto"
        else None,
        mask_use=widgets.get("mask_use", "intersect"),
    )
    return blend if asked else None


def from_widgets(widgets: Mapping[str, Any], *, with_mask: bool) -> EditSettings:
    """The settings of an edit; with_mask: whether a user's mask is linked."""
    return EditSettings(
        mode=widgets["mode"],
        cross_replace=(widgets["cross_replace_start"], widgets["cross_replace_end"]),
        cross_replace_words=words.windows(widgets["word_windows"], "word_windows"),
        self_replace=(widgets["self_replace_start"], widgets["self_replace_end"]),
        equalizer=words.weights(widgets["equalizer"], "equalizer"),
        blend=blending(widgets, with_mask=with_mask),
        guidance=widgets["guidance"],
        quirks=widgets["quirks"],
    )
