"""Parts of a clip, each computed by a call of its own: the frames depend on as much as they do in the whole clip.

In a layer whose frames share keys, a frame reads keys of others. A part follows the parts that it reads, and their keys
and values are carried to it layer by layer: nothing is computed twice, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import SettingsError, described, is_whole
from .functional import Attend
from .sites import LayerAddress, Site


@dataclass(frozen=True)
class ClipPart:
    """Frames of a clip that one call of a model computes.

    frames:  their numbers in the clip, ascending
    before:  frames of earlier parts whose keys and values are carried to this one, ascending
    carried: those of its own frames that later parts read
    number:  its place in the order of the parts
    last_read: those of `before` that no later part reads
    """

    frames: tuple[int, ...]
    before: tuple[int, ...] = ()
    carried: tuple[int, ...] = ()
    number: int = 0
    last_read: tuple[int, ...] = ()

    @property
    def rows(self) -> slice | list[int]:
        """Index of its frames in a tensor of the whole clip; a slice where they follow each other."""
        return rows_of(self.frames)

    def of(self, clip: Tensor) -> Tensor:
        """Return its frames of a tensor [frames, ..] of the whole clip; that tensor itself where these are all."""
        return clip if len(self.frames) == len(clip) else clip[self.rows]


def rows_of(numbers: Sequence[int]) -> slice | list[int]:
    """Return an index of rows, given in ascending order; a slice where they follow each other."""
    first, last = numbers[0], numbers[-1]
    return slice(first, last + 1) if last - first < len(numbers) else list(numbers)


Parts = Sequence[ClipPart]
"""All frames of a clip, in the order in which they are computed."""


def whole_clip(frames: int) -> tuple[ClipPart, ...]:
    """Return the one part that is a whole clip."""
    return (ClipPart(tuple(range(frames))),)


def most_frames(parts: Parts) -> int:
    """Return the frames of the largest call, with those whose keys are carried to it."""
    return max(len(part.before) + len(part.frames) for part in parts)


def joined(parts: Parts, pieces: Sequence[Tensor]) -> Tensor:
    """Join tensors [frames, ..] of all parts to one of the clip; the one piece of a whole clip is returned itself."""
    if len(parts) == 1:
        return pieces[0]
    clip = pieces[0].new_empty(sum(map(len, pieces)), *pieces[0].shape[1:])
    for part, piece in zip(parts, pieces, strict=True):
        clip[part.rows] = piece
    return clip


def check_frames_at_once(frames_at_once: object) -> None:
    """Raise SettingsError unless this can be a number of frames that one call computes."""
    if not is_whole(frames_at_once, 0):
        raise SettingsError(
            f"frames_at_once is {described(frames_at_once)}; a whole number of frames is needed, or 0. Use 0 for as "
            f"many as the memory holds, 8 for little memory."
        )


def split_clip(tables: Sequence[Sequence[int]], frames: int, frames_at_once: int) -> tuple[ClipPart, ...]:
    """Split a clip into parts of at most `frames_at_once` frames, each behind those whose keys it reads.

    tables:         the frame that each frame reads keys of, [frames], one table per key frame of any layer, see
                    `resolve_key_frames`
    frames_at_once: 0, or the frames of the clip and more: all in one part
    Raises SettingsError where more frames read each other's keys: these can only be computed together.
    """
    if not 0 < frames_at_once < frames:
        return whole_clip(frames)
    return _split(frozenset(map(tuple, tables)), frames, frames_at_once)


@lru_cache(maxsize=8)  # asked for by the plan, the inversion and each edit
def _split(tables: frozenset[tuple[int, ...]], frames: int, frames_at_once: int) -> tuple[ClipPart, ...]:
    groups = _in_order(tables, frames)
    if len(most := max(groups, key=len)) > frames_at_once:
        raise SettingsError(
            f"frames_at_once is {frames_at_once}, but {len(most)} frames ({most[0]} to {most[-1]}) read each other's "
            f"keys and are computed together. Use {len(most)} or more, or other key frames: each frame's own, fixed "
            f"ones such as 'first', or -1."
        )
    filled: list[list[int]] = [[]]
    for group in groups:
        if len(filled[-1]) + len(group) > frames_at_once:
            filled.append([])
        filled[-1] += group
    return tuple(_parts([tuple(sorted(part)) for part in filled], tables))


def _in_order(tables: Collection[tuple[int, ...]], frames: int) -> list[list[int]]:
    """Return groups of frames that depend on each other, each behind those that it depends on; in linear time."""
    import networkx as nx  # here alone: a clip that is computed whole does not need it

    reads = nx.DiGraph()
    reads.add_nodes_from(range(frames))
    reads.add_edges_from((read, frame) for table in tables for frame, read in enumerate(table))
    together = nx.condensation(reads)
    members = {group: sorted(found) for group, found in together.nodes(data="members")}
    in_turn = (sorted(groups, key=members.__getitem__) for groups in nx.topological_generations(together))
    return [members[group] for groups in in_turn for group in groups]


def _parts(frames: Sequence[tuple[int, ...]], tables: Collection[tuple[int, ...]]) -> Iterator[ClipPart]:
    # The last part that reads each frame, itself included: its keys are carried until then.
    last = {read: number for number, own in enumerate(frames) for at in own for read in (at, *(t[at] for t in tables))}
    waiting: list[int] = []
    for number, own in enumerate(frames):
        waiting = [frame for frame in waiting if last[frame] >= number]
        carried = [frame for frame in own if last[frame] > number]
        last_read = tuple(frame for frame in waiting if last[frame] == number)
        yield ClipPart(own, tuple(sorted(waiting)), tuple(carried), number, last_read)
        waiting += carried


def part_sites(sites: Mapping[LayerAddress, Site], part: ClipPart) -> Mapping[LayerAddress, Site]:
    """Return the sites of a part of a clip, from those of the whole one."""
    if all(site.frames == len(part.frames) for site in sites.values()):
        return sites
    place = {frame: row for row, frame in enumerate((*part.before, *part.frames))}
    tables: dict[tuple[tuple[int, ...], ...], tuple[Tensor, ...]] = {}

    def keys(site: Site) -> tuple[Tensor, ...]:
        table = tuple(tuple(row[part.rows].tolist()) for row in site.key_frames)
        if table not in tables:
            like = site.key_frames[0]
            tables[table] = tuple(torch.tensor([place[at] for at in row], device=like.device) for row in table)
        return tables[table]

    return {
        at: replace(site, frames=len(part.frames), key_frames=keys(site), before=len(part.before))
        if site.key_frames
        else replace(site, frames=len(part.frames))
        for at, site in sites.items()
    }


class CarriedKeys:
    """Keys and values that one prediction of a clip, under one text, carries from part to part.

    A layer's are let go as they are read for the last time: a part that failed cannot be computed again by itself, only
    all parts from the first.
    """

    def __init__(self) -> None:
        self._rows: dict[LayerAddress, dict[int, tuple[Tensor, Tensor]]] = {}

    def begin(self, part: ClipPart) -> None:
        """Forget what neither this part nor a later one reads; everything, before the first."""
        self._rows = {
            at: {frame: rows for frame, rows in carried.items() if frame in part.before}
            for at, carried in self._rows.items()
            if part.before
        }

    def take_before(self, at: LayerAddress, part: ClipPart) -> list[tuple[Tensor, Tensor]]:
        """Return a layer's keys and values [1, heads, tokens, dim] of each frame before a part's own; once."""
        found = [self._rows[at][frame] for frame in part.before]
        for frame in part.last_read:
            del self._rows[at][frame]
        return found

    def carry(self, at: LayerAddress, part: ClipPart, k: Tensor, v: Tensor) -> None:
        """Carry a layer's keys and values on; k, v: [frames of the part, heads, tokens, dim]."""
        rows = self._rows.setdefault(at, {})
        for frame in part.carried:
            row = part.frames.index(frame)
            rows[frame] = k[row : row + 1].clone(), v[row : row + 1].clone()


@dataclass(frozen=True)
class PartAttention:
    """The attention of a call that computes a part of a clip.

    inner:   computes it
    part:    the frames of the call
    sites:   of the part, see `part_sites`
    carried: of each text of the call, in the order of its batch; a call with fewer texts has the last ones
    """

    inner: Attend
    part: ClipPart
    sites: Mapping[LayerAddress, Site]
    carried: tuple[CarriedKeys, ...] = field(default_factory=lambda: (CarriedKeys(),))

    def begin(self) -> None:
        """Forget what neither this part nor a later one reads; parts of a layer come in their order."""
        for carried in self.carried:
            carried.begin(self.part)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        own = self.sites[site.address]
        if not own.key_frames:
            return self.inner(q, k, v, site)
        k, v = self._behind_those_before(k, v, site, self.carried[-(len(q) // site.frames) :])
        return self.inner(q, k, v, replace(site, key_frames=own.key_frames, before=own.before))

    def _behind_those_before(
        self, k: Tensor, v: Tensor, site: Site, carried: Sequence[CarriedKeys]
    ) -> tuple[Tensor, Tensor]:
        """Carry keys and values on; return them behind those of the frames before, of which nothing else is held."""
        keys, values = [], []
        for kept, k_own, v_own in zip(carried, k.split(site.frames), v.split(site.frames), strict=True):
            before = kept.take_before(site.address, self.part)
            keys += [*(row for row, _ in before), k_own]
            values += [*(row for _, row in before), v_own]
            kept.carry(site.address, self.part, k_own, v_own)
        return (torch.cat(keys), torch.cat(values)) if self.part.before else (k, v)

    def of_others(self, inner: Attend) -> PartAttention:
        """Return the attention of a call with all texts but the last, computed by `inner`."""
        return replace(self, inner=inner, carried=self.carried[:-1])


class PartCalls:
    """The calls of a run that predicts a clip part by part; each prediction begins with the first part."""

    def __init__(self, parts: Parts, sites: Mapping[LayerAddress, Site], texts: int = 1) -> None:
        """Begin a run.

        sites: of the whole clip
        texts: in each prediction
        """
        self._sites = [part_sites(sites, part) for part in parts] if len(parts) > 1 else []
        self._carried = tuple(CarriedKeys() for _ in range(texts))

    def attend(self, inner: Attend, part: ClipPart) -> Attend:
        """Return what computes the attention of a part's call: `inner` itself where the part is the whole clip."""
        if not self._sites:
            return inner
        attention = PartAttention(inner, part, self._sites[part.number], self._carried)
        attention.begin()
        return attention
