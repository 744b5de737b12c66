"""Edits of fresh clips by the built-in model, with settings by kind, measured against their exact truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...attention.key_frames import KeyFrame
from ...choices import World
from ...editing.automatic import resolved_settings
from ...editing.edit import EditResult, edit
from ...editing.settings import EditKind, EditSettings
from ...editing.source_pixels import keep_source_pixels
from ...inversion.controller import Controller
from ...inversion.invert import invert
from ...models.load import VideoModel
from ...prompts.removal import removal_prompt
from ..world.captions import caption
from ..world.clips import Clip
from ..world.world import NO_OBJECT, OWN_COLOUR, Scene
from .edits import EditFigures, measure
from .fresh_clips import fresh_clip, target
from .scores import psnr

STEPS = 20
OWN_KEYS: tuple[KeyFrame, ...] = ()
KEY_FRAMES: Mapping[str, tuple[KeyFrame, ...]] = {"background": ("mid", 0)}
"""Key frames of single kinds. Others draw best from each frame's own keys; a new texture holds still more often if
frames read the middle one's too, and with those alone objects lose their colours."""


PRESETS: Mapping[str, EditKind] = {
    "colour": "colour",
    "object": "object",
    "shape": "object",
    "colour+shape": "object",
    "background": "background",
    "removal": "removal",
}
"""Presets by the kinds of the table; styles have one of their own."""
WITH_MASK = tuple(PRESETS)
"""Kinds with a mask: the source's own pixels come back outside it, as in the example workflows."""


@dataclass(frozen=True)
class Outcome:
    """An edit, with its figures and those of the exact truth behind the VAE, the best that the model could give.

    index:   of the clip
    kind:    of the edit
    clip:    the source
    changes: what was asked for; nothing for a reconstruction
    prompt:  of the edit
    frames:  the edited clip, [frames, H, W, 3] uint8
    against_vae: dB of the edit against the exact truth behind the VAE; of a reconstruction what the inversion lost
    """

    index: int
    kind: str
    clip: Clip
    changes: Mapping[str, str]
    prompt: str
    frames: np.ndarray
    figures: EditFigures
    ceiling: EditFigures
    against_vae: float


SettingsFor = Callable[[str, Scene, Scene], EditSettings]


def preset(kind: str, before: Scene, after: Scene) -> EditSettings:
    """Return the settings of the preset for a kind of edit."""
    return _settings(PRESETS.get(kind, "style"), kind, before, after)


def default(kind: str, before: Scene, after: Scene) -> EditSettings:
    """Return what a user gets who sets nothing: the kind is read from the prompts too."""
    return _settings("auto", kind, before, after)


def _settings(preset: EditKind | Literal["auto"], kind: str, before: Scene, after: Scene) -> EditSettings:
    if kind == "reconstruction":
        return EditSettings("replace", cross_replace=0.0, self_replace=0.0, blend=None, guidance=1.0)
    words = caption(before), edit_prompt(before, after)
    objects = any(thing.is_object for thing in before.things)  # such clips need a model that draws them
    return resolved_settings(EditSettings(kind=preset), *words, built_in=True, draws_objects=objects)


SETTINGS: Mapping[str, SettingsFor] = {"preset": preset, "default": default}


def edit_prompt(before: Scene, after: Scene) -> str:
    """Write the prompt of an edit; an object is taken away by putting the background's word in place of its words."""
    if after.shape != NO_OBJECT:
        return caption(after)
    thing = before.shape if before.colour == OWN_COLOUR else f"{before.colour} {before.shape}"
    return removal_prompt(caption(before), thing, _background_word(before))


def _background_word(scene: Scene) -> str:
    return caption(scene).rpartition(" ")[2]


@dataclass(frozen=True)
class Runs:
    """Edits of the fresh clips of a seed.

    model:    returns the model with such key frames; the same one every time
    frames:   of each clip
    settings: of an edit, by its kind and its scenes before and after
    world:    half of the world that the clips show
    """

    model: Callable[[tuple[KeyFrame, ...]], VideoModel]
    seed: int
    frames: int = 8
    settings: SettingsFor = preset
    world: World = "shapes"

    def of_clip(self, index: int, kinds: Sequence[str]) -> Iterator[Outcome]:
        """Edit one clip in every kind; kinds with the same key frames share one inversion."""
        clip = fresh_clip(self.seed, index, frames=self.frames, world=self.world)

        @cache
        def inverted(keys: tuple[KeyFrame, ...]) -> Controller:
            model = self.model(keys)
            latents = model.vae.encode(torch.as_tensor(clip.frames))
            return invert(Controller(model.unet), model.text_encoder, latents, clip.prompt, steps=STEPS)

        for kind in kinds:
            keys = KEY_FRAMES.get(kind, OWN_KEYS)
            yield self._outcome(self.model(keys), inverted(keys), clip, index, kind)

    def _outcome(self, model: VideoModel, controller: Controller, clip: Clip, index: int, kind: str) -> Outcome:
        changes = target(clip, self.seed, index, kind)
        truth = clip.edited(**changes)
        before, after = clip.scenes[0], truth.scenes[0]
        prompt = edit_prompt(before, after)
        result = edit(controller, model.text_encoder, prompt, self.settings(kind, before, after))
        frames = finished(model, result, clip, kind).numpy()
        behind = model.vae.decode(model.vae.encode(torch.as_tensor(truth.frames))).numpy()
        figures, ceiling = (measure(one, clip, changes) for one in (frames, behind))
        pixels = np.round(frames * 255).astype(np.uint8)
        return Outcome(index, kind, clip, changes, prompt, pixels, figures, ceiling, psnr(frames, behind))


def finished(model: VideoModel, result: EditResult, clip: Clip, kind: str) -> Tensor:
    """Decode an edit and do what the example workflows do behind it. Returns [frames, H, W, 3], 0..1."""
    frames = model.vae.decode(result.latents)
    if kind not in WITH_MASK:
        return frames
    cell = model.unet.latent_format.pixels_per_cell
    source = torch.as_tensor(clip.frames).to(frames)
    return keep_source_pixels(frames, source, result.last_mask, feather=cell)
