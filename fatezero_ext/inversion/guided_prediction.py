"""Guided noise prediction with its remedies for a full device, and the progress of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.clip_parts import PartAttention, PartCalls, Parts, most_frames, whole_clip
from ..attention.functional import Attend
from ..attention.sites import Site
from ..diffusion.finite import watched
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError
from ..memory.free_memory import OutOfMemoryError, Remedy, free_on, free_ram, within_memory
from ..memory.freed_blocks import give_back_freed_blocks
from ..storage.offload import CPU
from ..storage.record_store import MemoryStore, RecordStore
from .footprint import ClipShape
from .recording import Capture
from .storage_plan import check_waiting

log = logging.getLogger(__name__)
OUT_OF_MEMORY_ADVICE = (
    "Use fewer or smaller frames, or, on Attention Store Cache, policy recompute or place ram. frames_at_once computes "
    "a long clip in parts."
)


@dataclass(frozen=True)
class StepDone:
    """Progress of a run, reported after every step.

    done, total: steps, 1 after the first
    latents:     [frames, channels, height, width] the clip after the step, scaled; not to be changed
    estimate:    computes the clean estimate that `preview` returns; None: it returns the latents
    attention_mask: bool [frames, height, width] in latent cells, where the computation runs: True where this step of an
                 edit kept its own self-attention; None where it was not fused under a mask
    latent_mask: the same of latent blending: False where the source's latents were put back
    """

    done: int
    total: int
    latents: Tensor
    estimate: Callable[[], Tensor] | None = None
    attention_mask: Tensor | None = None
    latent_mask: Tensor | None = None

    def preview(self) -> Tensor:
        """Return latents to preview, scaled: the current ones while inverting, the clean estimate while editing."""
        return self.latents if self.estimate is None else self.estimate()


OnStep = Callable[[StepDone], None]


OnFrames = Callable[[int], None]


def ignore_frames(frames: int) -> None:
    """The default `on_frames`: called within a step, after each prediction of a part of the clip, with the number of
    its frames; one that raises ends the run there."""


def ignore_step(step: StepDone) -> None:
    """The default `on_step`: called after every step; one that raises ends the run there."""


def result_name(x: Tensor, done: int, steps: int, run: str) -> str:
    """Name a result for an error: with its step if each is checked, else any of them may have gone wrong first."""
    return f"step {done} of {steps} of {run}" if watched(x, last=False) else run


def memory_remedies(unet: NoiseModel, store: RecordStore) -> tuple[Remedy, ...]:
    """Return what a run on `store` can do when the device runs out of memory in the middle of a call.

    Nothing under a registered controller: the call would go through it again, and it may count its calls.
    """
    if not isinstance(store, MemoryStore) or unet.attend is not unet.kernel:
        return ()
    return (lambda: "recorded attention moves to the computer's memory" if store.leave_device() else None,)


def together(unet: NoiseModel, parts: Parts) -> Sequence[Parts]:
    """Return groups of parts that are computed together: each by itself, or all where the model joins them."""
    return [parts] if len(parts) > 1 and unet.joins_parts else [(part,) for part in parts]


def parked_at(group: Parts) -> torch.device | None:
    """Return where what a call leaves of each part waits for the other parts of its group; None: where it was made."""
    return CPU if len(group) > 1 else None


def looked_after(attend: Attend, on_frames: OnFrames) -> Attend:
    """Return an attention in whose every layer the run can be ended."""

    def attended(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        on_frames(0)
        return attend(q, k, v, site)

    return attended


HALVINGS = 20
"""Times that a step may run again in parts of half the size: more than any clip takes."""


class GuidedPrediction:
    """Predictions for one clip, guided if there are two texts, the negative one first.

    Two texts share a call where the device has room for it, until it runs out of memory; else each has its own.
    """

    def __init__(
        self,
        unet: NoiseModel,
        text: Tensor,
        guidance: float,
        clip: tuple[int, int, int],
        store: RecordStore,
        capture: Capture,
        *,
        parts: Parts = (),
        on_frames: OnFrames = ignore_frames,
    ) -> None:
        """Begin a run.

        clip:  frames, height and width in cells
        store: of the run, which can leave the device
        capture: what is recorded or read in each step
        parts: of the clip, each predicted by a call of its own; none: it is predicted whole
        """
        self._clip = frames, *size = clip
        self.unet, self.text, self.guidance, self.store, self._capture = unet, text, guidance, store, capture
        self._on_frames = on_frames
        self.one_at_a_time = len(text) == 1
        self._split(parts or whole_clip(frames))
        needed = unet.working_memory(2, most_frames(self.parts), *size)
        short = unet.device.type == "cuda" and needed > free_on(unet.device)
        self._take_turns_if(short or self._both_texts_fill_ram())

    def _split(self, parts: Parts) -> None:
        self.parts, self.groups = parts, together(self.unet, parts)
        self._calls = PartCalls(parts, self.unet.sites(*self._clip), texts=len(self.text))

    @property
    def frames_at_once(self) -> int:
        """Most frames of a part; 0: the clip is whole."""
        return 0 if len(self.parts) == 1 else max(len(part.frames) for part in self.parts)

    def smaller_parts(self) -> str | None:
        """Split the clip into smaller parts and say so, for a step to run again; None where that cannot be.

        Raises OutOfMemoryError where the parts of a clip that was whole would fill RAM while they wait for each other.
        """
        frames = self._clip[0]
        wanted = (self.frames_at_once or frames) // 2
        if wanted == 0 or self.unet.attend is not self.unet.kernel:  # a controller may count its calls
            return None
        try:
            parts = self.unet.parts(frames, wanted)
        except SettingsError:
            return None
        was_whole = len(self.parts) == 1
        if was_whole:
            self._check_waiting(parts)
        self._split(parts)
        self._take_turns_if(was_whole and self._both_texts_fill_ram())
        return f"{self.frames_at_once} frames are computed at once from here on"

    def __call__(
        self, pieces: Sequence[Tensor], timestep: int | Tensor, attends: Sequence[Attend], group: Parts
    ) -> list[Tensor]:
        """Predict for the parts of a group; the groups come in their order at each step.

        pieces:  [frames, channels, height, width] of each part
        attends: computes the attention of each part in the call that has the last text
        Raises OutOfMemoryError; where the group reads parts before it, `remedies` may help a step that begins again.
        """
        # What the parts before carried to this one is gone once it was read.
        remedies = () if group[0].before else self.remedies()
        if len(group) > 1:  # they end together, which may take minutes
            attends = [looked_after(attend, self._on_frames) for attend in attends]
        attends = [self._calls.attend(attend, part) for attend, part in zip(attends, group, strict=True)]
        if len(self.parts) > 1 and self.unet.device.type == "cpu":
            give_back_freed_blocks()  # of the part before, and of the source's own call
        predicted = within_memory(lambda: self._predictions(pieces, timestep, attends), remedies, OUT_OF_MEMORY_ADVICE)
        self._on_frames(sum(map(len, pieces)))
        return predicted

    def remedies(self) -> tuple[Remedy, ...]:
        """Return what can be done when the device runs out of memory, beside smaller parts."""
        return (*memory_remedies(self.unet, self.store), self._take_turns)

    def _predictions(self, pieces: Sequence[Tensor], timestep: int | Tensor, attends: Sequence[Attend]) -> list[Tensor]:
        if not self.one_at_a_time:
            predicted = self.unet.predict_parts(pieces, timestep, self.text, attends)
            pairs = (both.chunk(2) for both in predicted)
            return [torch.lerp(negative, wanted, self.guidance) for negative, wanted in pairs]
        of_last = self.unet.predict_parts(pieces, timestep, self.text[-1:], attends)
        if len(self.text) == 1:
            return of_last
        inner = self.unet.attend if len(pieces) == 1 else looked_after(self.unet.attend, self._on_frames)
        others = [attend.of_others(inner) if isinstance(attend, PartAttention) else None for attend in attends]
        of_first = self.unet.predict_parts(pieces, timestep, self.text[:1], others)
        apart = zip(of_first, of_last, strict=True)
        return [torch.lerp(negative, wanted, self.guidance) for negative, wanted in apart]

    def _check_waiting(self, parts: Parts) -> None:
        try:
            check_waiting(self.unet, self._capture, parts, ClipShape(*self._clip, self.text.shape[1]))
        except SettingsError as error:
            raise OutOfMemoryError(f"The device has too little memory for the whole clip. {error}") from error

    def _both_texts_fill_ram(self) -> bool:
        """Return whether the parts of a clip cannot wait for each other in RAM under both texts at once."""
        return len(self.parts) > 1 and self.unet.waiting_memory(2, *self._clip) > free_ram()

    def _take_turns_if(self, short: bool) -> None:
        if short and (remedy := self._take_turns()):
            log.warning("The device is short of memory: %s.", remedy)

    def _take_turns(self) -> str | None:
        if self.one_at_a_time or self.unet.attend is not self.unet.kernel:  # a controller may count its calls
            return None
        self.one_at_a_time = True
        return "the two halves of guidance are computed one after the other"
