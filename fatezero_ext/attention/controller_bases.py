"""Base classes for controllers on explicit maps, with the names and meanings of the authors' program.

They are for porting controllers and for looking at attention; inversion and editing here do without them. Register one
with `register_attention_control(unet, controller)`: `invert` and `edit` then call it at every layer and step. It counts
the steps of one run; before another, also after one that was stopped, call `reset()` or take a new one.
Controllers that work on latents laid out as the authors' program has them are registered with `clip_axes=True`.
Source: Prompt-to-Prompt (arXiv 2208.01626); FateZero (arXiv 2303.09535).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..errors import StoreError
from .map_control import checked_map
from .sites import MOST_CELLS

CROSS_KEYS = ("down_cross", "mid_cross", "up_cross")
STORE_KEYS = (*CROSS_KEYS, "down_self", "mid_self", "up_self")
StepMaps = dict[str, list[Tensor]]


class EmptyControl:
    """A controller that changes nothing, as registering None does."""

    def step_callback(self, x_t: Tensor) -> Tensor:
        """Return the scaled latents as they came."""
        return x_t

    def between_steps(self) -> None:
        """Do nothing."""

    def __call__(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        return attn


class DummyController(EmptyControl):
    """A controller that changes nothing and learns how many layers there are.

    num_att_layers: layers under control, 0 until registered
    """

    def __init__(self) -> None:
        self.num_att_layers = 0

    def __call__(self, attn: Tensor, *_place: object) -> Tensor:
        return attn


class AttentionControl(ABC):
    """Counts layers and steps, and hands the conditional half of every map to `forward`.

    cur_step, cur_att_layer: steps done, layers done in this step
    num_att_layers:          layers under control, -1 until registered
    LOW_RESOURCE:            the batch has no unconditional half; set by the layer that calls
    """

    def __init__(self) -> None:
        self.LOW_RESOURCE = False
        self.cur_step = 0
        self.cur_att_layer = 0
        self.num_att_layers = -1

    @property
    def num_uncond_att_layers(self) -> int:
        """Layers at the start of each step that are left alone: none in Stable Diffusion."""
        return 0

    @abstractmethod
    def forward(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        """Return the map to use in place of `attn` [frames, heads, cells, keys]."""

    def __call__(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        if self.cur_att_layer >= self.num_uncond_att_layers:
            own = attn[0 if self.LOW_RESOURCE else len(attn) // 2 :]
            own.copy_(checked_map(self.forward(own, is_cross, place_in_unet), own.shape, f"forward of {_name(self)}"))
        self.cur_att_layer += 1
        return attn

    def step_callback(self, x_t: Tensor) -> Tensor:
        """End a step; x_t are the scaled latents after it, see `register_attention_control` for their axes."""
        self.cur_att_layer = 0
        self.cur_step += 1
        self.between_steps()
        return x_t

    def between_steps(self) -> None:  # noqa: B027 - subclasses need not have anything to do
        """Called once a step; for subclasses."""

    def reset(self) -> None:
        """Begin again at the first step."""
        self.cur_step = 0
        self.cur_att_layer = 0


class AttentionStore(AttentionControl):
    """Keeps every map of at most 1024 query cells, in six lists a step, each in the order the UNet visits its layers.

    save_self_attention: keep self-attention maps too
    disk_store:          keep the steps as files in a temporary folder that goes with this object

    step_store:               the maps of the step under way
    attention_store_all_step: the steps done: their six lists, or with `disk_store` the paths of files that
                              `torch.load` reads
    latents_store:            the scaled latents after each step, on the CPU
    store_dir:                the folder of `disk_store`; None without
    """

    def __init__(self, save_self_attention: bool = True, disk_store: bool = False) -> None:
        super().__init__()
        self.step_store: StepMaps
        self.attention_store_all_step: list[StepMaps | str]
        self._sums: StepMaps
        self._unsummed: list[StepMaps | str]
        self.save_self_attention = save_self_attention
        self.disk_store = disk_store
        self.latents_store: list[Tensor] = []
        self._folder = TemporaryDirectory(prefix="attention_store_") if disk_store else None
        self.store_dir = self._folder.name if self._folder else None
        self._empty()

    @staticmethod
    def get_empty_store() -> StepMaps:
        """Return six empty lists."""
        return {key: [] for key in STORE_KEYS}

    @staticmethod
    def get_empty_cross_store() -> StepMaps:
        """Return three empty lists, for cross-attention."""
        return {key: [] for key in CROSS_KEYS}

    def forward(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        if attn.shape[-2] <= MOST_CELLS and (is_cross or self.save_self_attention):
            self.step_store[f"{place_in_unet}_{'cross' if is_cross else 'self'}"].append(
                attn.detach().to("cpu", copy=True)
            )
        return attn

    def step_callback(self, x_t: Tensor) -> Tensor:
        x_t = super().step_callback(x_t)
        self.latents_store.append(x_t.detach().cpu())
        return x_t

    def between_steps(self) -> None:
        """Keep the step under way and begin the next one; called once a step."""
        kept = self._written() if self.disk_store else self.step_store
        self.attention_store_all_step.append(kept)
        self._unsummed.append(kept)
        self.step_store = self.get_empty_store()

    def step_maps(self, step: int) -> StepMaps:
        """Return the six lists of a step that is done, 0 the first; its tensors must not be changed."""
        return _loaded(self.attention_store_all_step[step])

    @property
    def attention_store(self) -> StepMaps:
        """The maps summed over all steps done, float32; {} before the first.

        Made when it is first read, then kept up to date. It may be set: later steps are added to what it was set to.
        """
        for step in self._unsummed:
            maps = _loaded(step)
            if self._sums:
                for key, sums in self._sums.items():
                    sums[:] = [total + tensor for total, tensor in zip(sums, maps[key], strict=True)]
            else:
                self._sums = {
                    key: [tensor.to(torch.float32, copy=True) for tensor in kept] for key, kept in maps.items()
                }
        self._unsummed = []
        return self._sums

    @attention_store.setter
    def attention_store(self, maps: StepMaps) -> None:
        self._sums, self._unsummed = maps, []

    def get_average_attention(self) -> StepMaps:
        """Return the six lists averaged over the steps done; raise StoreError before the first."""
        if not self.cur_step:
            raise StoreError("no step is done yet; an average needs one. Run an inversion with this store registered.")
        return {key: [total / self.cur_step for total in sums] for key, sums in self.attention_store.items()}

    def reset(self) -> None:
        """Forget all maps, with their files, and begin again; the latents stay."""
        super().reset()
        for kept in self.attention_store_all_step:
            if isinstance(kept, str) and Path(kept).parent == Path(self.store_dir or ""):
                Path(kept).unlink(missing_ok=True)
        self._empty()

    def _empty(self) -> None:
        self.step_store = self.get_empty_store()
        self.attention_store_all_step = []
        self.attention_store = {}

    def _written(self) -> str:
        path = f"{self.store_dir}/{self.cur_step:03d}.pt"
        torch.save(self.step_store, path)
        return path


def _loaded(kept: StepMaps | str) -> StepMaps:
    """Return the lists of a step, from memory or from its file."""
    return torch.load(kept, weights_only=True) if isinstance(kept, str) else kept


def _name(controller: object) -> str:
    return type(controller).__name__
