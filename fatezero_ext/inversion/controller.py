"""The value that travels along the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..diffusion.noise_model import NoiseModel
from ..errors import StoreError, check_kind
from ..memory.held_memory import MemoryReport
from ..storage.settings import Storage
from .arguments import check_unet
from .recording import Capture
from .trace import Trace


@dataclass(frozen=True)
class Controller(MemoryReport):
    """A UNet, what to record of its attention and where to keep it, and the inversion of a clip once there is one.

    trace: the inversion; None: no clip was inverted yet, see `inverted`
    """

    unet: NoiseModel
    capture: Capture = field(default_factory=Capture)
    storage: Storage = field(default_factory=Storage)
    trace: Trace | None = None

    def __post_init__(self) -> None:
        check_unet(self.unet)
        check_kind(
            self.capture,
            "covers",
            "capture",
            "a Capture is needed, and `storage` is another argument: Controller(model.unet, storage=Storage(...))",
        )
        check_kind(self.storage, "policy", "storage", "a Storage is needed: Storage('features', 'ram')")

    def __repr__(self) -> str:
        return f"Controller({self.unet.name!r}, {self.storage.policy} in {self.storage.place}, {self.trace})"

    def held_tensors(self) -> Iterator[Tensor]:
        """Tensors of the inversion; the UNet belongs to the node that loaded it."""
        return iter(()) if self.trace is None else self.trace.held_tensors()

    def inverted(self) -> Trace:
        """Return the inversion; raise StoreError if no clip was inverted yet."""
        if self.trace is None:
            raise StoreError(
                "the controller has no inversion; edits, heat maps and recorded maps read one. Invert the clip first: "
                "DDIM Inversion in a graph, invert() in Python."
            )
        return self.trace

    def with_storage(self, storage: Storage) -> Controller:
        """Return the same controller with other storage and without an inversion."""
        return replace(self, storage=storage, trace=None)
