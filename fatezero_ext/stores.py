"""Where pages of attention are kept between an inversion and its edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from .errors import SettingsError, StoreError
from .records import Page

Policy = Literal["features", "maps"]
Place = Literal["model", "ram"]
POLICIES: tuple[Policy, ...] = ("features", "maps")
PLACES: tuple[Place, ...] = ("ram", "model")
PRECISIONS: dict[str, torch.dtype | None] = {
    "as computed": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Storage:
    """How attention is kept.

    policy:    "features": queries and keys of self-attention (small); "maps": every map itself (the reference)
    place:     "ram": the computer's memory; "model": the device the model runs on
    precision: of the kept tensors, a key of PRECISIONS
    """

    policy: Policy = "features"
    place: Place = "ram"
    precision: str = "as computed"

    def __post_init__(self) -> None:
        choices = {"policy": POLICIES, "place": PLACES, "precision": tuple(PRECISIONS)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}. Choose one of these."
                )


class PageStore(Protocol):
    """Pages by step; step 0 is the noisiest, as in `Schedule`."""

    def write(self, step: int, page: Page) -> None:
        """Keep a page. Raises StoreError once the store is sealed."""
        ...

    def read(self, step: int) -> Page:
        """The page of a step. Its tensors must not be changed. Raises StoreError where there is none."""
        ...

    def seal(self) -> None:
        """Allow no more writing."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors kept."""
        ...


class MemoryStore:
    """Pages in memory, moved to a device and precision as they are written.

    device: None keeps each tensor where it was computed
    """

    def __init__(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.device = device
        self.dtype = dtype
        self._pages: dict[int, Page] = {}
        self._sealed = False

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._pages)} steps, {self.nbytes / 2**20:.1f} MiB)"

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def nbytes(self) -> int:
        records = (record for page in self._pages.values() for record in page.values())
        return sum(tensor.nbytes for record in records for tensor in record.tensors())

    def write(self, step: int, page: Page) -> None:
        if self._sealed:
            raise StoreError(f"step {step} came after the store was sealed; invert again to record anew.")
        self._pages[step] = {
            address: record.to(self.device or record.tensors()[0].device, self.dtype)
            for address, record in page.items()
        }

    def read(self, step: int) -> Page:
        if step not in self._pages:
            raise StoreError(
                f"step {step} is not in the store, which has {len(self._pages)}; an edit needs every step of its "
                f"inversion. Invert again with as many steps."
            )
        return self._pages[step]

    def seal(self) -> None:
        self._sealed = True


def open_store(storage: Storage) -> MemoryStore:
    """A new, empty store of the kind `storage` describes."""
    device = torch.device("cpu") if storage.place == "ram" else None
    return MemoryStore(device, PRECISIONS[storage.precision])
