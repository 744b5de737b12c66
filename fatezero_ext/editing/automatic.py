"""Settings that are left to the program: the kind of an edit, read from its prompts, and what suits that kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import PromptError, check_kind, check_text
from ..prompts.phrases import COLOURS, LINE_ART, PAINTED, kind_of_words, phrases_of, things_in_front
from ..prompts.prompt import bare
from ..prompts.word_changes import Change, changed_words, replaces_one_by_one
from .settings import AUTO, BlendSettings, EditKind, EditSettings, Mode, reads_mask

BUILT_IN_GUIDANCE = 3.0
"""Guidance of the built-in models: 7.5 loses 1.7 to 4.6 dB of what should stay, 2 new things (docs/toy_model.md)."""
PUBLISHED_GUIDANCE = 7.5


@dataclass(frozen=True)
class Drawing:
    """Values that what is free to differ is drawn with.

    cross:    end of the window of cross-attention, a fraction of the steps
    guidance: classifier-free guidance
    drafts:   how often it is drawn at most
    coloured: `cross` of what gets a new colour; None: the same
    """

    cross: float
    guidance: float
    drafts: int = 1
    coloured: float | None = None


@dataclass(frozen=True)
class Preset:
    """Values that suit a kind of edit.

    cross, own:    ends of the windows of cross- and self-attention, fractions of the steps
    threshold:     of the mask from the words that differ; None: no mask
    latents:       whether the source's latents are put back outside the mask
    joins:         whether words of the edit prompt join the mask
    still:         whether what stands still in the source does so in the edit
    fresh:         how it is drawn from fresh noise, the default where a mask is made; None: from the inversion's noise.
                   Neither this nor `still` is the default with `quirks` "original"
    spares:        threshold of the place of the things in front of a background, which keep the source's pixels; None:
                   they are drawn anew
    guidance:      classifier-free guidance from the inversion's noise; None: the usual one of the model
    """

    cross: float
    own: float
    threshold: float | None = None
    latents: bool = False
    joins: bool = False
    still: bool = False
    fresh: Drawing | None = None
    spares: float | None = None
    guidance: float | None = None


BUILT_IN: Mapping[EditKind, Preset] = {
    "object": Preset(0.5, 0.5, 0.3, latents=True, joins=True, fresh=Drawing(0.7, 4.0, drafts=4, coloured=0.8)),
    "colour": Preset(0.8, 0.8, 0.3, latents=True),
    "background": Preset(
        0.8, 0.8, 0.5, latents=True, still=True, fresh=Drawing(cross=0.8, guidance=BUILT_IN_GUIDANCE), spares=0.3
    ),
    "style": Preset(0.35, 0.8, still=True, guidance=2.0),
    "removal": Preset(0.4, 0.4, 0.3, latents=True),
}
"""The built-in models' best measured values, see docs/toy_model.md. Objects: from the inversion's noise windows of 0.6
left a circle on bricks its round edge; from fresh noise cross-attention to 0.7 keeps 1.5 dB more of what stays than to
0.5 and, with drafts, leaves hardly an old shape; 0.8 keeps another 1 dB, but leaves more of them where the old colour
stays too. A new colour stays in the old one's place: words of the edit that joined the mask only made it wider. Styles
are nearest to the truth with little guidance and the source's words for a third of the steps, and as often right as
with more; their still places flicker less when held. A background's words are bright over all of it, so that 0.5
spares objects; their own pixels, above 0.3 of their words' heat, are 4 dB nearer to the truth than what is drawn anew.
Words that replace an object taken away are the background's: they must not join its mask."""
OBJECTS: Mapping[EditKind, Preset] = {**BUILT_IN, "object": replace(BUILT_IN["object"], fresh=Drawing(0.7, 7.0))}
"""The same of the objects model, without drafts: of 48 frames guidance 4 left 7 without their new object, 7 left 4 and
cost 1.7 dB."""
LINES, THINGS_IN_LINES = Preset(0.8, 0.65, still=True, guidance=4.0), 5.0
"""The toy model's preset of styles that draw lines, and the factor on the attention that words of the things in front
take from the source: a thing is a faint line there, and gets lost among its background's (docs/toy_model.md)."""
OTHER_STYLES = Preset(0.5, 0.8)
"""The built-in models' preset of line drawings without those factors, which lose more at less guidance, and of edits
without a source prompt, which redraw everything."""
PUBLISHED: Mapping[EditKind, Preset] = {
    "object": Preset(0.5, 0.5, 0.3, joins=True),
    "colour": Preset(0.7, 0.7, 0.3, joins=True),
    "background": Preset(0.5, 0.5, 0.5, latents=True),
    "style": Preset(0.8, 0.8),
    "removal": Preset(0.4, 0.4, 0.3, latents=True),
}
"""Values of the authors' configs for Stable Diffusion 1.4, https://github.com/ChenyangQiQi/FateZero/tree/main/config:
objects as in teaser/jeep_posche.yaml; styles as in teaser/jeep_watercolor.yaml, the middle of their seven styles; the
windows of colours as of the yellow duck and the red tiger, attribute/duck_rubber.yaml and bear_tiger_lion_leopard.yaml,
those of backgrounds as of the grass and the snow, attribute/cat_tiger_leopard_grass.yaml and fox_wolf_snow.yaml.
Of theirs only other shapes, in shape/ and teaser/, have masks, and one puts latents back ("performance not so good in
our case"). Masks of colours and backgrounds are ours, for `keep_source_pixels`, with latents put back where all that
stays is outside. They have no removals: these are the built-in models'."""


_NO_SOURCE_WORDS = (
    "source_prompt is empty; an edit of the kind {!r} makes a mask from words of it. Describe what the clip shows, or "
    "use the kind 'auto', which then edits everything."
)


def resolved_settings(
    settings: EditSettings,
    source_prompt: str,
    edit_prompt: str,
    *,
    built_in: bool = False,
    draws_objects: bool = False,
    with_mask: bool = False,
    self_attention: bool = True,
) -> EditSettings:
    """Return the settings with every "auto" replaced by the value it stands for.

    built_in:       whether the model is a built-in one (`unet.built_in`)
    draws_objects:  whether that one draws objects beside coloured shapes (`unet.objects`)
    with_mask:      whether a user's mask comes along; it then makes the mask alone, unless `blend` is given
    self_attention: whether the inversion recorded it; without it the window of self-attention is empty
    An empty source prompt has no words to make a mask from: an edit of the kind "auto" may then differ everywhere.
    Raises PromptError where words that differ are needed and both prompts have the same, or the edit's is empty, and
    for an empty source prompt where the kind that is given makes a mask from its words; SettingsError for what is no
    EditSettings.
    """
    check_kind(settings, "cross_replace", "settings", "EditSettings are needed: EditSettings(mode='replace')")
    check_text(source_prompt, "source prompt")
    check_text(edit_prompt, "edit prompt")
    source, edit = source_prompt.split(), edit_prompt.split()
    changes = changed_words(source, edit)
    if _needs_changes(settings):
        _check_changes(source, edit, changes)
    kind = settings.kind if settings.kind != AUTO else kind_of_words(source, edit, changes)
    words = _Words(source, edit, changes)
    preset = ((OBJECTS if draws_objects else BUILT_IN) if built_in else PUBLISHED)[kind]
    factors: Mapping[str, float] = {}
    if built_in and kind == "style":
        left = all(value == AUTO for value in (settings.equalizer, settings.cross_replace, settings.self_replace))
        factors = words.strengthened if left and not draws_objects and settings.quirks == "fixed" else {}
        preset = LINES if factors else OTHER_STYLES if words.draws_lines or not source else preset
    if not source and preset.threshold is not None and settings.blend == AUTO and not with_mask:
        raise PromptError(_NO_SOURCE_WORDS.format(kind))
    own = preset.own if self_attention else 0.0
    settings = replace(
        settings,
        kind=kind,
        mode=_mode(kind, source, edit) if settings.mode == AUTO else settings.mode,
        self_replace=own if settings.self_replace == AUTO else settings.self_replace,
        hold_still=preset.still and settings.quirks == "fixed" if settings.hold_still == AUTO else settings.hold_still,
        blend=_blend(settings.blend, kind, preset, words, with_mask=with_mask),
        equalizer=factors if settings.equalizer == AUTO else settings.equalizer,
    )
    seed = _fresh_seed(settings, preset)
    usual = Drawing(preset.cross, preset.guidance or (BUILT_IN_GUIDANCE if built_in else PUBLISHED_GUIDANCE))
    values = usual if seed is None or preset.fresh is None else preset.fresh
    cross = values.coloured if values.coloured is not None and words.new & COLOURS else values.cross
    return replace(
        settings,
        cross_replace=cross if settings.cross_replace == AUTO else settings.cross_replace,
        guidance=values.guidance if settings.guidance == AUTO else settings.guidance,
        fresh_noise_seed=seed,
        drafts=values.drafts if settings.drafts == AUTO else settings.drafts,
    )


@dataclass(frozen=True)
class _Words:
    source: Sequence[str]
    edit: Sequence[str]
    changes: tuple[Change, ...]

    def phrases(self, kind: EditKind) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return phrases_of(kind, self.source, self.edit, self.changes)

    @property
    def new(self) -> frozenset[str]:
        """Words of the edit prompt that differ."""
        return frozenset(bare(self.edit[place]) for change in self.changes for place in change.edit)

    @property
    def draws_lines(self) -> bool:
        """True if the style of the edit prompt draws lines, and its source has none."""
        return bool(self.new & LINE_ART) and not self.new & PAINTED and not {bare(w) for w in self.source} & LINE_ART

    @property
    def strengthened(self) -> Mapping[str, float]:
        """The things in front of the edit prompt's background, with their factor, if its style draws new lines.

        Things that the style is named by are left out, such as the pencil of "a pencil sketch of a pencil on a desk".
        """
        if not self.draws_lines:
            return {}
        things = things_in_front(self.edit, [Change(one.edit, one.source) for one in self.changes])
        return {words: THINGS_IN_LINES for words in things if not self.new & {bare(word) for word in words.split()}}


def _check_changes(source: Sequence[str], edit: Sequence[str], changes: Sequence[Change]) -> None:
    """Raise PromptError unless words of the edit prompt differ from the source's."""
    if not edit:
        raise PromptError("edit_prompt is empty; words are needed. Describe what is wanted in plain words.")
    if not changes:
        raise PromptError(
            f"{_alike(source, edit)}; words that differ are needed to see what is to change. Change a word of the edit "
            f"prompt."
        )


def _alike(source: Sequence[str], edit: Sequence[str]) -> str:
    """Describe prompts in which no word differs."""
    shown = f"{' '.join(edit)!r}"
    if source == edit:
        return f"source and edit prompt are the same ({shown})"
    both = f"{' '.join(source)!r} and {shown}"
    return f"source and edit prompt differ in nothing but case or punctuation ({both}), which changes no word"


def _needs_changes(settings: EditSettings) -> bool:
    blend = settings.blend
    words = isinstance(blend, BlendSettings) and AUTO in (blend.source_words, blend.edit_words)
    return words or AUTO in (blend, settings.cross_replace, settings.self_replace)


def _mode(kind: EditKind, source: Sequence[str], edit: Sequence[str]) -> Mode:
    return "replace" if kind != "style" and replaces_one_by_one(source, edit) else "refine"


def _fresh_seed(settings: EditSettings, preset: Preset) -> int | None:
    """Return the seed of fresh noise, which by itself never takes the place of what no mask keeps.

    settings: resolved but for what this seed decides
    """
    if settings.fresh_noise_seed != AUTO:
        return settings.fresh_noise_seed
    return 0 if preset.fresh is not None and reads_mask(settings) and settings.quirks == "fixed" else None


def _blend(
    blend: BlendSettings | str | None, kind: EditKind, preset: Preset, words: _Words, *, with_mask: bool
) -> BlendSettings | None:
    if isinstance(blend, BlendSettings):
        return _with_words(blend, kind, words)
    if blend is None:
        return None
    if with_mask:
        return BlendSettings((), latents=True)
    of_source, of_edit = words.phrases(kind) if preset.threshold is not None else ((), ())
    if preset.threshold is None or not of_source:  # nothing of the source makes way: no mask could be made from it
        return None
    joining = of_edit if preset.joins else ()
    settings = BlendSettings(of_source, joining, preset.threshold, latents=preset.latents)
    if preset.spares is None:
        return settings
    return replace(settings, spare_words=things_in_front(words.source, words.changes), spare_threshold=preset.spares)


def _with_words(blend: BlendSettings, kind: EditKind, words: _Words) -> BlendSettings:
    """Fill in the words that differ, unless a prompt has the word "auto" itself."""
    if AUTO not in (blend.source_words, blend.edit_words):
        return blend
    of_source, of_edit = words.phrases(kind)
    source = ((AUTO,) if AUTO in words.source else of_source) if blend.source_words == AUTO else blend.source_words
    edit = ((AUTO,) if AUTO in words.edit else of_edit) if blend.edit_words == AUTO else blend.edit_words
    if blend.source_words == AUTO and not source:
        why = f"{' '.join(words.edit)!r} replaces no word of the source prompt" if words.source else "that is empty"
        raise PromptError(
            f"blend_words are 'auto', words of the source prompt that make way, but {why}; one that differs is needed. "
            f"Name the words that make the mask."
        )
    return replace(blend, source_words=source, edit_words=edit)
