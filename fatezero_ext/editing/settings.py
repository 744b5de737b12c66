"""Settings of an edit, checked when they are made; `plan` compiles them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast, get_args

from ..diffusion.guided_text import check_guidance, finite_number
from ..errors import SettingsError, described, is_whole

if TYPE_CHECKING:
    from ..prompts.prompt import Quirks, Window

Mode = Literal["replace", "refine"]
MaskUse = Literal["intersect", "override"]
EditKind = Literal["auto", "object", "colour", "background", "style", "removal"]
"""Kind of change that an edit makes; see `resolved_settings`."""
KINDS: tuple[EditKind, ...] = get_args(EditKind)
AUTO: Final = "auto"
NO_WINDOWS: Mapping[str, Window] = MappingProxyType({})
Value = TypeVar("Value")
GREATEST_SEED = 2**32 - 1
"""Largest seed that torch tells from smaller ones on a CPU."""
MOST_DRAFTS = 16
AUTHORS_DEFAULT = "default_"
"""Key for all other words in the authors' `cross_replace_steps`."""


@dataclass(frozen=True)
class BlendSettings:
    """Words and thresholds of the mask inside which an edit may differ from its source.

    source_words:       words of the source prompt whose attention makes the mask; none: the user's mask alone; a plus
                        marks words that the prompt does not have: "+shadow"; "auto": those that differ between the
                        prompts
    edit_words:         their counterparts in the edit prompt; they join the mask of latent blending, and without it the
                        last mask, see `EditResult`; "auto" likewise
    threshold:          share of each frame's highest attention above which a cell may differ, usually 0.2..0.7
    self_attention:     fuse self-attention under the mask
    latents:            put the source's latents back outside the mask, over the middle of the steps
    subtract_words:     words, as `source_words`, whose mask is taken out again
    subtract_threshold: the same threshold for these
    spare_words:        words, as `source_words`, whose place `EditResult.last_mask` leaves to the source's own pixels;
                        the edit itself does not heed them
    spare_threshold:    share of each phrase's highest attention in the clip above which a cell is spared
    downscale:          latent cells per map cell the masks are read from; None: chosen by `blend_layers`
    mask_use:           a user's mask "intersect"s that of the words, or "override"s it
    follow_shapes:      heat of words spreads over what their places' self-attention looks at
    """

    source_words: tuple[str, ...] | Literal["auto"]
    edit_words: tuple[str, ...] | Literal["auto"] = ()
    threshold: float = 0.3
    self_attention: bool = True
    latents: bool = False
    subtract_words: tuple[str, ...] = ()
    subtract_threshold: float = 0.3
    spare_words: tuple[str, ...] = ()
    spare_threshold: float = 0.3
    downscale: int | None = None
    mask_use: MaskUse = "intersect"
    follow_shapes: bool = False

    @property
    def looked_for(self) -> tuple[str, ...]:
        """The words that are looked for in the source, but for those that are still "auto"."""
        own = () if self.source_words == AUTO else self.source_words
        return (*own, *self.subtract_words, *self.spare_words)

    def __post_init__(self) -> None:
        for name in ("source_words", "edit_words", "subtract_words", "spare_words"):
            value = getattr(self, name)
            if value != AUTO or name in ("subtract_words", "spare_words"):
                object.__setattr__(self, name, texts(name, value))
        _one_of("mask_use", self.mask_use, ("intersect", "override"))
        finite_number("blend threshold", self.threshold)
        finite_number("subtract threshold", self.subtract_threshold)
        finite_number("spare threshold", self.spare_threshold)
        uses = {"subtract_words": "take them from", "spare_words": "take them from", "edit_words": "join them to"}
        for name, use in uses.items():
            if getattr(self, name) and not self.source_words:
                shown = name.replace("edit_words", "blend_edit_words")
                raise SettingsError(
                    f"{shown} are {', '.join(texts(name, getattr(self, name)))} without blend_words to {use}; both are "
                    f"needed. Name the words that make the mask."
                )


@dataclass(frozen=True)
class EditSettings:
    """Settings of an edit; windows are fractions of the steps, 0..1, from the noisiest on.

    Values that are "auto" are chosen by the kind of edit, the prompts and the model; `resolved_settings` shows them.

    mode:                 "replace" words by words, or "refine" a prompt with more or fewer words
    cross_replace:        window in which cross-attention is taken from the source; a float b means (0, b). The authors'
                          `cross_replace_steps` as well: {"default_": 0.8, "word": 0.5 or (0.2, 0.5)}, the words of
                          which join `cross_replace_words`; without "default_" all other words have (0, 1)
    cross_replace_words:  the same for single words of the edit prompt
    self_replace:         window in which self-attention is taken from the source
    equalizer:            words of the edit prompt and the factors on the attention that they take from the source
    blend:                masks made from words, or None: the edit may differ everywhere
    guidance:             classifier-free guidance, 1 for none
    quirks:               "original": exactly as the authors' program, see docs/differences.md
    kind:                 what changes: an "object", its "colour", the "background", the "style", or "removal" of an
                          object; "auto": read from the prompts
    strength:             how much of the edit is done, 0 (the source) to 1 (all of it)
    hold_still:           what stands still in the source, such as the ground before a fixed camera, stands still in the
                          edit too, see `StillPlaces`
    fresh_noise_seed:     whole number, 0 or more: what the first mask leaves free to differ is drawn from this seed's
                          fresh noise, see `FreshNoise`; None: from the inversion's, which keeps the source's layout, as
                          where no step before the last reads the mask
    drafts:               how often what is drawn from fresh noise is drawn at most, 1 to 16: frames that show the
                          `edit_words` of `blend` hardly, beside the clip's best, are drawn again from the next seed's
                          noise, and the best draft of each is kept; once without such noise or words, at a strength
                          below 1 and under a registered controller
    """

    mode: Mode | Literal["auto"] = AUTO
    cross_replace: Window | float | Mapping[str, Window | float] | Literal["auto"] = AUTO
    cross_replace_words: Mapping[str, Window | float] = field(default_factory=lambda: NO_WINDOWS)
    self_replace: Window | float | Literal["auto"] = AUTO
    equalizer: Mapping[str, float] | Literal["auto"] = AUTO
    blend: BlendSettings | Literal["auto"] | None = AUTO
    guidance: float | Literal["auto"] = AUTO
    quirks: Quirks = "fixed"
    kind: EditKind = AUTO
    strength: float = 1.0
    hold_still: bool | Literal["auto"] = AUTO
    fresh_noise_seed: int | Literal["auto"] | None = AUTO
    drafts: int | Literal["auto"] = AUTO

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, (AUTO, "replace", "refine"))
        _one_of("kind", self.kind, KINDS)
        _one_of("quirks", self.quirks, ("fixed", "original"))
        own = _of_words("cross_replace_words", self.cross_replace_words)
        everywhere, words = _authors_windows(self.cross_replace)
        if twice := [word for word in words if word in own]:
            raise SettingsError(
                f"{twice[0]!r} has a window in cross_replace and in cross_replace_words; one is needed. Remove either."
            )
        windows = {word: _window(f"cross_replace of {word!r}", w) for word, w in {**own, **words}.items()}
        object.__setattr__(self, "cross_replace", _window("cross_replace", everywhere))
        object.__setattr__(self, "self_replace", _window("self_replace", self.self_replace))
        object.__setattr__(self, "cross_replace_words", MappingProxyType(windows))
        if not (isinstance(self.equalizer, str) and self.equalizer == AUTO):
            factors = dict(_of_words("equalizer", self.equalizer))
            object.__setattr__(self, "equalizer", MappingProxyType(factors))
            for word, factor in factors.items():
                finite_number(f"equalizer of {word!r}", factor)
        if self.blend not in (None, AUTO) and not isinstance(self.blend, BlendSettings):
            raise SettingsError(
                f"blend is {self.blend!r}; BlendSettings, 'auto' or None is needed. Write "
                f"blend=BlendSettings(('jeep',))."
            )
        if self.guidance != AUTO:
            check_guidance(self.guidance)
        if self.hold_still != AUTO and not isinstance(self.hold_still, bool):
            raise SettingsError(
                f"hold_still is {described(self.hold_still)}; True, False or 'auto' is needed. Use 'auto'."
            )
        object.__setattr__(self, "fresh_noise_seed", _seed("fresh_noise_seed", self.fresh_noise_seed))
        object.__setattr__(self, "drafts", _drafts(self.drafts))
        if not 0 <= finite_number("strength", self.strength) <= 1:
            raise SettingsError(f"strength is {self.strength}; 0 (the source) to 1 (the whole edit) is needed. Use 1.")

    def __reduce__(self) -> tuple[type[EditSettings], tuple[object, ...]]:
        """Return the call that makes them, for pickles and deep copies: read-only mappings go into neither."""
        values = (getattr(self, one.name) for one in fields(self))
        return type(self), tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)


def texts(name: str, value: object) -> tuple[str, ...]:
    """Return the words of a setting; one text alone is one phrase. Raises SettingsError for anything but texts."""
    words: tuple[Any, ...] = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise SettingsError(
            f"{name} has {reprlib.repr(wrong[0])}; words of the prompt are needed, each a text. Write ('silver jeep',)."
        )
    return words


def check_mask_is_made(blend: BlendSettings | None, *, with_mask: bool) -> None:
    """Raise SettingsError if blending is on and nothing makes its mask; with_mask: whether a user's comes along."""
    if blend is not None and not blend.source_words and not with_mask:
        raise SettingsError(
            "blending has neither blend_words nor a mask; words of the source prompt or a mask are needed. Name the "
            "object that may change, or leave out blending's other words and switches."
        )


def _authors_windows(
    windows: Window | float | Mapping[str, Window | float] | Literal["auto"],
) -> tuple[Window | float | Literal["auto"], dict[str, Window | float]]:
    """Return the window of all words, and those of single ones."""
    if not isinstance(windows, Mapping):
        return windows, {}
    words = dict(_of_words("cross_replace", windows))
    return words.pop(AUTHORS_DEFAULT, (0.0, 1.0)), words


def _of_words(name: str, values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return a setting of words; raise SettingsError unless it is a mapping from texts."""
    if not isinstance(values, Mapping) or not all(isinstance(word, str) for word in values):
        raise SettingsError(
            f"{name} is {values!r}; words of the edit prompt with a value each are needed. Write {{'word': 0.5}}."
        )
    return values


def _window(name: str, window: Window | float | Literal["auto"]) -> Window | Literal["auto"]:
    if window == AUTO:
        return AUTO
    bounds = window if isinstance(window, (tuple, list)) else (0.0, window)
    if len(bounds) != 2:
        raise SettingsError(f"{name} is {window!r}; one bound or two are needed. Use for example 0.8, or (0.2, 0.8).")
    start, end = bounds
    finite_number(name, start), finite_number(name, end)
    if not 0 <= start <= end <= 1:
        raise SettingsError(
            f"{name} is {start} to {end}; its bounds are fractions of the steps, 0 <= start <= end <= 1. "
            f"Use for example 0.0 to 0.8."
        )
    return float(start), float(end)


def _seed(name: str, seed: int | Literal["auto"] | None) -> int | Literal["auto"] | None:
    if seed is None or (isinstance(seed, str) and seed == AUTO):
        return seed
    if not is_whole(seed, 0, GREATEST_SEED):
        raise SettingsError(
            f"{name} is {described(seed)}; a whole number from 0 to {GREATEST_SEED}, None or 'auto' is needed. Use "
            f"'auto'."
        )
    return int(seed)


def _drafts(drafts: int | Literal["auto"]) -> int | Literal["auto"]:
    if isinstance(drafts, str) and drafts == AUTO:
        return drafts
    if not is_whole(drafts, 1, MOST_DRAFTS):
        raise SettingsError(
            f"drafts is {described(drafts)}; a whole number from 1 to {MOST_DRAFTS} or 'auto' is needed. Use 'auto'."
        )
    return int(drafts)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}. Choose one of these.")


def reads_mask(settings: EditSettings) -> bool:
    """Return whether an edit reads a mask, should it have steps enough; settings: with windows and masks resolved."""
    blend, (fused_from, fused_to) = settings.blend, cast("Window", settings.self_replace)
    return isinstance(blend, BlendSettings) and (blend.latents or (blend.self_attention and fused_from < fused_to))
