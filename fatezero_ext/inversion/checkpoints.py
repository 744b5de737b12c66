"""Finished steps of an inversion on disk, behind which another run of it goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..storage.disk_cache.cache import InversionCache
from ..storage.disk_cache.completeness import EVALUATED, LAYERS, LEVELS, page_names, stored_parts
from ..storage.disk_cache.entry import Draft
from ..storage.disk_cache.manifest import JSON
from ..storage.disk_store import DiskDraft

log = logging.getLogger(__name__)
LATENTS = "latents"


@dataclass(frozen=True)
class Checkpoints:
    """Finished steps of a run through the steps of a schedule.

    draft:    keeps them; None: nothing does
    before:   steps of the runs before this one, such as the inversion before a reconstruction
    finished: steps of this run that need not be computed
    folder:   where the latents of all levels may lie in files as well, see `LevelsRoom`; None: they stay in memory
    """

    draft: DiskDraft | None = None
    before: int = 0
    finished: int = 0
    folder: Path | None = None

    def restored(self, done: int) -> tuple[Tensor, Tensor | None]:
        """Return the latents after so many steps, and those that the last of them was evaluated on, if kept."""
        assert self.draft is not None
        found = self.draft.finished_step(self.before + done)
        return found[LATENTS], found.get(EVALUATED)

    def finish(self, done: int, latents: Tensor, evaluated: Tensor | None = None) -> None:
        """Keep the latents after so many steps; takes what `restored` returns."""
        if self.draft is not None:
            also = {} if evaluated is None else {EVALUATED: evaluated}
            self.draft.finish_step(self.before + done, {LATENTS: latents, **also})

    def split(self, steps: int) -> tuple[Checkpoints, Checkpoints]:
        """Return those of a run through so many steps, and those of the run behind it."""
        first = min(self.finished, steps)
        return replace(self, finished=first), replace(self, before=steps, finished=self.finished - first)


NO_CHECKPOINTS = Checkpoints()


@dataclass(frozen=True)
class RunFiles:
    """Files that a run writes, by its steps.

    steps:     of the schedule
    recorded:  whether steps have pages of attention
    twice:     whether the run goes through the steps twice, and records attention in the second, noisiest step first
    clip:      frames, channels, height and width of the latents
    evaluated: whether the latents that the UNet was called on are kept
    """

    steps: int
    recorded: bool
    twice: bool
    clip: Sequence[int]
    evaluated: bool

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.steps * (2 if self.twice else 1)

    def pages(self, parts: int) -> list[list[str]]:
        """Return the names of the pages of each step, in the order of the run; parts: of a page, 0 if it is whole."""
        if not self.recorded:
            return [[] for _ in range(self.total)]
        each = max(parts, 1)
        names = page_names(self.steps, parts)
        pages = [names[first : first + each] for first in range(0, len(names), each)]
        return [*([] for _ in pages), *pages] if self.twice else pages[::-1]

    def fault(self, latents: Mapping[str, Tensor]) -> str:
        """Return why the latents of a finished step cannot be used, a clause, or ""."""
        needed = {LATENTS, EVALUATED} if self.evaluated else {LATENTS}
        if latents.keys() != needed or any(list(x.shape) != list(self.clip) for x in latents.values()):
            return "it holds other latents than this run's"
        return "" if all(x.isfinite().all() for x in latents.values()) else "it holds values that are not finite"

    @property
    def nbytes(self) -> int:
        """Bytes of the latents of all steps, which are kept until the run ends."""
        level = prod(self.clip) * torch.float32.itemsize  # as they are computed
        return self.total * level * (2 if self.evaluated else 1)


def resumed(cache: InversionCache, key: str, about: Mapping[str, JSON], nbytes: int) -> Draft | None:
    """Take over what an unfinished run left of an inversion; None if there is nothing that this run can go on with.

    about, nbytes: as of `InversionCache.begin`
    A draft that only had to be published is published: the caller finds the entry.
    """
    draft = cache.resume(key, nbytes)
    if draft is None:
        return None
    if LEVELS in draft.names:
        draft.publish().release()
        return None
    if draft.about.get(LAYERS) != about.get(LAYERS) or stored_parts(draft.about) is None:
        log.warning("The unfinished inversion of %s cannot be used: it has other layers. It is begun anew.", key)
        draft.abandon()
        return None
    return draft
