"""Decides how attention is kept: from the sizes of a clip, the memory that is free, and a user's budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..choices import Place
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError
from ..memory.free_memory import free_on, free_ram
from ..printable import format_bytes
from ..storage.settings import Storage
from .footprint import ClipShape, levels_size, recorded_forms, step_bytes
from .recording import Capture

SHARES = {"gpu": 0.5, "ram": 0.8}  # that "auto" fills of what is free: decoding the frames afterwards needs the rest

LEAST_NEEDED, LEAST_OF_NARROW = 0.2, 0.05
"""Of ComfyUI's estimate for one call: less than calls take, at Stable Diffusion's widths and at smaller ones (the
built-in model took 0.07 of it, the reference model 0.3)."""
STABLE_DIFFUSION_WIDTH = 320


@dataclass(frozen=True)
class Room:
    """Bytes that are free.

    gpu: of the device the model computes on, its run's own need taken off; None: it computes on the CPU
    ram: of the computer's memory
    """

    gpu: int | None
    ram: int

    def at(self, place: Place, asked: Place) -> int:
        """Bytes that may be filled at gpu or ram: a share where the place was not `asked` for by name."""
        free = self.ram if place == "ram" else self.gpu or 0
        return int(free * SHARES[place]) if asked == "auto" else free


@dataclass(frozen=True)
class StoragePlan:
    """How an inversion's attention will be kept.

    storage: with policy and place decided
    nbytes:  that will be kept, the latents of all levels included
    page:    bytes of one step's page, 0 where none is kept
    """

    storage: Storage
    nbytes: int
    page: int

    def __str__(self) -> str:
        if self.storage.recomputes:
            return f"no attention is kept ({self.storage.policy}), only latents: {format_bytes(self.nbytes)}"
        kept = f"attention as {kept_as(self.storage)} {_where(self.storage)}"
        return f"{kept}: {format_bytes(self.nbytes)}, {format_bytes(self.page)} a step"


def measured_room(unet: NoiseModel, chunks: int, clip: ClipShape) -> Room:
    """What is free now, with the UNet where it computes.

    chunks: clips in one call of the UNet
    """
    if unet.device.type == "cpu":
        return Room(None, free_ram())
    working = unet.working_memory(chunks, clip.frames, clip.height, clip.width)
    return Room(max(0, free_on(unet.device) - working), free_ram())


def check_room(unet: NoiseModel, clip: ClipShape) -> None:
    """Raise SettingsError for a clip that would run out of memory in its first call, however attention is kept."""
    free = free_on(unet.device)
    least = LEAST_NEEDED if unet.layers[0].query_dim >= STABLE_DIFFUSION_WIDTH else LEAST_OF_NARROW
    frame = unet.working_memory(1, 1, clip.height, clip.width) * least
    if clip.frames * frame > free:
        most, needed = int(free / frame), format_bytes(clip.frames * frame)
        raise SettingsError(
            f"{clip.frames} frames of {clip.height}x{clip.width} cells need more than {needed} at once; "
            f"{format_bytes(free)} are free. Use smaller frames, or fewer: {most} would be the most (Prepare Frames "
            f"takes a part of a clip)."
        )


def choose_storage(
    asked: Storage, unet: NoiseModel, capture: Capture, clip: ClipShape, steps: int, room: Room
) -> StoragePlan:
    """The first way to keep attention that was asked for and fits.

    Raises SettingsError, with the bytes of each way, where none does.
    """
    plans = list(_ways(asked, unet, capture, clip, steps))
    for plan in plans:
        if plan.nbytes <= _limit(plan.storage, room, asked.place):
            return plan
    needs = "; ".join(
        f"{plan.storage.policy} {_where(plan.storage)} needs {format_bytes(plan.nbytes)}" for plan in plans
    )
    raise SettingsError(
        f"{clip.frames} frames of {clip.height}x{clip.width} cells and {steps} steps do not fit: {needs}; "
        f"{_room_said(asked, room)}. Use {_advice(asked, plans, unet)}fewer frames or fewer steps."
    )


def _room_said(asked: Storage, room: Room) -> str:
    in_memory = asked.place != "disk" and not asked.recomputes
    if asked.budget is not None and not (in_memory and asked.budget > max(room.gpu or 0, room.ram)):
        return f"the budget is {format_bytes(asked.budget)}"
    on_gpu = "" if room.gpu is None else f"{format_bytes(room.at('gpu', asked.place))} on the gpu and "
    return f"there is room for {on_gpu}{format_bytes(room.at('ram', asked.place))} in ram"


def _advice(asked: Storage, tried: list[StoragePlan], unet: NoiseModel) -> str:
    """What would help and was not tried, each with a comma behind it."""
    larger = "" if asked.budget is None else "a larger budget, "
    coarser = "" if asked.recomputes or asked.precision == "int8" else "a coarser precision, "
    repeatable = unet.attend is unet.kernel  # neither recompute nor disk goes with a registered control
    nothing_kept = "policy recompute, " if repeatable and not any(plan.storage.recomputes for plan in tried) else ""
    on_disk = "place disk, " if repeatable and asked.place != "disk" and asked.budget is None else ""
    return larger + nothing_kept + on_disk + coarser


def _ways(asked: Storage, unet: NoiseModel, capture: Capture, clip: ClipShape, steps: int) -> Iterator[StoragePlan]:
    levels = levels_size(unet, steps, clip)
    for policy in ("features", "recompute") if asked.policy == "auto" else (asked.policy,):
        way = replace(asked, policy=policy)
        if way.recomputes:
            # A registered control may count its calls or change its mind: only an untouched UNet runs twice alike.
            if asked.policy != "auto" or unet.attend is unet.kernel:
                yield StoragePlan(replace(way, place="disk" if asked.place == "disk" else "ram"), levels, 0)
            continue
        page = step_bytes(unet, recorded_forms(unet, capture, policy, clip), asked.precision, clip)
        for place in _places(asked.place, unet.device):
            yield StoragePlan(replace(way, place=place), steps * page + levels, page)


def _places(asked: Place, device: torch.device) -> tuple[Place, ...]:
    if device.type == "cpu":
        return ("ram",) if asked in ("auto", "gpu") else (asked,)
    return ("gpu", "ram") if asked == "auto" else (asked,)


def _limit(storage: Storage, room: Room, asked: Place) -> int:
    """Bytes that may be kept at a place; the disk cache has a limit of its own."""
    budget = storage.budget if storage.budget is not None else 2**63
    if storage.place == "disk" or storage.recomputes:
        return budget
    return min(budget, room.at(storage.place, asked))


def _where(storage: Storage) -> str:
    if storage.recomputes:
        return "(latents alone)"
    return {"disk": "on disk", "ram": "in ram", "gpu": "on the gpu"}[storage.place]


def kept_as(storage: Storage) -> str:
    """Policy and, where it was chosen, precision, for people."""
    return storage.policy if storage.precision == "as computed" else f"{storage.policy} ({storage.precision})"
