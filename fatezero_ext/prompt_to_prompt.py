"""Base classes for controllers on explicit maps, with the names and meanings of the authors' program.

They are for porting controllers and for looking at attention; inversion and editing here do without them. Register one
with `register_attention_control(unet, controller)`: `invert` and `edit` then call it at every layer and step. It counts
the steps of one run; before another, also after one that was stopped, call `reset()` or take a new one.
Source: Prompt-to-Prompt (arXiv 2208.01626); FateZero (arXiv 2303.09535).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import StoreError
from .layers import MOST_CELLS
from .map_control import checked_map

STORE_KEYS = ("down_cross", "mid_cross", "up_cross", "down_self", "mid_self", "up_self")
StepMaps = dict[str, list[Tensor]]


class EmptyControl:
    """Changes nothing: what registering None stands for."""

    def step_callback(self, x_t: Tensor) -> Tensor:
        return x_t

    def between_steps(self) -> None:
        """Nothing to do."""

    def __call__(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
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
        """The map to use in place of `attn` [frames, heads, cells, keys]."""

    def __call__(self, attn: Tensor, is_cross: bool, place_in_unet: str) -> Tensor:
        if self.cur_att_layer >= self.num_uncond_att_layers:
            own = attn[0 if self.LOW_RESOURCE else len(attn) // 2 :]
            own.copy_(checked_map(self.forward(own, is_cross, place_in_unet), own.shape, f"forward of {_name(self)}"))
        self.cur_att_layer += 1
        return attn

    def step_callback(self, x_t: Tensor) -> Tensor:
        """End a step: x_t [frames, channels, height, width] are the latents after it."""
        self.cur_att_layer = 0
        self.cur_step += 1
        self.between_steps()
        return x_t

    def between_steps(self) -> None:  # noqa: B027 - subclasses need not have anything to do
        """For subclasses: called once a step."""

    def reset(self) -> None:
        """Begin again at the first step."""
        self.cur_step = 0
        self.cur_att_layer = 0


class AttentionStore(AttentionControl):
    """Keeps every map of at most 1024 query cells, in six lists a step, each in the order the UNet visits its layers.

    save_self_attention: keep self-attention maps too
    disk_store:          keep the steps as files in a temporary folder that goes with this object

    step_store:               the maps of the step under way
    attention_store_all_step: the steps done: their six lists, or with `disk_store` the paths of their files
    latents_store:            the latents after each step, on the CPU
    """

    def __init__(self, save_self_attention: bool = True, disk_store: bool = False) -> None:
        super().__init__()
        self.save_self_attention = save_self_attention
        self.disk_store = disk_store
        self.latents_store: list[Tensor] = []
        self._folder = TemporaryDirectory(prefix="attention_store_") if disk_store else None
        self._empty()

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
        self.attention_store_all_step.append(self._written() if self.disk_store else self.step_store)
        self.step_store = empty_step()

    def step_maps(self, step: int) -> StepMaps:
        """The six lists of a step that is done, 0 the first; its tensors must not be changed."""
        kept = self.attention_store_all_step[step]
        if not isinstance(kept, Path):
            return kept
        maps = empty_step()
        for name, tensor in sorted(load_file(kept).items()):
            maps[name.rpartition(".")[0]].append(tensor)
        return maps

    @property
    def attention_store(self) -> StepMaps:
        """The maps summed over all steps done, float32. Made when first asked for, then kept up to date."""
        for step in range(self._summed_steps, len(self.attention_store_all_step)):
            maps = self.step_maps(step)
            for key, sums in self._sums.items():
                if step:
                    for total, tensor in zip(sums, maps[key], strict=True):
                        total += tensor
                else:
                    sums.extend(tensor.to(torch.float32, copy=True) for tensor in maps[key])
        self._summed_steps = len(self.attention_store_all_step)
        return self._sums

    def get_average_attention(self) -> StepMaps:
        """The six lists averaged over the steps done; raises StoreError before the first."""
        if not self.cur_step:
            raise StoreError("no step is done yet; an average needs one. Run an inversion with this store registered.")
        return {key: [total / self.cur_step for total in sums] for key, sums in self.attention_store.items()}

    def reset(self) -> None:
        """Forget all maps, with their files, and begin again; the latents stay."""
        super().reset()
        for kept in self.attention_store_all_step:
            if isinstance(kept, Path):
                kept.unlink(missing_ok=True)
        self._empty()

    def _empty(self) -> None:
        self.step_store: StepMaps = empty_step()
        self.attention_store_all_step: list[StepMaps | Path] = []
        self._sums, self._summed_steps = empty_step(), 0

    def _written(self) -> Path:
        path = Path(self._folder.name) / f"{self.cur_step:03d}.safetensors"
        numbered = {f"{key}.{i:02d}": m for key, maps in self.step_store.items() for i, m in enumerate(maps)}
        save_file({name: tensor.contiguous() for name, tensor in numbered.items()}, path)
        return path


def _name(controller: object) -> str:
    return type(controller).__name__


def empty_step() -> StepMaps:
    """Six empty lists."""
    return {key: [] for key in STORE_KEYS}
