"""The result of an inversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.clip_parts import Parts
from ..diffusion.schedule import Schedule
from ..memory.free_memory import free_on
from ..prompts.prompt import Prompt
from ..storage.record_store import RecordStore
from .recording import Capture


@dataclass(frozen=True)
class Trace:
    """The result of an inversion; nothing in it is ever changed. Its latents are scaled, as the model sees them.

    schedule: the DDIM steps
    prompt:   the source prompt
    text:     [1, tokens, width] its embedding, on the CPU
    latents:  [T + 1, frames, channels, height, width] on the CPU, level k is the clip after k inversion steps; in
              float16 where the UNet computes in that: it reads them rounded so, and latent blending puts them back so
    noise:    [frames, channels, height, width] float32 on the CPU, the last level, scaled too; edits start from it
    store:    sealed, with the records of every step
    capture:  which layers were recorded
    evaluated: [T, frames, channels, height, width] like `latents`: what the UNet was called on when each inversion step
              recorded its attention; None: the levels themselves, or nothing reads these
    frames_at_once: most frames that one call of the UNet computed; 0: all. Edits do the same unless told otherwise
    """

    schedule: Schedule
    prompt: Prompt
    text: Tensor
    latents: Tensor
    noise: Tensor
    store: RecordStore
    capture: Capture
    evaluated: Tensor | None = None
    frames_at_once: int = 0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.latents.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clip in cells."""
        height, width = self.latents.shape[-2:]
        return height, width

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return self.store.nbytes + sum(tensor.nbytes for tensor in self._own_tensors())

    def held_tensors(self) -> Iterator[Tensor]:
        """Return its tensors in memory."""
        yield from self._own_tensors()
        yield from self.store.held_tensors()

    def source_latents(self, level_offset: int) -> Tensor:
        """Return the latents [T, frames, channels, height, width] that the source runs on, the cleanest first.

        level_offset: see `Recomputed`
        """
        if level_offset == 0 and self.evaluated is not None:
            return self.evaluated
        return self.latents[level_offset:]

    def _own_tensors(self) -> Iterator[Tensor]:
        yield from (self.text, self.latents, self.noise)
        if self.evaluated is not None:
            yield self.evaluated

    def __repr__(self) -> str:
        return f"Trace({self.frames} frames, {len(self.schedule)} steps, {self.prompt.text!r}, {self.store!r})"


def levels_dtype(computed: torch.dtype) -> torch.dtype:
    """Return the precision in which the levels of an inversion are stored, for a UNet that computes in `computed`."""
    return torch.float16 if computed == torch.float16 else torch.float32


MOST_OF_LEVELS = 0.05
"""Share of a device's free memory that the levels of a run may take there."""


def keeps_levels(device: torch.device, parts: Parts, nbytes: int) -> torch.device:
    """Return where a run that computes on `device` keeps its levels: those of a long clip would fill it."""
    fills = len(parts) > 1 or (device.type == "cuda" and nbytes > MOST_OF_LEVELS * free_on(device))
    return torch.device("cpu") if fills else device
