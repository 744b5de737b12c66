"""Choices of a whole edit that are left to the program, and the lines that tell them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...fatezero_ext.attention.sites import MOST_CELLS
from ...fatezero_ext.errors import SettingsError, VideoError
from ...fatezero_ext.media.audio import Sound, later
from ...fatezero_ext.media.clip import FileFrames, VideoClip
from ...fatezero_ext.media.framing import Framing, size_after
from ..clips.clip_remarks import lost_sound, too_short
from ..clips.framing_inputs import USUAL_FPS
from ..first_use import importing
from .remarks import (
    chosen,
    far_from_training,
    independent_frames,
    unknown_words,
    unlike_prompts,
)

if TYPE_CHECKING:
    from ...fatezero_ext.diffusion.noise_model import NoiseModel
    from ...fatezero_ext.editing.settings import EditSettings

USUAL_FRAMES = 8
"""Frames of the published clips; time and memory grow with them."""
PUBLISHED_STEPS, BUILT_IN_STEPS = 50, 20
MUCH_CUT_OFF = 0.1
"""Share of a picture that is missed where it is cut off."""
USUAL_CELLS = 64
"""Latent cells along the shorter side where a model does not say what it was trained on: 512 pixels."""


@dataclass(frozen=True)
class Asked:
    """Widgets that leave a choice to the program where they are 0; start: first frame that is taken."""

    frames: int = 0
    start: int = 0
    size: int = 0
    steps: int = 0
    frames_at_once: int = 0

    def __post_init__(self) -> None:
        """Raise SettingsError for a number below 0, which a link can bring."""
        for name, value in vars(self).items():
            if value < 0:
                raise SettingsError(f"{name} is {value}; 0 or more is needed. Check what is connected to {name}.")


@dataclass(frozen=True)
class ClipFacts:
    """A clip as far as it is looked at before an edit.

    frames:        how many there are; of a file perhaps more
    total:         the same, None where a file does not say
    height, width: pixels
    fps:           frames per second
    sound:         None for a silent clip
    """

    frames: int
    total: int | None
    height: int
    width: int
    fps: float
    sound: Sound | None


@dataclass(frozen=True)
class Choices:
    """The choices for one edit.

    most_cells: layers with more cells per frame are left alone
    feather:    pixels over which edit and source fade into each other
    masked:     whether the edit has a mask, outside which the source's pixels stay
    lines:      the choices as they are told
    remarks:    what makes poor results likely, told before them
    frames_at_once: most frames that one call of the model computes; 0: as many as its memory holds
    """

    framing: Framing
    steps: int
    most_cells: int
    feather: int
    masked: bool
    lines: tuple[str, ...]
    remarks: tuple[str, ...]
    frames_at_once: int = 0


def facts_of(clip: VideoClip, asked: Asked) -> ClipFacts:
    """Look at a clip; of a file only as many frames are decoded as are needed to know that it has enough.

    Raises VideoError where it cannot be read.
    """
    fps = float(clip.frame_rate)
    if isinstance(clip.frames, FileFrames):
        enough = asked.start + (asked.frames or USUAL_FRAMES) * _stride(fps)
        (frames, all_there_are), (height, width) = clip.frames.count(enough), clip.frames.part(0, 1).shape[1:3]
        return ClipFacts(frames, frames if all_there_are else None, height, width, fps, clip.sound)
    frames, height, width = clip.frames.shape[:3]
    return ClipFacts(frames, frames, height, width, fps, clip.sound)


def choose(
    unet: NoiseModel, clip: ClipFacts, asked: Asked, settings: EditSettings, prompts: tuple[str, str]
) -> Choices:
    """Choose what is left to the program.

    settings: those of the edit, resolved
    prompts:  the source's and the edit's
    The first frames are taken, at a rate of about 8 a second: motion from frame to frame stays as small as in the
    published clips. A few frames spread over a long clip would have nothing in common that could be kept.
    Raises VideoError for a start behind the clip's end, SettingsError for a size that is too small, for a clip that
    cannot be split, and where memory is too small for the frames that are asked for, or for one.
    """
    cell = unet.latent_format.pixels_per_cell
    wanted = _wanted_frames(unet, clip, asked)
    height, width = size_after(clip.height, clip.width, wanted)
    count, cells = wanted.count or 1, (height // cell, width // cell)
    if asked.frames_at_once:
        at_once = max(len(part.frames) for part in unet.parts(count, asked.frames_at_once))
        _within_memory(unet, at_once, cells, chosen=False)
    else:
        count = _within_memory(unet, count, cells, chosen=not asked.frames)
    framing = replace(wanted, count=count)
    steps = asked.steps or (BUILT_IN_STEPS if unet.built_in else PUBLISHED_STEPS)
    lines = [
        _frames_line(clip, framing) + ("" if framing == wanted else "; memory holds no more"),
        f"{width}x{height} pixels{_trained_on(unet)}",
        f"{steps} steps, key frames {_key_frames(unet)}",
        f"{chosen(settings)}: {prompts[1]}",
    ]
    remarks = _remarks(unet, clip, framing, min(height, width) // cell, prompts)
    cells_below = -(-height // (2 * cell)) * -(-width // (2 * cell))
    return Choices(
        framing=framing,
        steps=steps,
        most_cells=max(MOST_CELLS, cells_below),  # as published for a square: all but the finest level
        feather=cell,
        masked=settings.blend is not None,
        lines=tuple(lines),
        remarks=tuple(filter(None, remarks)),
        frames_at_once=asked.frames_at_once,
    )


def _wanted_frames(unet: NoiseModel, clip: ClipFacts, asked: Asked) -> Framing:
    """Choose frames and their size as the model was trained on them, however much memory there is."""
    cell = unet.latent_format.pixels_per_cell
    whole = cell * unet.smallest_side
    if 0 < asked.size < whole:
        raise SettingsError(
            f"size is {asked.size}; {unet.name} needs at least {whole} pixels. Raise size, or set it to 0 to have it "
            f"chosen."
        )
    stride, count = selection(clip, asked)
    return Framing(
        start=asked.start,
        count=count,
        sampling_rate=stride,
        short_side=asked.size or (unet.trained_side or USUAL_CELLS) * cell,
        centre_square=False,
        multiple_of=whole,
    )


def _within_memory(unet: NoiseModel, frames: int, cells: tuple[int, int], *, chosen: bool) -> int:
    """Return how many of these frames memory holds once the program has made room for them.

    cells:  height and width of a frame in latent cells
    chosen: whether fewer may be taken
    Raises SettingsError where a number that was asked for does not fit and cannot be split, or one frame does not fit.
    """
    with importing():
        from ...fatezero_ext.inversion.footprint import ClipShape
        from ...fatezero_ext.inversion.storage_plan import check_room, frames_that_fit, most_frames
        from ...fatezero_ext.memory.free_memory import free_on

    def fitting() -> int:
        if not chosen and frames_that_fit(unet, frames, 0, cells):
            return frames  # in parts
        most = most_frames(unet, *cells, free_on(unet.device)) if chosen else 0
        if not most:
            check_room(unet, ClipShape(1 if chosen else frames, *cells, tokens=0))
        return min(frames, most or frames)

    # Measured within a run, as the inversion does: only there has ComfyUI sent out what earlier workflows have loaded.
    return unet.run(fitting, 1, frames, *cells)


def selection(clip: ClipFacts, asked: Asked) -> tuple[int, int]:
    """Return which frames are taken, every n-th, and how many: no more than the clip has from the first one on.

    A short clip gives its frames at a higher rate before it gives fewer.
    """
    left, wanted = clip.frames - asked.start, asked.frames or USUAL_FRAMES
    if left < 1:
        raise VideoError(
            f"start is {asked.start}, and the clip has {clip.frames} frames, counted from 0; a smaller one is needed. "
            f"Lower start."
        )
    apart = (left - 1) // max(wanted - 1, 1)  # how far apart so many frames can be, the last one within the clip
    stride = max(1, min(_stride(clip.fps), apart))
    return stride, min(wanted, len(range(0, left, stride)))


def _stride(fps: float) -> int:
    return max(1, round(fps / USUAL_FPS))


def _frames_line(clip: ClipFacts, framing: Framing) -> str:
    every = "each" if framing.sampling_rate == 1 else f"every {_ordinal(framing.sampling_rate)}"
    of = "" if clip.total is None else f" of {clip.total}"
    start = f" from frame {framing.start} on" if framing.start else ""
    return f"{framing.count}{of} frames{start}: {every}, {clip.fps / framing.sampling_rate:.3g} fps"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _trained_on(unet: NoiseModel) -> str:
    side = unet.trained_side
    return "" if side is None else f"; {unet.name} was trained on {side * unet.latent_format.pixels_per_cell}"


def _key_frames(unet: NoiseModel) -> str:
    for layer in unet.layers:
        if layer.key_frames:
            return ", ".join(map(str, layer.key_frames))
    return "none"


def _remarks(
    unet: NoiseModel, clip: ClipFacts, framing: Framing, shorter: int, prompts: tuple[str, str]
) -> Iterator[str]:
    yield far_from_training(unet, shorter, "leave size at auto (0)")
    yield _cut_off(clip, framing)
    yield from dict.fromkeys(unknown_words(unet, prompt) for prompt in prompts)  # as the nodes inside tell them
    yield unlike_prompts(*prompts)
    count = framing.count or 0
    seconds = count * framing.sampling_rate / clip.fps
    yield too_short(count, seconds)
    yield independent_frames(unet, count)
    yield lost_sound(None if clip.sound is None else later(clip.sound, framing.start / clip.fps), seconds)


def _cut_off(clip: ClipFacts, framing: Framing) -> str:
    """Return a remark on a picture that loses much where its sides are evened out; '' for others."""
    whole, kept = (size_after(clip.height, clip.width, each) for each in (replace(framing, multiple_of=1), framing))
    share = 1 - math.prod(kept) / math.prod(whole)
    if share < MUCH_CUT_OFF:
        return ""
    (rows, columns), (height, width) = whole, kept
    return (
        f"{share:.0%} of the picture is cut off at its edges, {columns}x{rows} pixels to {width}x{height}: both sides "
        f"must be multiples of {framing.multiple_of}."
    )
