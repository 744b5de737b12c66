"""One edit of a config as the widgets of Prompt-to-Prompt Edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..method.edit_widgets import CUSTOM
from . import prompt_words as wording
from .config import EditingConfig, P2PConfig
from .errors import ConfigError

Widgets = dict[str, Any]
NO_CONTROL: Widgets = {"mode": "refine", "cross_replace_end": 0.0, "self_replace_end": 0.0}
"""Plain guided denoising: nothing is taken from the source but the noise."""
WEAKEST_GUIDANCE = 1.0
EMPTY_MASK = 1.0
"""A threshold that no cell exceeds, because masks are relative to each frame's highest attention."""


@dataclass(frozen=True)
class Wording:
    """The two prompts of an edit, where its settings stand in the file, and the warnings so far."""

    source: str
    edit: str
    path: str
    warnings: list[str]

    def warn(self, key: str, text: str) -> None:
        """Add a warning about a key of this edit."""
        self.warnings.append(f"{self.path}.{key}: {text}")


def edit_widgets(config: EditingConfig, source: str, index: int, warnings: list[str]) -> Widgets:
    """Return the widgets of edit `index`; adds what cannot be taken over word for word to `warnings`."""
    edit = config.editing_prompts[index]
    guidance = max(config.guidance_scale, WEAKEST_GUIDANCE)
    shared = {"edit_prompt": edit, "negative_prompt": "", "guidance": guidance, "kind": CUSTOM}
    if not config.prompt2prompt_edit:
        return {**shared, **NO_CONTROL}
    control = _control(config, index)
    shared["negative_prompt"] = control.negative_prompt or ""
    if index == 0 and not config.use_inversion_attention:
        _check_reconstruction(control)
        warnings.append(
            "editing_config.p2p_config.0 is not used: with use_inversion_attention false the first edit is the plain "
            "reconstruction."
        )
        return {**shared, **NO_CONTROL}
    words = Wording(source, edit, f"editing_config.p2p_config.{index}", warnings)
    self_start, self_end = _inside(control.self_replace_steps, words, "self_replace_steps")
    return {
        **shared,
        "mode": _mode(control, words),
        **_cross_windows(control, words),
        "self_replace_start": self_start,
        "self_replace_end": self_end,
        "equalizer": _equalizer(control, words),
        **_blending(control, words),
    }


def _control(config: EditingConfig, index: int) -> P2PConfig:
    control = (config.p2p_config or {}).get(index)
    if control is None:
        raise ConfigError(
            f"editing_config.p2p_config has no entry {index} for editing_prompts.{index} "
            f"({config.editing_prompts[index]!r}); each edit needs one where prompt2prompt_edit is true. Add it."
        )
    return control


def _check_reconstruction(control: P2PConfig) -> None:
    if control.negative_prompt:
        raise ConfigError(
            f"editing_config.p2p_config.0.negative_prompt is {control.negative_prompt!r}, and use_inversion_attention "
            f"is false; attention is then read from a pass that has no negative prompt here. Remove it."
        )


def _mode(control: P2PConfig, words: Wording) -> str:
    source, edit = len(wording.authors_words(words.source)), len(wording.authors_words(words.edit))
    if not control.is_replace_controller:
        return "refine"
    if source != edit:
        words.warn(
            "is_replace_controller",
            f"the source prompt has {source} words, the edit prompt {edit}; with unequal counts the authors' program "
            f"refines, and so does this workflow.",
        )
        return "refine"
    _check_spaces(words)
    return "replace"


def _check_spaces(words: Wording) -> None:
    """Raise ConfigError where the authors' program miscounts the tokens up to the last word that is replaced."""
    pairs = list(zip(wording.authors_words(words.source), wording.authors_words(words.edit), strict=True))
    odd = [i for i, pair in enumerate(pairs) if any(word.split() != [word] for word in pair)]
    replaced = [i for i, (source, edit) in enumerate(pairs) if source != edit]
    if odd and replaced and odd[0] <= replaced[-1]:
        raise ConfigError(
            f"{words.path}: {words.source!r} or {words.edit!r} has doubled spaces or line breaks up to the last word "
            f"that differs, so the authors' program replaces tokens of other words; a replace edit needs one space "
            f"between words. Write single spaces."
        )
    if odd:
        words.warn(
            "is_replace_controller",
            "the prompts have doubled spaces or line breaks, behind the last word that differs; without effect.",
        )


def _inside(window: tuple[float, float], words: Wording, key: str) -> tuple[float, float]:
    """Cut the window to the steps there are."""
    end = min(window[1], 1.0)
    start = min(window[0], end)
    if (start, end) != window:
        words.warn(
            key, f"{list(window)} reaches over the last step or ends before it starts; the same as {[start, end]}."
        )
    return start, end


def _cross_windows(control: P2PConfig, words: Wording) -> Widgets:
    windows = dict(control.cross_replace_steps)
    start, end = _inside(windows.pop("default_", (0.0, 1.0)), words, "cross_replace_steps")
    path = f"{words.path}.cross_replace_steps"
    found = wording.present(windows, words.edit, path, words.warnings)
    single = {word: _inside(windows[word], words, f"cross_replace_steps.{word}") for word in found}
    return {
        "cross_replace_start": start,
        "cross_replace_end": end,
        "word_windows": wording.windowed(single, words.edit, path),
    }


def _equalizer(control: P2PConfig, words: Wording) -> str:
    if control.eq_params is None:
        return ""
    names, values = control.eq_params.words, control.eq_params.values
    if len(names) != len(values):
        words.warn("eq_params", f"{len(names)} words and {len(values)} values; pairs are taken as far as they go.")
    factors = dict(zip(names, values, strict=False))
    path = f"{words.path}.eq_params.words"
    found = wording.present(factors, words.edit, path, words.warnings)
    return wording.weighted({word: factors[word] for word in found}, words.edit, path)


def _blending(control: P2PConfig, words: Wording) -> Widgets:
    """Return the widgets of masks from words, or none where they have no effect."""
    latents, fused = bool(control.blend_latents), bool(control.blend_self_attention)
    lists = control.blend_words
    if lists is None:
        for key in ("blend_th", "blend_self_attention", "blend_latents"):
            if key in control.model_fields_set:
                words.warn(key, "has no effect without blend_words; left out.")
        return {}
    if not (latents or fused):
        words.warn(
            "blend_words", "neither blend_self_attention nor blend_latents is true, so no mask is used; left out."
        )
        return {}
    if len(lists) > 2:
        words.warn("blend_words", "only the first list (source) and the second (edit) are read.")
    path = f"{words.path}.blend_words"
    source = wording.present(lists[0] if lists else (), words.source, f"{path}.0", words.warnings)
    edit = wording.present(lists[1] if len(lists) > 1 else (), words.edit, f"{path}.1", words.warnings)
    threshold = _blend_threshold(control, words)
    empty = not source or threshold >= EMPTY_MASK
    if empty:
        if not latents:
            words.warn(
                "blend_words", f"{_why_empty(source)}, so all self-attention is the source's; blending left out."
            )
            return {}
        source, edit = _nothing_inside(source, edit, threshold, words)
        threshold = EMPTY_MASK
    return {
        "blend_words": wording.listed(source, words.source, path),
        "blend_edit_words": wording.listed(edit, words.edit, path),
        "blend_threshold": threshold,
        "blend_self_attention": fused,
        "blend_latents": latents,
    }


def _why_empty(source: list[str]) -> str:
    return "the threshold is 1 or more, so the mask is empty" if source else "no word makes a mask in the source prompt"


def _blend_threshold(control: P2PConfig, words: Wording) -> float:
    threshold, *others = control.blend_th
    if any(other != threshold for other in others):
        words.warn("blend_th", f"only the first number, {threshold:g}, is used for these masks.")
    if threshold < 0:
        words.warn("blend_th", f"{threshold:g} means a mask of everything, as 0 does; 0 is written.")
    return max(threshold, 0.0)


def _nothing_inside(
    source: list[str], edit: list[str], threshold: float, words: Wording
) -> tuple[list[str], list[str]]:
    """Return words for latent blending with an empty mask, which puts the source's latents back everywhere."""
    if not source and edit and threshold < EMPTY_MASK:
        raise ConfigError(
            f"{words.path}.blend_words has no word of the source prompt {words.source!r}, and blend_latents is true; "
            f"a mask of edit words alone is not offered here. Name a source word."
        )
    words.warn("blend_latents", f"{_why_empty(source)}; the source's latents are put back everywhere.")
    return source or [wording.authors_words(words.source)[0]], edit
