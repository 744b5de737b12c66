"""What is kept of one attention layer at one step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..choices import Precision
from ..errors import SettingsError, StoreError
from .functional import Attend, apply_probs, attention_probs, plain
from .sites import LayerAddress, Site

Form = Literal["features", "map"]
PRECISIONS: dict[Precision, torch.dtype | None] = {
    "as computed": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
STEPS_OF_8_BITS = 127  # symmetric: -127..127


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in the precision it is kept in; read-only.

    values: as they are, or 8-bit integers
    scale:  of 8-bit integers, float32, broadcastable to `values`; None for other precisions
    """

    values: Tensor
    scale: Tensor | None = None

    def to_precision(self, precision: Precision, shared: tuple[int, ...]) -> StoredTensor:
        """The same in another precision.

        shared: axes along which 8-bit values share one scale
        """
        dtype = PRECISIONS[precision]
        if dtype is None or self.scale is not None:
            return self
        if dtype is not torch.int8:
            return StoredTensor(self.values.to(dtype))
        peak = self.values.abs().amax(dim=shared, keepdim=True).float()
        scale = peak.clamp_min(torch.finfo(torch.float32).tiny) / STEPS_OF_8_BITS
        return StoredTensor((self.values / scale).round_().to(torch.int8), scale)

    def restored(self) -> Tensor:
        """The tensor itself; of 8-bit values in float32."""
        return self.values if self.scale is None else self.values * self.scale

    def to(self, device: torch.device, *, non_blocking: bool = False) -> StoredTensor:
        """The same on another device."""
        scale = None if self.scale is None else self.scale.to(device, non_blocking=non_blocking)
        return StoredTensor(self.values.to(device, non_blocking=non_blocking), scale)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors it holds."""
        return (self.values,) if self.scale is None else (self.values, self.scale)


class Record(Protocol):
    """One layer's attention, in whatever form it is kept. A new form is a class like this, named in FORMS."""

    form: ClassVar[Form]
    shared: ClassVar[tuple[int, ...]]
    kept: StoredTensor

    def __init__(self, kept: StoredTensor) -> None: ...

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        """The recorded attention applied to values [frames, heads, tokens, dim], not gathered over key frames.

        site: the layer's site in the recorded call, see `NoiseModel.source_sites`
        """
        ...

    def probs(self, like: Tensor, site: Site) -> Tensor:
        """The attention map itself [frames, heads, cells, keys], with the device and dtype of `like`."""
        ...


@dataclass(frozen=True)
class MapRecord:
    """The attention map itself: [frames, heads, cells, keys]. Rows share an 8-bit scale."""

    kept: StoredTensor
    form: ClassVar[Form] = "map"
    shared: ClassVar[tuple[int, ...]] = (-1,)

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        return apply_probs(self.probs(v, site), v, site)

    def probs(self, like: Tensor, site: Site) -> Tensor:
        return self.kept.restored().to(like)


@dataclass(frozen=True)
class FeatureRecord:
    """What a map comes from: a self-attention layer's input [frames, cells, width], a cross-attention layer's queries
    [frames, heads, cells, dim]. Channels share an 8-bit scale.

    The map is never made unless asked for: applying it is a projection and one fused attention call.
    """

    kept: StoredTensor
    form: ClassVar[Form] = "features"
    shared: ClassVar[tuple[int, ...]] = (0, -2)

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        q, k = site.project(self.kept.restored())
        return kernel(q.to(v), k.to(v), v, site)

    def probs(self, like: Tensor, site: Site) -> Tensor:
        q, k = site.project(self.kept.restored())
        return attention_probs(q.to(like), k.to(like), site)


FORMS: dict[Form, type[Record]] = {record.form: record for record in (FeatureRecord, MapRecord)}
StepRecords = Mapping[LayerAddress, Record]


def to_precision(page: StepRecords, device: torch.device | None, precision: Precision) -> StepRecords:
    """A page as it is kept: in `precision`, on `device` (None: where each tensor is)."""
    return {at: _packed(record, device, precision) for at, record in page.items()}


def _packed(record: Record, device: torch.device | None, precision: Precision) -> Record:
    """One layer's record: what is packed and then moved is let go before the next one is packed."""
    kept = record.kept.to_precision(precision, record.shared)
    return type(record)(kept if device is None else kept.to(device))


def check_records(page: StepRecords, layers: Collection[LayerAddress], step: int) -> None:
    """Raise StoreError where the page of a step lacks one of the layers: an edit that reads it would go wrong."""
    if missing := [at for at in layers if at not in page]:
        raise StoreError(
            f"the page of step {step} has no attention of {missing[0]}; all of {len(layers)} layers are needed. Let "
            f"nothing but its own run write to a store, and invert again."
        )


def narrowed(page: StepRecords, kept: StepRecords) -> tuple[LayerAddress, ...]:
    """The layers of `page` whose numbers may lie beyond the range that they have in `kept`: maps are shares of 1."""
    return tuple(
        at
        for at, record in kept.items()
        if record.form == "features" and record.kept.values.dtype == torch.float16 != page[at].kept.values.dtype
    )


def check_range(page: StepRecords, kept: StepRecords) -> None:
    """Raise SettingsError where numbers of a page are lost as it is kept. Waits for the device of `kept`.

    What was not finite before is left to the check of the run's own result, which names its cause.
    """
    for at in narrowed(page, kept):
        if not kept[at].kept.values.isfinite().all() and (values := page[at].kept.values).isfinite().all():
            raise beyond_range(f"that of {at} reaches {values.abs().max().item():.3g}")


def beyond_range(what: str) -> SettingsError:
    """The error for attention that float16 cannot hold."""
    return SettingsError(
        f"attention is to be kept in precision 'float16', which ends at {torch.finfo(torch.float16).max:.0f}, and "
        f"{what}; a wider range is needed. Use precision 'bfloat16' or 'as computed'."
    )


def records_tensors(page: StepRecords) -> Iterator[Tensor]:
    """All tensors of a page."""
    return (tensor for record in page.values() for tensor in record.kept.tensors())


def records_bytes(page: StepRecords) -> int:
    """Bytes of all tensors of a page."""
    return sum(tensor.nbytes for tensor in records_tensors(page))


def named_tensors(page: StepRecords) -> dict[str, Tensor]:
    """A page as tensors by name, such as `up.1.0.cross:features`, for a file."""
    named = {f"{at}:{record.form}": record.kept.values for at, record in page.items()}
    scales = {f"{at}:{record.form}:scale": record.kept.scale for at, record in page.items()}
    return named | {name: scale for name, scale in scales.items() if scale is not None}


def page_from(named: Mapping[str, Tensor]) -> StepRecords:
    """The page that `named_tensors` wrote; raises StoreError for names it does not write."""
    page = {}
    for name, tensor in named.items():
        address, _, form = name.partition(":")
        if form.endswith(":scale"):
            continue
        if form not in FORMS:
            raise StoreError(f"a kept page names {name!r}; a layer and {' or '.join(FORMS)} are needed. Invert again.")
        page[LayerAddress.parse(address)] = FORMS[form](StoredTensor(tensor, named.get(f"{name}:scale")))
    return page
