"""How much memory an object on the graph holds, for programs that keep results between runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain

from torch import Tensor, nn


class MemoryReport(ABC):
    """Tells ComfyUI's caches what dropping this result would free.

    0.8 asks for a sum, the newest versions for tensors; some between, such as 0.28.0, ask for neither.
    """

    @abstractmethod
    def held_tensors(self) -> Iterator[Tensor]:
        """Every tensor that goes when this object does; those of other objects on the graph are left to them."""

    def get_ram_usage(self) -> int:
        """Bytes of the computer's memory."""
        return sum(tensor.nbytes for tensor in self.held_tensors() if tensor.device.type == "cpu")

    def _comfy_cache_tensors(self) -> list[Tensor]:
        return list(self.held_tensors())


class WeightsReport(MemoryReport):
    """Of a model: its weights, those too that it shares with the same model before a LoRA.

    net: the module that has them
    """

    net: nn.Module

    def held_tensors(self) -> Iterator[Tensor]:
        """Weights and buffers."""
        return chain(self.net.parameters(), self.net.buffers())
