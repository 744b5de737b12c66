"""The attention maps that an inversion recorded, read step by step and layer by layer under every policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from ..attention.clip_parts import Parts, joined, most_frames
from ..attention.sites import LayerAddress
from ..diffusion.noise_model import NoiseModel
from ..errors import SettingsError, StoreError, is_whole
from ..inversion.arguments import check_controller
from ..inversion.controller import Controller
from ..inversion.source_reader import SourceReader, SourceRecords
from ..inversion.trace import Trace
from ..storage.offload import CPU
from .parts_to_read import parts_to_read


class RecordedMaps(Mapping[LayerAddress, Tensor]):
    """The maps of one step by layer, in the order the model runs its layers; made by `recorded_maps`.

    maps[address]: [frames, heads, cells, keys] float32 on the CPU, shares of attention that add up to 1 over the keys.
    Each map is made when it is read, and not held here.
    """

    def __init__(
        self,
        unet: NoiseModel,
        trace: Trace,
        layers: Collection[LayerAddress],
        records: Sequence[SourceRecords],
        parts: Parts,
    ) -> None:
        """records: of each of the parts"""
        self._unet, self._trace, self._layers, self._records = unet, trace, tuple(layers), records
        self._parts = parts

    def __repr__(self) -> str:
        return f"RecordedMaps({', '.join(map(str, self))})"

    def __getitem__(self, address: LayerAddress) -> Tensor:
        attentions = [records[address] for records in self._records]

        def work() -> Tensor:
            like = torch.empty(0, dtype=torch.float32, device=self._unet.device)
            probs = joined(self._parts, [attention.probs(like).cpu() for attention in attentions])
            # Callers may change the map that they get.
            return probs.clone() if probs is attentions[0].record.kept.values else probs

        if not attentions:
            raise KeyError(address)
        with torch.no_grad():
            return self._unet.run(work, 1, most_frames(self._parts), *self._trace.size)

    def __iter__(self) -> Iterator[LayerAddress]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def recorded_maps(
    controller: Controller, step: int, layers: LayerAddress | str | Collection[LayerAddress | str] | None = None
) -> RecordedMaps:
    """Read the attention maps of one step of an inversion, whether it stored maps, features, files or nothing.

    step:   0 is the noisiest, as in an edit; len(controller.trace.schedule) - 1 the cleanest
    layers: to be read, each a LayerAddress or its text such as "up.1.0.cross"; one or several; None: all that were
            recorded
    Returns a mapping from layers to maps [frames, heads, cells, keys] float32 on the CPU. `cells` are the rows and
    columns of the layer's site (`controller.unet.sites(frames, height, width)[address]`), row by row; `keys` are the 77
    tokens of the source prompt in cross-attention, and in self-attention the cells of each key frame in turn.
    It holds one step as it is stored, and makes one map at a time. Policies agree within rounding; "recompute same
    level" reads the source at the edit's own noise level, so its maps are others.
    Raises StoreError without an inversion, SettingsError for a step or layers that were not recorded.
    """
    check_controller(controller)
    unet, trace = controller.unet, controller.inverted()
    steps, sites = len(trace.schedule), unet.sites(trace.frames, *trace.size)
    if not is_whole(step, 0, steps - 1):
        raise SettingsError(f"step is {step!r}; the inversion has the steps 0 to {steps - 1}, noisiest first. Use one.")
    recorded = [at for at, site in sites.items() if trace.capture.covers(site)]
    requested = recorded if layers is None else _addresses(layers)
    chosen = [at for at in recorded if at in requested]
    if missing := [at for at in requested if at not in recorded]:
        raise SettingsError(
            f"layer {missing[0]} was not recorded; {', '.join(map(str, recorded))} were. Choose among these, or "
            f"record more with Capture."
        )
    wanted = [chosen if number == step else () for number in range(steps)]

    parts = parts_to_read(unet, trace)

    def work() -> list[SourceRecords]:
        with SourceReader(unet, trace, wanted, parts=parts) as reader:
            if len(parts) == 1:
                return [reader.read(step)]
            return [_in_memory(reader.read(step, part.number)) for part in parts]

    with torch.no_grad():
        records = unet.run(work, 1, most_frames(parts), *trace.size) if chosen else []
    return RecordedMaps(unet, trace, chosen, records, parts)


def _in_memory(records: SourceRecords) -> SourceRecords:
    """Return the records of a part off the device, which would hold those of all."""
    return {at: replace(each, record=type(each.record)(each.record.kept.to(CPU))) for at, each in records.items()}


def _addresses(layers: LayerAddress | str | Collection[LayerAddress | str]) -> list[LayerAddress]:
    """Return the requested layers; raise SettingsError for anything else."""
    if isinstance(layers, (LayerAddress, str)) or not isinstance(layers, Collection):
        layers = (layers,)
    return [_address(at) for at in layers]


def _address(at: object) -> LayerAddress:
    with suppress(StoreError):  # its advice is for stored files
        return at if isinstance(at, LayerAddress) else LayerAddress.parse(str(at))
    raise SettingsError(
        f"layer {at!r} is no attention layer; a LayerAddress, or a text such as 'up.1.0.cross', is needed. See which "
        f"there are: list(recorded_maps(controller, 0))."
    )
