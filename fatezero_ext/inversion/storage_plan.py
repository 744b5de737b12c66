"""Choice of how to store attention: from the sizes of a clip, the memory that is free, and a user's budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..attention.clip_parts import Parts
from ..attention.clip_parts import most_frames as largest_call
from ..choices import Place, Policy
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError
from ..memory.free_memory import free_on, free_ram, total_on
from ..printable import format_bytes
from ..storage.settings import Storage
from .footprint import ClipShape, levels_size, recorded_forms, step_bytes
from .recording import Capture

SHARES: Mapping[Place, float] = {"gpu": 0.5, "ram": 0.8}
"""Shares of the free memory that "auto" fills: decoding the frames afterwards needs the rest."""

LEAST_NEEDED, LEAST_OF_NARROW = 0.2, 0.05
"""Shares of ComfyUI's estimate for one call: less than calls take, at Stable Diffusion's widths and at smaller ones
(the built-in model took 0.07 of it, the reference model 0.3)."""
STABLE_DIFFUSION_WIDTH = 320


@dataclass(frozen=True)
class Room:
    """Free memory in bytes.

    gpu: on the device the model computes on, without what its run needs; None: it computes on the CPU
    ram: in the computer's memory
    """

    gpu: int | None
    ram: int

    def at(self, place: Place, requested: Place) -> int:
        """Return the bytes that may be filled at gpu or ram: a share of what is free if "auto" was `requested`."""
        free = self.ram if place == "ram" else self.gpu or 0
        return int(free * SHARES[place]) if requested == "auto" else free


@dataclass(frozen=True)
class StoragePlan:
    """Decision how an inversion's attention is stored.

    storage: with policy and place decided
    nbytes:  of all that is stored, the latents of all levels included
    per_step: bytes of one step's records, 0 if none are stored
    finished_steps: bytes that are on disk until the inversion is done, so that it can go on after a stop
    in_parts: words on the parts in which the clip is computed; '' if it is whole
    """

    storage: Storage
    nbytes: int
    per_step: int
    finished_steps: int = 0
    in_parts: str = ""

    @property
    def most_bytes(self) -> int:
        """Bytes that are stored while the inversion runs."""
        return self.nbytes + self.finished_steps

    def __str__(self) -> str:
        until_done = f" ({format_bytes(self.most_bytes)} until it is done)" if self.finished_steps else ""
        nbytes = format_bytes(self.nbytes) + until_done
        if self.storage.recomputes:
            return f"no attention is kept ({self.storage.policy}), only latents: {nbytes}{self.in_parts}"
        kept = f"attention as {kept_as(self.storage)} {_where(self.storage)}"
        return f"{kept}: {nbytes}, {format_bytes(self.per_step)} a step{self.in_parts}"


def measured_room(unet: NoiseModel, chunks: int, clip: ClipShape) -> Room:
    """Measure what is free now, with the UNet where it computes.

    chunks: clips in one call of the UNet
    """
    if unet.device.type == "cpu":
        return Room(None, free_ram())
    working = unet.working_memory(chunks, clip.frames, clip.height, clip.width)
    return Room(max(0, free_on(unet.device) - working), free_ram())


def most_frames(unet: NoiseModel, height: int, width: int, free: int) -> int:
    """Return the most frames of which one call may fit into the free bytes; more never do.

    height, width: latent cells of a frame
    """
    return int(free / _least_of_a_frame(unet, height, width))


def _least_of_a_frame(unet: NoiseModel, height: int, width: int) -> float:
    """Bytes that a call needs for each frame, at least."""
    least = LEAST_NEEDED if unet.layers[0].query_dim >= STABLE_DIFFUSION_WIDTH else LEAST_OF_NARROW
    return unet.working_memory(1, 1, height, width) * least


def check_room(unet: NoiseModel, call: ClipShape, frames: int | None = None) -> None:
    """Raise SettingsError for a clip that would run out of memory in its first call, however attention is stored.

    call:   shape of the largest call
    frames: of the clip; None: the call has them all
    """
    free = free_on(unet.device)
    most = most_frames(unet, call.height, call.width, free)
    if call.frames > most:
        needed = format_bytes(call.frames * _least_of_a_frame(unet, call.height, call.width))
        splits = most > 0 and _can_split(unet, call.frames if frames is None else frames, most)
        apart = f", or set frames_at_once to at most {most}" if splits else ""
        of_clip = "" if frames is None or frames == call.frames else f" (of {frames})"
        raise SettingsError(
            f"{call.frames} frames{of_clip} of {call.height}x{call.width} cells need more than {needed} at once; "
            f"{format_bytes(free)} are free. Use smaller frames, or fewer: {most} would be the most{apart}."
        )


def frames_that_fit(unet: NoiseModel, frames: int, frames_at_once: int, size: tuple[int, int]) -> int:
    """Return `frames_at_once`, or for 0 the most frames of a call that the device may hold; 0: all of the clip.

    A call that needs more all the same goes on in smaller parts, see `GuidedPrediction.smaller_parts`.
    """
    most = 0 if frames_at_once else most_frames(unet, *size, free_on(unet.device))
    if not 0 < most < frames or not _can_split(unet, frames, most):  # it stays whole, or is refused with its bytes
        return frames_at_once
    return most


def _can_split(unet: NoiseModel, frames: int, frames_at_once: int) -> bool:
    try:
        unet.parts(frames, frames_at_once, controlled=True)
    except SettingsError:
        return False
    return True


SHARE_OF_CALLS = 0.5
"""Share of a device beside the weights that calls are given where nobody said how many frames they have."""


def frames_to_make_room_for(
    unet: NoiseModel, parts: Parts, frames_at_once: int, *, chunks: int, size: tuple[int, int]
) -> int:
    """Return the frames of a call that `NoiseModel.run` is asked to make room for, before the free memory is known.

    They are those of the largest call. For `frames_at_once` 0 they are no more than the estimate for a call leaves the
    weights room beside: ComfyUI would keep weights in RAM for a call of a whole long clip, which `frames_that_fit` and
    `GuidedPrediction.smaller_parts` then split, and every part of every step would copy them.
    """
    most, total = largest_call(parts), total_on(unet.device)
    if frames_at_once or total is None:
        return most
    beside = total - sum(weight.nbytes for _, weight in unet.weights())
    asked = max(1, int(SHARE_OF_CALLS * beside / unet.working_memory(chunks, 1, *size)))
    return asked if asked < most and _can_split(unet, most, asked) else most


def check_waiting(unet: NoiseModel, capture: Capture, parts: Parts, clip: ClipShape) -> int:
    """Return the bytes of RAM that are taken while the parts of a clip wait for each other in a call of one text.

    The attention of a step that is recorded or read waits as well.
    Raises SettingsError where there is less.
    """
    if len(parts) == 1 or not unet.joins_parts:
        return 0
    page = step_bytes(unet, recorded_forms(unet, capture, "features", clip), "as computed", clip)
    needed = unet.waiting_memory(1, clip.frames, clip.height, clip.width) + page
    if needed > (free := free_ram()):
        apart = "Load it with norm 'frame', or use" if unet.joins_norms_alone else "Use"
        raise SettingsError(
            f"{unet.name} {unet.joined_by}, so that the parts of a clip wait for each other in ram: {clip.frames} "
            f"frames need up to {format_bytes(needed)}; {format_bytes(free)} are free. {apart} fewer or smaller frames."
        )
    return needed


def choose_storage(
    requested: Storage,
    unet: NoiseModel,
    capture: Capture,
    clip: ClipShape,
    steps: int,
    room: Room,
    *,
    evaluated: bool = False,
    finished_steps: int = 0,
) -> StoragePlan:
    """Choose the first requested way to store attention that fits.

    evaluated: whether the latents that the UNet was called on are stored, wherever `reads_evaluated` says so
    finished_steps: bytes of `StoragePlan.finished_steps`, if it is stored on disk
    Raises SettingsError, with the bytes of each way, if none does.
    """
    ways = _ways(requested, unet, capture, clip, steps=steps, evaluated=evaluated)
    plans = [replace(way, finished_steps=finished_steps if way.storage.place == "disk" else 0) for way in ways]
    for plan in plans:
        if plan.most_bytes <= _limit(plan.storage, room, requested.place):
            return plan
    needs = "; ".join(
        f"{plan.storage.policy} {_where(plan.storage)} needs {format_bytes(plan.most_bytes)}" for plan in plans
    )
    raise SettingsError(
        f"{clip.frames} frames of {clip.height}x{clip.width} cells and {steps} steps do not fit: {needs}; "
        f"{_described_room(requested, room)}. Use {_advice(requested, plans, unet)}fewer frames or fewer steps."
    )


def _described_room(requested: Storage, room: Room) -> str:
    in_memory = requested.place != "disk" and not requested.recomputes
    if requested.budget is not None and not (in_memory and requested.budget > max(room.gpu or 0, room.ram)):
        return f"the budget is {format_bytes(requested.budget)}"
    on_gpu = "" if room.gpu is None else f"{format_bytes(room.at('gpu', requested.place))} on the gpu and "
    return f"there is room for {on_gpu}{format_bytes(room.at('ram', requested.place))} in ram"


def _advice(requested: Storage, tried: list[StoragePlan], unet: NoiseModel) -> str:
    """Name what would help and was not tried, each with a comma behind it."""
    larger = "" if requested.budget is None else "a larger budget, "
    coarser = "" if requested.recomputes or requested.precision == "int8" else "a coarser precision, "
    repeatable = unet.attend is unet.kernel  # recompute and disk need an untouched UNet
    nothing_kept = "policy recompute, " if repeatable and not any(plan.storage.recomputes for plan in tried) else ""
    on_disk = "place disk, " if repeatable and requested.place != "disk" and requested.budget is None else ""
    return larger + nothing_kept + on_disk + coarser


def _ways(
    requested: Storage, unet: NoiseModel, capture: Capture, clip: ClipShape, *, steps: int, evaluated: bool
) -> Iterator[StoragePlan]:
    policies: tuple[Policy, ...] = ("features", "recompute") if requested.policy == "auto" else (requested.policy,)
    for policy in policies:
        way = replace(requested, policy=policy)
        if not (policy == "features" or policy == "maps"):
            # A registered controller may change between runs: only an untouched UNet runs twice alike.
            if requested.policy != "auto" or unet.attend is unet.kernel:
                kept = replace(way, place="disk" if requested.place == "disk" else "ram")
                levels = levels_size(unet, steps, clip, evaluated=evaluated and reads_evaluated(kept))
                yield StoragePlan(kept, levels, 0)
            continue
        levels = levels_size(unet, steps, clip, evaluated=evaluated)
        per_step = step_bytes(unet, recorded_forms(unet, capture, policy, clip), requested.precision, clip)
        for place in _places(requested.place, unet.device):
            yield StoragePlan(replace(way, place=place), steps * per_step + levels, per_step)


def reads_evaluated(storage: Storage) -> bool:
    """Return whether an inversion kept so reads the latents that the UNet was called on.

    On disk one entry of latents serves both policies that run the source again.
    """
    return storage.policy != "recompute same level" or storage.place == "disk"


def _places(requested: Place, device: torch.device) -> tuple[Place, ...]:
    if device.type == "cpu":
        return ("ram",) if requested in ("auto", "gpu") else (requested,)
    return ("gpu", "ram") if requested == "auto" else (requested,)


def _limit(storage: Storage, room: Room, requested: Place) -> int:
    """Return the bytes that may be stored at a place; the disk cache has a limit of its own."""
    budget = storage.budget if storage.budget is not None else 2**63
    if storage.place == "disk" or storage.recomputes:
        return budget
    return min(budget, room.at(storage.place, requested))


def _where(storage: Storage) -> str:
    if storage.recomputes:
        return "(latents alone)"
    return {"disk": "on disk", "ram": "in ram", "gpu": "on the gpu"}[storage.place]


def kept_as(storage: Storage) -> str:
    """Describe the policy and, if one was chosen, the precision."""
    return storage.policy if storage.precision == "as computed" else f"{storage.policy} ({storage.precision})"
