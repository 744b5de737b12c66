"""Memory that tuning needs, found by a pass over a network without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..attention.functional import gather_key_frames
from ..attention.sites import Site
from ..errors import SettingsError
from ..memory.free_memory import free_on
from ..models.unet.model import Pseudo3DUNet
from ..printable import format_bytes
from .settings import TuningSettings
from .trainable import BLOCKS, structure, trained_names

MASTER_BYTES = 4
MOMENTS = 2
GRADIENTS_AT_ONCE = 3
"""Largest tensors that a block's backward pass holds beside what was kept for it: gradients of two, and a copy."""


@dataclass(frozen=True)
class PlannedMemory:
    """Bytes on the device beside the model that came in.

    trained:     numbers that are trained
    weights:     bytes of new weights and of the trained ones' copies
    optimizer:   bytes of masters, gradients and moments
    activations: most bytes of activations at once in a step
    """

    trained: int
    weights: int
    optimizer: int
    activations: int

    @property
    def nbytes(self) -> int:
        return self.weights + self.optimizer + self.activations

    def __str__(self) -> str:
        return (
            f"{format_bytes(self.nbytes)} ({self.trained / 1e6:.1f} million trained numbers: weights "
            f"{format_bytes(self.weights)}, optimizer {format_bytes(self.optimizer)}; activations "
            f"{format_bytes(self.activations)})"
        )


def planned_memory(unet: Pseudo3DUNet, settings: TuningSettings, frames: int, height: int, width: int) -> PlannedMemory:
    """Plan the memory of tuning on a clip. Call it outside of inference mode.

    height, width: latent cells of a frame
    """
    twin = structure(unet, settings, unet.name)
    there, trained = dict(unet.net.named_parameters()), set(trained_names(twin, settings))
    own = [x for name, x in twin.net.named_parameters() if name in trained or name not in there]
    count = sum(x.numel() for name, x in twin.net.named_parameters() if name in trained)
    size = unet.dtype.itemsize
    masters = 0 if size == MASTER_BYTES else count * (MASTER_BYTES + size)  # and a gradient in the network's dtype
    for name, x in twin.net.named_parameters():
        x.requires_grad_(name in trained)
    return PlannedMemory(
        trained=count,
        weights=sum(x.nbytes for x in own),
        optimizer=masters + count * MASTER_BYTES * (1 + MOMENTS),
        activations=_activations(twin, settings, frames, height, width),
    )


def check_memory(unet: Pseudo3DUNet, planned: PlannedMemory, settings: TuningSettings) -> None:
    """Raise SettingsError where a run would not fit into what is free on the UNet's device."""
    free = free_on(unet.device)
    if planned.nbytes > free:
        leaner = "" if settings.gradient_checkpointing else "turn gradient_checkpointing on, "
        raise SettingsError(
            f"tuning {unet.name} needs {planned} on {unet.device}; {format_bytes(free)} are free. Use {leaner}fewer "
            f"or smaller frames{'' if unet.dtype.itemsize == 2 else ', or load the model in half precision'}."
        )


class _Kept:
    """Counts the bytes that a forward pass keeps for the backward pass, each memory once.

    largest: bytes of the largest tensor
    """

    def __init__(self, weights: nn.Module) -> None:
        self.nbytes, self.largest = 0, 0
        self._storages = {x.untyped_storage()._cdata for x in weights.parameters()}
        self._held: list[Tensor] = []  # so that no other tensor gets the address of one that was counted

    def add(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            self._held.append(x)
            self.nbytes += storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        return x

    @contextmanager
    def counting(self) -> Iterator[None]:
        with saved_tensors_hooks(self.add, lambda x: x):
            yield


def _activations(twin: Pseudo3DUNet, settings: TuningSettings, frames: int, height: int, width: int) -> int:
    """Bytes of activations; `twin` has no memory, and its trained weights ask for gradients."""
    kept = _Kept(twin.net)
    within_blocks: list[_Kept] = []
    if settings.gradient_checkpointing:
        for module in twin.net.modules():
            if isinstance(module, BLOCKS):
                module.forward = partial(_counted_block, module, module.forward, kept, within_blocks)  # type: ignore[method-assign]
    with torch.device("meta"), torch.enable_grad(), kept.counting():
        latents = torch.zeros(frames, twin.channels, height, width, dtype=twin.dtype)
        text = torch.zeros(1, 77, twin.text_width, dtype=twin.dtype)
        twin(latents, torch.zeros(1, dtype=torch.int64), text, frames=frames, attend=_Fused.attend)
    deepest = max(within_blocks, key=lambda block: block.nbytes, default=kept)
    largest = max(block.largest for block in (kept, *within_blocks))
    return kept.nbytes + (deepest.nbytes if deepest is not kept else 0) + GRADIENTS_AT_ONCE * largest


def _counted_block(
    module: nn.Module,
    forward: Callable[..., Any],
    kept: _Kept,
    blocks: list[_Kept],
    *inputs: Any,  # noqa: ANN401
    **named: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Run a block that gradient checkpointing computes again: its inputs are kept, all else once at a time."""
    for x in (*inputs, *named.values()):
        if isinstance(x, Tensor):
            kept.add(x)
    blocks.append(_Kept(module))
    with blocks[-1].counting():
        return forward(*inputs, **named)


class _Fused(torch.autograd.Function):
    """Stands for a fused attention kernel: it keeps its inputs and its output, and makes no map."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ANN401
        raise NotImplementedError("a network without memory has no gradients")

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        found: Tensor = _Fused.apply(q, gather_key_frames(k, site), gather_key_frames(v, site))
        return found
