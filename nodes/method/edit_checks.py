"""Checks of an edit's widgets before anything runs: each by itself, and its words against both prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from ...fatezero_ext.editing.automatic import resolved_settings
from ...fatezero_ext.editing.settings import AUTO, BlendSettings, EditSettings, check_mask_is_made
from ...fatezero_ext.prompts.other_words import is_other, with_other_words
from ...fatezero_ext.prompts.prompt import Prompt, Window, check_word_counts
from ...fatezero_ext.prompts.word_changes import changed_words
from ...fatezero_ext.prompts.words_alone import WordTokens, read_words
from .. import text_lists
from ..checking.verdicts import FirstMistakes
from .edit_widgets import CUSTOM, blending, phrases_or_auto, window, wrong_bound

WINDOWS: Mapping[str, Callable[[Window], EditSettings]] = {
    "cross_replace": lambda window: EditSettings(cross_replace=window),
    "self_replace": lambda window: EditSettings(self_replace=window),
}
"""Names of the windows, and the settings that check one."""
CHOSEN_BY_KIND = frozenset({"mode", "blend_words", "blend_edit_words", "subtract_words"})
"""Widgets with words, or that judge them, which only the kind "custom" uses."""
MOST_EDITS = 200
"""Limit of different edit prompts of a list that are checked before anything runs."""
MOST_LINES = 10 * MOST_EDITS
"""Limit of lines that are searched for different edit prompts."""
MOST_PHRASES = 1000
"""Limit of words and phrases of a widget that are looked for, all edit prompts together; one has at most 75 words."""


def edit_mistakes(
    widgets: Mapping[str, Any], edits: Sequence[str] = (), source: str | None = None, *, with_mask: bool = False
) -> dict[str, str]:
    """Return the mistakes of Prompt-to-Prompt Edit by widget.

    widgets:   those whose values are known, a kind that is linked as None; what only "custom" uses is checked with it
    edits:     the edit prompts, as far as they are known
    source:    the source prompt; None: not known, or empty where an edit needs it, which is DDIM Inversion's mistake
    with_mask: whether a mask is linked
    """
    mistakes, kind = FirstMistakes(), widgets.get("kind", CUSTOM)
    if kind == CUSTOM:
        for name, settings in WINDOWS.items():
            start, end = (widgets.get(f"{name}_{bound}") for bound in ("start", "end"))
            mistakes.check(f"{name}_{wrong_bound(start, end)}", settings, window(start, end))
        _check_blending(mistakes, widgets, with_mask=with_mask)
    else:
        if kind is not None:
            mistakes.check("kind", lambda: EditSettings(kind=kind))
        widgets = {name: value for name, value in widgets.items() if name not in CHOSEN_BY_KIND}
    mistakes.check("strength", lambda: EditSettings(strength=widgets.get("strength", 1.0)))
    mistakes.check("negative_prompt", read_words, str(widgets.get("negative_prompt") or ""), "negative prompt")
    read = None if source is None else FirstMistakes().check("", read_words, source, "source prompt")
    if read is not None:
        for widget in ("blend_words", "subtract_words"):
            _check_looked_for(mistakes, widget, _list(widgets, widget), read)
    weights, windows = _weights(mistakes, widgets), _windows(mistakes, widgets)
    named = {"equalizer": weights, "word_windows": windows, "blend_edit_words": _list(widgets, "blend_edit_words")}
    lines = list(islice(dict.fromkeys(edits[:MOST_LINES]), MOST_EDITS))
    most = MOST_PHRASES // max(len(lines), 1)
    for text in lines:
        edited = mistakes.check("edit_prompt", _read_edit, text)
        if edited is None:
            continue
        if read is not None and read.words:
            _check_change(mistakes, widgets, read, edited, with_mask=with_mask)
        for widget, phrases in named.items():  # of an empty prompt they are its own mistake
            _check_phrases(mistakes, widget if edited.words else "edit_prompt", phrases[:most], edited)
    return dict(mistakes)


def _check_change(
    mistakes: FirstMistakes, widgets: Mapping[str, Any], source: Prompt, edit: Prompt, *, with_mask: bool
) -> None:
    """Check what is chosen by the words that differ between a source prompt and an edit prompt."""
    if widgets.get("kind", CUSTOM) is not None:
        _check_choice(mistakes, widgets, (source.text, edit.text), with_mask=with_mask)
    if widgets.get("mode") == "replace":
        mistakes.check("edit_prompt", check_word_counts, source, edit)


def _check_looked_for(mistakes: FirstMistakes, widget: str, phrases: Sequence[str], source: Prompt) -> None:
    """Look for words of masks; those without a plus are DDIM Inversion's mistake where the source prompt is empty."""
    asked = [phrase for phrase in phrases if source.words or is_other(phrase)]
    whole = mistakes.check(widget, with_other_words, WordTokens(), source, asked)
    if whole is not None:
        _check_phrases(mistakes, widget, asked, whole)


@lru_cache(maxsize=MOST_EDITS)
def _read_edit(text: str) -> Prompt:
    """Read an edit prompt; cached, because every edit of a list checks the same prompts."""
    return read_words(text, "edit prompt")


def needs_source_words(inputs: Mapping[str, Any]) -> bool:
    """Return whether an edit reads words of the source prompt; inputs: those of P2PEdit, links among them."""
    if (kind := inputs.get("kind", CUSTOM)) != CUSTOM:
        return isinstance(kind, str) and kind not in (AUTO, "style") and inputs.get("mask") is None
    named = (inputs.get(name) for name in ("blend_words", "subtract_words"))
    return inputs.get("mode") == "replace" or any(
        isinstance(text, str) and not all(map(is_other, text_lists.parse_phrases(text))) for text in named
    )


def _check_blending(mistakes: FirstMistakes, widgets: Mapping[str, Any], *, with_mask: bool) -> None:
    """Check that something makes the mask that other widgets need, if all are known."""
    try:
        blend = mistakes.check("blend_words", blending, widgets, with_mask=with_mask)
    except (KeyError, ValueError, TypeError, AttributeError):  # a widget that is linked, or that ComfyUI refuses
        return
    mistakes.check("blend_words", check_mask_is_made, blend, with_mask=with_mask)


def _weights(mistakes: FirstMistakes, widgets: Mapping[str, Any]) -> Sequence[str]:
    text = str(widgets.get("equalizer") or "")
    settings = mistakes.check("equalizer", lambda: EditSettings(equalizer=text_lists.parse_weights(text, "equalizer")))
    return () if settings is None else list(settings.equalizer)


def _windows(mistakes: FirstMistakes, widgets: Mapping[str, Any]) -> Sequence[str]:
    text = str(widgets.get("word_windows") or "")
    settings = mistakes.check(
        "word_windows", lambda: EditSettings(cross_replace_words=text_lists.parse_windows(text, "word_windows"))
    )
    return () if settings is None else list(settings.cross_replace_words)


def _list(widgets: Mapping[str, Any], name: str) -> Sequence[str]:
    text = str(widgets.get(name) or "")
    if name == "subtract_words":
        return text_lists.parse_phrases(text)
    found = phrases_or_auto(text)
    return () if found == AUTO else found


def _check_choice(
    mistakes: FirstMistakes, widgets: Mapping[str, Any], prompts: tuple[str, str], *, with_mask: bool
) -> None:
    """Check that what is left to the program can be read from the prompts."""
    if (kind := widgets.get("kind", CUSTOM)) != CUSTOM:
        settings = FirstMistakes().check("", lambda: EditSettings(kind=kind))
    else:
        own, joining = (phrases_or_auto(str(widgets.get(name) or "")) for name in ("blend_words", "blend_edit_words"))
        if AUTO not in (own, joining) or not own:  # without words of the source that is blending's mistake
            return
        settings = EditSettings(cross_replace=1.0, self_replace=1.0, blend=BlendSettings(own, joining))
    if settings is None:
        return
    source, edit = (text.split() for text in prompts)
    place = "blend_words" if edit and changed_words(source, edit) else "edit_prompt"
    mistakes.check(place, resolved_settings, settings, *prompts, with_mask=with_mask)


def _check_phrases(mistakes: FirstMistakes, widget: str, phrases: Sequence[str], prompt: Prompt) -> None:
    """Look for phrases up to the first that is missing: a widget shows one mistake."""
    for phrase in phrases[:MOST_PHRASES]:
        if widget in mistakes:
            return
        mistakes.check(widget, prompt.find, phrase, widget)
