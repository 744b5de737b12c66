"""The result of an inversion."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..attention.clip_parts import Parts
from ..diffusion.schedule import Schedule
from ..memory.free_memory import free_on
from ..prompts.prompt import Prompt
from ..storage.disk_cache.eviction import promised_bytes
from ..storage.paged_tensor import PagedTensor
from ..storage.record_store import RecordStore
from .recording import Capture

log = logging.getLogger(__name__)


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
    paged:    those of `latents` and `evaluated` that lie in files
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
    paged: Mapping[str, PagedTensor] = field(default_factory=dict)

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
        in_files = [paged.tensor for paged in self.paged.values()]
        yield from (x for x in self._own_tensors() if not any(x is paged for paged in in_files))
        yield from self.store.held_tensors()

    def let_go(self) -> None:
        """Take what was read of the latents in files out of memory."""
        for paged in self.paged.values():
            paged.let_go()

    def source_latents(self, level_offset: int) -> Tensor:
        """Return the latents [T, frames, channels, height, width] that the source runs on, the cleanest first.

        level_offset: see `Recomputed`
        """
        if level_offset == 0 and self.evaluated is not None:
            return self.evaluated
        return self.latents[level_offset:]

    def __getstate__(self) -> dict[str, object]:
        """Return its state for a copy or another process, where all of its latents are in memory."""
        return {**self.__dict__, "paged": {}}

    def _own_tensors(self) -> Iterator[Tensor]:
        yield from (self.text, self.latents, self.noise)
        if self.evaluated is not None:
            yield self.evaluated

    def __repr__(self) -> str:
        return f"Trace({self.frames} frames, {len(self.schedule)} steps, {self.prompt.text!r}, {self.store!r})"


def levels_dtype(computed: torch.dtype) -> torch.dtype:
    """Return the precision in which the levels of an inversion are stored, for a UNet that computes in `computed`."""
    return torch.float16 if computed == torch.float16 else torch.float32


WORTH_A_FILE = 16 * 2**20
"""Bytes from which on the levels of an inversion that is stored on disk lie in a file there."""


class LevelsRoom:
    """Room for the latents of a run's levels: where it computes, in memory or, of a long clip on disk, in files.

    Files take no room that unfinished inversions were promised: those would be lost where the disk fills.
    paged: those in files, by name
    """

    def __init__(self, device: torch.device, folder: Path | None) -> None:
        """folder: for files; None: there are none"""
        self._device, self._folder = device, folder
        self.paged: dict[str, PagedTensor] = {}

    def make(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor | PagedTensor:
        """Return a tensor of any values."""
        nbytes = prod(shape) * dtype.itemsize
        if self._folder is not None and nbytes >= WORTH_A_FILE:
            try:
                self.paged[name] = PagedTensor(shape, dtype, self._folder, promised=promised_bytes(self._folder))
                return self.paged[name]
            except OSError as error:
                why = error.strerror or error
                log.warning("No file for the latents of all levels in %s (%s): they stay in memory.", self._folder, why)
        return torch.empty(list(shape), dtype=dtype, device=self._device)

    def tensor(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the tensor of what `make` makes."""
        made = self.make(name, shape, dtype)
        return made.tensor if isinstance(made, PagedTensor) else made

    def let_go(self) -> None:
        """Take what was read or written out of memory."""
        for paged in self.paged.values():
            paged.let_go()


MOST_OF_LEVELS = 0.05
"""Share of a device's free memory that the levels of a run may take there."""


def keeps_levels(device: torch.device, parts: Parts, nbytes: int) -> torch.device:
    """Return where a run that computes on `device` keeps its levels: those of a long clip would fill it."""
    fills = len(parts) > 1 or (device.type == "cuda" and nbytes > MOST_OF_LEVELS * free_on(device))
    return torch.device("cpu") if fills else device
