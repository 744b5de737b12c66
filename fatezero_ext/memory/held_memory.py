"""Reports the memory that a result holds, for programs that cache results between runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain

from torch import Tensor, nn


class MemoryReport(ABC):
    """Tells ComfyUI's caches how much memory they would free by dropping a result.

    ComfyUI 0.8 asks for a sum, the newest versions for tensors, and some between, such as 0.28.0, for neither.
    """

    @abstractmethod
    def held_tensors(self) -> Iterator[Tensor]:
        """Every tensor that is freed with this object; tensors of other results on the graph are left out."""

    def get_ram_usage(self) -> int:
        """Bytes of RAM."""
        return sum(tensor.nbytes for tensor in self.held_tensors() if tensor.device.type == "cpu")

    def _comfy_cache_tensors(self) -> list[Tensor]:
        return list(self.held_tensors())


class WeightsReport(MemoryReport):
    """Reports a model's weights, including those shared with the model a LoRA was applied to.

    net: the module with the weights
    """

    net: nn.Module

    def held_tensors(self) -> Iterator[Tensor]:
        """Weights and buffers."""
        return chain(self.net.parameters(), self.net.buffers())
