"""Records of attention: a layer's map, or the features it comes from, in a precision to store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, cast

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
    """One tensor in the precision it is stored in; read-only.

    values: as they are, or 8-bit integers
    scale:  of 8-bit integers, float32, broadcastable to `values`; None for other precisions
    """

    values: Tensor
    scale: Tensor | None = None

    def to_precision(self, precision: Precision, shared: tuple[int, ...]) -> StoredTensor:
        """Return the same in another precision.

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
        """Return the tensor itself, in float32 if it was stored in 8 bits."""
        return self.values if self.scale is None else self.values * self.scale

    def to(self, device: torch.device, *, non_blocking: bool = False) -> StoredTensor:
        """Return the same on another device."""
        scale = None if self.scale is None else self.scale.to(device, non_blocking=non_blocking)
        return StoredTensor(self.values.to(device, non_blocking=non_blocking), scale)

    def frames(self, rows: slice | list[int]) -> StoredTensor:
        """Return the same of some frames, without a copy where these follow each other."""
        if self.scale is None:
            return StoredTensor(self.values[rows])
        return StoredTensor(self.values[rows], self.scale[rows])

    def copied(self) -> StoredTensor:
        """Return the same in memory of its own."""
        return StoredTensor(self.values.clone(), None if self.scale is None else self.scale.clone())

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors it holds."""
        return (self.values,) if self.scale is None else (self.values, self.scale)


class Record(Protocol):
    """One layer's attention in some form. A new form is a class like this, named in FORMS."""

    form: ClassVar[Form]
    shared: ClassVar[tuple[int, ...]]

    def __init__(self, kept: StoredTensor) -> None: ...

    @property
    def kept(self) -> StoredTensor:
        """The tensor that the attention is read from."""
        ...

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        """Apply the recorded attention to values [(before frames), heads, tokens, dim], not gathered over key frames.

        site: the layer's site in the recorded call, see `NoiseModel.source_sites`
        """
        ...

    def probs(self, like: Tensor, site: Site) -> Tensor:
        """Return the attention map [frames, heads, cells, keys], with the device and dtype of `like`."""
        ...


@dataclass(frozen=True)
class MapRecord:
    """The attention map itself, [frames, heads, cells, keys]. Rows share an 8-bit scale."""

    kept: StoredTensor
    form: ClassVar[Form] = "map"
    shared: ClassVar[tuple[int, ...]] = (-1,)

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        return apply_probs(self.probs(v, site), v, site)

    def probs(self, like: Tensor, site: Site) -> Tensor:
        return self.kept.restored().to(like)


@dataclass(frozen=True)
class FeatureRecord:
    """Features that a map is computed from: a self-attention layer's input [frames, cells, width], or a cross-attention
    layer's queries [frames, heads, cells, dim]. A frame's channels share an 8-bit scale.

    The input of `Site.before` frames stands before that of the frames themselves.

    The map is made by `probs` alone: `apply` is a projection and one fused attention call.
    """

    kept: StoredTensor
    form: ClassVar[Form] = "features"
    shared: ClassVar[tuple[int, ...]] = (-2,)

    def apply(self, v: Tensor, site: Site, kernel: Attend = plain) -> Tensor:
        q, k = self._queries_and_keys(site)
        return kernel(q.to(v), k.to(v), v, site)

    def probs(self, like: Tensor, site: Site) -> Tensor:
        q, k = self._queries_and_keys(site)
        return attention_probs(q.to(like), k.to(like), site)

    def _queries_and_keys(self, site: Site) -> tuple[Tensor, Tensor]:
        assert site.project is not None, f"{site.address} has features that it cannot read"
        queries, keys = site.project(self.kept.restored())
        return queries[site.before :], keys


FORMS: dict[Form, type[Record]] = {"features": FeatureRecord, "map": MapRecord}
StepRecords = Mapping[LayerAddress, Record]
"""The recorded layers of one step."""


def joined_frames(pieces: Sequence[StoredTensor]) -> StoredTensor:
    """Join tensors of frames to one of all these frames; a single one is returned itself.

    All are brought to the device of the last: a store may leave its device in the middle of a step.
    """
    if len(pieces) == 1:
        return pieces[0]
    pieces = [piece.to(pieces[-1].values.device) for piece in pieces]
    scales = [piece.scale for piece in pieces if piece.scale is not None]
    values = torch.cat([piece.values for piece in pieces])
    return StoredTensor(values, torch.cat(scales) if scales else None)


def to_precision(records: StepRecords, device: torch.device | None, precision: Precision) -> StepRecords:
    """Return a step's records as they are stored: in `precision`, on `device` (None: where each tensor is)."""
    return {at: _stored(record, device, precision) for at, record in records.items()}


def _stored(record: Record, device: torch.device | None, precision: Precision) -> Record:
    """Convert one layer's record; its intermediate tensors are freed before the next one is converted."""
    kept = record.kept.to_precision(precision, record.shared)
    return type(record)(kept if device is None else kept.to(device))


def check_records(records: StepRecords, layers: Collection[LayerAddress], step: int) -> None:
    """Raise StoreError if a step lacks the record of one of the layers: an edit that reads it would go wrong."""
    if missing := [at for at in layers if at not in records]:
        raise StoreError(
            f"the records of step {step} lack the attention of {missing[0]}; all of {len(layers)} layers are needed. "
            f"Let nothing but its own run write to a store, and invert again."
        )


def narrowed(records: StepRecords, stored: StepRecords) -> tuple[LayerAddress, ...]:
    """Return the layers whose numbers may lie beyond the range of the precision they are stored in; maps never do."""
    return tuple(
        at
        for at, record in stored.items()
        if record.form == "features" and record.kept.values.dtype == torch.float16 != records[at].kept.values.dtype
    )


def check_range(records: StepRecords, stored: StepRecords) -> None:
    """Raise SettingsError if numbers of a step's records are lost in `stored`. Waits for the device of `stored`.

    Numbers that were not finite before are left to the check of the run's own result, which names the cause.
    """
    for at in narrowed(records, stored):
        if not stored[at].kept.values.isfinite().all() and (values := records[at].kept.values).isfinite().all():
            raise beyond_range(f"that of {at} reaches {values.abs().max().item():.3g}")


def beyond_range(what: str) -> SettingsError:
    """Return the error for attention that float16 cannot hold."""
    return SettingsError(
        f"attention is to be stored in precision 'float16', which ends at {torch.finfo(torch.float16).max:.0f}, and "
        f"{what}; a wider range is needed. Use precision 'bfloat16' or 'as computed'."
    )


def records_tensors(records: StepRecords) -> Iterator[Tensor]:
    """Return all tensors of a step's records."""
    return (tensor for record in records.values() for tensor in record.kept.tensors())


def records_bytes(records: StepRecords) -> int:
    """Return the bytes of all tensors of a step's records."""
    return sum(tensor.nbytes for tensor in records_tensors(records))


def named_tensors(records: StepRecords) -> dict[str, Tensor]:
    """Return a step's records as tensors by name, such as `up.1.0.cross:features`, for a file."""
    named = {f"{at}:{record.form}": record.kept.values for at, record in records.items()}
    scales = {f"{at}:{record.form}:scale": record.kept.scale for at, record in records.items()}
    return named | {name: scale for name, scale in scales.items() if scale is not None}


def records_from(named: Mapping[str, Tensor]) -> StepRecords:
    """Return the records that `named_tensors` named; raise StoreError for names it does not write."""
    records: dict[LayerAddress, Record] = {}
    for name, tensor in named.items():
        address, _, form = name.partition(":")
        if form.endswith(":scale"):
            continue
        kind = FORMS.get(cast("Form", form))
        if kind is None:
            raise StoreError(f"a saved step names {name!r}; a layer and {' or '.join(FORMS)} are needed. Invert again.")
        records[LayerAddress.parse(address)] = kind(StoredTensor(tensor, named.get(f"{name}:scale")))
    return records
