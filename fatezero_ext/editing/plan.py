"""An edit's settings, compiled to tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..attention.controlled_layer import ControlledLayer
from ..attention.sites import LayerAddress
from ..diffusion.noise_model import NoiseModel
from ..diffusion.schedule import Schedule
from ..inversion.plan import InversionPlan
from ..inversion.trace import Trace
from ..prompts.alignment import refinement_mapper, replacement_mapper, token_weights, window_table
from ..prompts.prompt import PROMPT_TOKENS, Prompt, Window
from .fresh_noise import FreshNoise
from .masks import MaskWords, blend_layers
from .settings import BlendSettings, EditSettings, reads_mask, texts
from .strength import guidance_at_strength

_Windows = Mapping[str, Window]
LATENT_BLEND_WINDOW: Window = (0.2, 0.8)  # fraction of steps, fixed in the authors' program


@dataclass(frozen=True)
class StepPlan:
    """One step's arithmetic on cross-attention: A' = A_source @ mix + A_edit * gain, per token.

    mix:             [77, 77]; gain: [77]
    replace_cross:   whether this differs from A' = A_edit
    own_cross:       whether A_edit is in it at all
    fuse_self:       whether self-attention is taken from the source
    blend_latents:   whether the source's latents are put back outside the mask after the step
    """

    mix: Tensor
    gain: Tensor
    replace_cross: bool
    own_cross: bool
    fuse_self: bool
    blend_latents: bool


@dataclass(frozen=True)
class EditPlan:
    """An edit compiled for a number of steps.

    steps:       one StepPlan each, step 0 the noisiest
    source_mask: words of the source prompt that make the mask, or None without blending
    edit_mask:   words of the edit prompt that join it for latent blending, else at `joined_last` alone, or None
    settings:    of the edit, without any "auto"
    mask_layers: cross-attention layers whose maps these masks are read from
    token_map:   [77, 77] source tokens that each edit token takes the attention of, columns; none for a new token
    shape_layers: self-attention layers whose shapes these masks follow
    asked_text:  the source prompt with the words that it does not have; None: masks need no others
    """

    steps: tuple[StepPlan, ...]
    source_mask: MaskWords | None
    edit_mask: MaskWords | None
    settings: EditSettings
    mask_layers: tuple[LayerAddress, ...] = ()
    shape_layers: tuple[ControlledLayer, ...] = ()
    asked_text: str | None = None
    token_map: Tensor | None = None

    @property
    def blend(self) -> BlendSettings | None:
        """The masks' settings; a plan's own are resolved."""
        return cast("BlendSettings | None", self.settings.blend)

    @property
    def joins(self) -> bool:
        """True where words of the edit prompt join the masks that latents are blended under."""
        return self.edit_mask is not None and self.blend is not None and self.blend.latents

    @property
    def last_fused(self) -> int | None:
        """The last step that fuses self-attention under a mask of words; None without any."""
        return self._fused[-1] if self._fused else None

    @property
    def holds_still(self) -> bool:
        """The edit stands still where its source does."""
        return self.settings.hold_still is True and self.settings.strength > 0

    def fresh_noise(self, schedule: Schedule) -> FreshNoise | None:
        """Return the noise that what is free to differ is drawn from, or None if from that of the inversion.

        It is the inversion's, too, where a mask of words was to be read and no step does, as the whole frame would be
        new, and where the last step is the first to know what is free.
        """
        seed, strength = self.settings.fresh_noise_seed, self.settings.strength
        if not isinstance(seed, int) or strength == 0:
            return None
        blended = [place for place, step in enumerate(self.steps) if step.blend_latents]
        reading = [*self._fused, *blended] if self.source_mask is not None else []
        if self.source_mask is not None and reads_mask(self.settings) and not reading:
            return None
        begins = min(reading, default=0)
        return None if begins == len(schedule) - 1 else FreshNoise(schedule, seed, strength, begins)

    def drafts(self, schedule: Schedule, frames: int) -> int:
        """Return how often the edit is drawn at most.

        It is once where every draft would be the same, where no words of the edit prompt say what each is to show, for
        one frame, which has none to compare with, where the edit is to be weak, and with the authors' quirks.
        """
        settings = self.settings
        differ = self.fresh_noise(schedule) is not None and self.edit_mask is not None and frames > 1
        whole = settings.strength == 1 and settings.quirks == "fixed"
        return cast("int", settings.drafts) if differ and whole else 1

    @property
    def judged(self) -> int | None:
        """The step that shows how well a draft came out, its last; None where there is one draft alone."""
        return len(self.steps) - 1 if self.settings.drafts != 1 and self.edit_mask is not None else None

    @property
    def _fused(self) -> list[int]:
        under_mask = self.source_mask is not None and self.blend is not None and self.blend.self_attention
        return [place for place, step in enumerate(self.steps) if step.fuse_self and under_mask]

    @property
    def shown(self) -> int | None:
        """The step whose mask of words is made for the last mask alone, as no step reads one; else None."""
        read = self.last_fused is not None or any(step.blend_latents for step in self.steps)
        return None if self.source_mask is None or read else self._last_shape

    @property
    def _last_shape(self) -> int:
        """The step that shows the new object in its shape: as far on as latents would be blended."""
        return max(0, int(LATENT_BLEND_WINDOW[1] * len(self.steps)) - 2)

    @property
    def joined_last(self) -> int | None:
        """The step at which words of the edit prompt join the last mask, where no latents are blended; else None."""
        if self.edit_mask is None or any(step.blend_latents for step in self.steps):
            return None
        return self.shown if self.last_fused is None else max(self.last_fused, self._last_shape)

    @property
    def guidance(self) -> float:
        """Classifier-free guidance at this strength."""
        return guidance_at_strength(cast("float", self.settings.guidance), self.settings.strength)

    def to(self, device: torch.device, dtype: torch.dtype) -> EditPlan:
        """Return the same plan where a UNet computes, so that no step waits for a transfer."""
        return replace(
            self,
            steps=tuple(
                replace(step, mix=step.mix.to(device, dtype), gain=step.gain.to(device, dtype)) for step in self.steps
            ),
            source_mask=self.source_mask and self.source_mask.to(device),
            edit_mask=self.edit_mask and self.edit_mask.to(device),
        )


def mask_layers(settings: EditSettings, unet: NoiseModel, source: Trace | InversionPlan) -> tuple[LayerAddress, ...]:
    """Return the layers that an edit reads masks from, () without blend words; raises what `blend_layers` does."""
    blend = cast("BlendSettings | None", settings.blend)
    if blend is None or not blend.source_words:
        return ()
    # Only their sizes are read: the model may be on another device when it runs.
    return blend_layers(unet.sites(source.frames, *source.size), source.capture.most_cells, blend.downscale)


def compile_edit(
    settings: EditSettings,
    source: Prompt,
    edit: Prompt,
    steps: int,
    layers: tuple[LayerAddress, ...] = (),
    asked: Prompt | None = None,
) -> EditPlan:
    """Turn words, windows and thresholds into tensors, once, before any long work.

    settings: without any "auto", see `resolved_settings`
    layers: what `mask_layers` gives; a plan without them can be looked at, but makes no masks
    asked:  the prompt that masks' words are looked for in, see `with_other_words`; None: the source prompt
    Raises PromptError for words that are not in their prompt and for prompts that do not fit the mode.
    """
    mapper, mapped = _token_map(settings, source, edit)
    # EditSettings made pairs of all windows, and a mapping of those of words.
    everywhere, of_words = cast("Window", settings.cross_replace), cast("_Windows", settings.cross_replace_words)
    windows = window_table(edit, everywhere, of_words, steps)
    equalizer = token_weights(edit, cast("Mapping[str, float]", settings.equalizer), 1.0, "equalizer")
    if settings.strength != 1:
        equalizer = 1 + (equalizer - 1) * settings.strength
    blend_from, blend_to = (int(bound * steps) for bound in LATENT_BLEND_WINDOW)
    self_from, self_to = (int(bound * steps) for bound in cast("Window", settings.self_replace))
    blend = cast("BlendSettings | None", settings.blend)
    latents = blend is not None and blend.latents
    compiled = []
    for step in range(steps):
        taken = windows[step] * equalizer
        gain = taken * (1 - mapped) + (1 - windows[step])
        compiled.append(
            StepPlan(
                mix=mapper * taken,
                gain=gain,
                replace_cross=bool(windows[step].any()),
                own_cross=bool(gain.any()),
                fuse_self=self_from <= step < self_to,
                blend_latents=latents and blend_from < step + 1 < blend_to,
            )
        )
    return EditPlan(tuple(compiled), *_mask_words(blend, asked or source, edit), settings, layers, token_map=mapper)


def _token_map(settings: EditSettings, source: Prompt, edit: Prompt) -> tuple[Tensor, Tensor]:
    """Return [77, 77] source to edit tokens, and [77] 1 where an edit token takes the source's attention at all."""
    if settings.mode == "replace":
        return replacement_mapper(source, edit, settings.quirks), torch.ones(PROMPT_TOKENS, dtype=torch.float32)
    positions, mapped = refinement_mapper(source, edit, settings.quirks)
    matrix = torch.zeros(PROMPT_TOKENS, PROMPT_TOKENS, dtype=torch.float32)
    matrix[positions, torch.arange(PROMPT_TOKENS)] = mapped
    return matrix, mapped


def _mask_words(blend: BlendSettings | None, source: Prompt, edit: Prompt) -> tuple[MaskWords | None, MaskWords | None]:
    if blend is None:
        return None, None
    # Words are looked up even where nothing reads them, so that a misspelt one is always reported.
    own = _weights(source, texts("source_words", blend.source_words), "blend_words")
    joining = _weights(edit, texts("edit_words", blend.edit_words), "blend_edit_words")
    subtract = _weights(source, blend.subtract_words, "subtract_words") if blend.subtract_words else None
    spare = tuple(_weights(source, (words,), "spare_words") for words in blend.spare_words)
    if not blend.source_words:
        return None, None
    source_mask = MaskWords(own, blend.threshold, subtract, blend.subtract_threshold, spare, blend.spare_threshold)
    return source_mask, MaskWords(joining, blend.threshold) if blend.edit_words else None


def _weights(prompt: Prompt, words: tuple[str, ...], asked_by: str) -> Tensor:
    return token_weights(prompt, dict.fromkeys(words, 1.0), 0.0, asked_by)
