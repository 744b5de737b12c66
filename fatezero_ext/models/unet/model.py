"""The pseudo-3D UNet as inversion and editing call it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from ...attention.clip_parts import PartAttention
from ...attention.controlled_layer import ControlledLayer
from ...attention.functional import Attend, plain
from ...diffusion.noise_model import LatentFormat, NoiseModel, Result
from ...diffusion.schedule import Schedule
from ...digests import combined, weights_digest
from ...memory.held_memory import WeightsReport
from ...memory.residency import LoadToDevice, prepared, stay_put
from ..shared_weights import with_weights
from .forward_context import Call, running
from .inflate import InflationSettings, inflate
from .lock_step import predict_together, values_that_wait, what_keeps_parts_apart
from .temporal import OverTime, layers_over_time


@dataclass(repr=False, eq=False)
class Pseudo3DUNet(NoiseModel, WeightsReport):
    """A diffusers UNet inflated to run clips. Threads may share one: the state of a call belongs to that call.

    net:            the UNet2DConditionModel; it is inflated in place when this object is made
    settings:       how it is inflated
    latent_format:  the latent format it was trained on
    scheduler:      the checkpoint's scheduler config, diffusers' keys
    name:           what users know it by
    built_in:       whether it is the built-in model, or one trained like it; it chooses key frames that are "auto"
    objects:        names of the objects that such a model was trained on beside coloured shapes
    kernel:         computes attention wherever nothing is recorded or edited
    load_to_device: called before a run with the bytes it needs; brings the weights to the device they compute on. The
                    one field that may be set later: a program that manages memory first has to see `net`
    """

    net: UNet2DConditionModel
    settings: InflationSettings = field(default_factory=InflationSettings)
    latent_format: LatentFormat = field(default_factory=LatentFormat)
    scheduler: Mapping[str, object] = field(default_factory=dict)
    name: str = "unet"
    built_in: bool = False
    objects: tuple[str, ...] = ()
    kernel: Attend = plain
    load_to_device: LoadToDevice = stay_put

    def __post_init__(self) -> None:
        super().__init__()
        self.settings = self.settings.resolved(built_in=self.built_in)
        self.layers: tuple[ControlledLayer, ...] = inflate(self.net, self.settings)
        self.net.requires_grad_(False).eval()

    @property
    def dtype(self) -> torch.dtype:
        return self.net.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.net.conv_in.weight.device  # diffusers looks through all modules for it

    @property
    def channels(self) -> int:
        return self.net.config["in_channels"]

    @property
    def text_width(self) -> int:
        return self.net.config["cross_attention_dim"]

    @property
    def levels(self) -> int:
        return len(self.net.down_blocks)

    @property
    def trained_side(self) -> int | None:
        side = self.net.config["sample_size"]
        return side if isinstance(side, int) else None

    def schedule(self, steps: int) -> Schedule:
        return Schedule.from_config(self.scheduler, steps)

    def digest(self) -> str:
        """Digest of the weights, the config and the inflation settings."""
        temporal = self.settings.temporal
        settings = {
            "key_frames": list(self.settings.key_frames),
            "least_sc_channel": self.settings.least_sc_channel,
            "norm": self.settings.norm,
            "temporal": temporal and {**asdict(temporal), "ranks": dict(temporal.ranks)},
        }
        config = {name: value for name, value in self.net.config.items() if not name.startswith("_")}
        return combined({"weights": weights_digest(self.net.state_dict()), "config": config, "settings": settings})

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self.net.named_parameters()

    @property
    def _over_time(self) -> frozenset[OverTime]:
        """Modules of it in which frames reach each other by layers over time."""
        return frozenset() if self.settings.temporal is None else layers_over_time(self.net)

    @property
    def joined_by(self) -> str:
        if self._over_time:
            return "has trained layers over time"
        return "normalises over all frames" if self.settings.norm == "clip" else ""

    @property
    def joins_norms_alone(self) -> bool:
        return self.settings.norm == "clip" and not self._over_time

    def waiting_memory(self, chunks: int, frames: int, height: int, width: int) -> int:
        if not self.joins_parts:
            return 0
        return chunks * frames * values_that_wait(self.net, height, width) * self.dtype.itemsize

    @property
    def needs_whole_clip(self) -> str:
        if self.joins_parts and (why := what_keeps_parts_apart(self.net)):
            apart = "Load it with norm 'frame'." if self.joins_norms_alone else "Load a UNet without layers over time."
            return (
                f"{self.name} {self.joined_by}, for which the parts of a clip must wait for each other in every layer, "
                f"and {why}. {apart}"
            )
        return ""

    def with_weights(self, changes: Mapping[str, Tensor], *, name: str) -> Pseudo3DUNet:
        """Derive a UNet inflated alike, with some weights of `net` changed; this one stays as it is.

        changes: new weights by name, each of the old one's shape; all others share this UNet's memory
        name:    of the new UNet
        The new UNet has no registered control, and its weights stay where they are until `load_to_device` is set.
        """
        twin = copy.copy(self)
        NoiseModel.__init__(twin)
        twin.net, twin.layers = with_weights(self.net, (self.net, self.layers), changes)
        twin.name, twin.load_to_device = name, stay_put
        return twin

    def run(self, work: Callable[[], Result], chunks: int, frames: int, height: int, width: int) -> Result:
        prepared(self.load_to_device, self.working_memory(chunks, frames, height, width))
        try:
            return work()
        finally:
            self.forget_sites()

    def __call__(
        self,
        latents: Tensor,
        timestep: int | Tensor,
        text: Tensor,
        *,
        frames: int,
        attend: Attend | None = None,
        text_mask: Tensor | None = None,
        pictures: bool = False,
    ) -> Tensor:
        """Predict the noise (or velocity) in the latents of `chunks` clips.

        latents:   [(chunks frames), channels, height, width], scaled; [frames, ...] for one clip under several texts
        timestep:  of the training schedule, 0..999; one for all latents, or one for each
        text:      [chunks, tokens, width] text embeddings, one per chunk
        attend:    how attention is computed in this call; None: the registered control, plain unless one is registered
        text_mask: [chunks, tokens], 1 for tokens that may be attended to; None: all of them
        pictures:  the latents are single pictures, with `frames` 1: layers over time leave them as they are
        Returns [(chunks frames), channels, height, width] in the latents' dtype; the UNet computes in its own.
        Raises ModelError where the shapes do not fit together.
        """
        self.check_call(latents, text, frames)
        if len(latents) < len(text) * frames:
            latents = latents.repeat(len(text), 1, 1, 1)
        sites = self.sites(frames, *latents.shape[-2:])
        with running(Call(frames, self.attend if attend is None else attend, sites, pictures)):
            noise = self.net(
                latents.to(self.dtype),
                timestep,
                encoder_hidden_states=text.to(self.dtype),
                encoder_attention_mask=text_mask,
                return_dict=False,
            )
        return noise[0].to(latents.dtype)

    def predict_parts(
        self, pieces: Sequence[Tensor], timestep: int | Tensor, text: Tensor, attends: Sequence[Attend | None]
    ) -> list[Tensor]:
        over_time = self._over_time if len(pieces) > 1 else frozenset()
        if len(pieces) == 1 or not (over_time or self.settings.norm == "clip"):
            return super().predict_parts(pieces, timestep, text, attends)
        calls = [
            Call(len(x), self.attend if attend is None else attend, self.sites(len(x), *x.shape[-2:]), apart=over_time)
            for x, attend in zip(pieces, attends, strict=True)
        ]
        for x, call in zip(pieces, calls, strict=True):
            self.check_call(x, text, call.frames)
        given = [x.to(self.dtype).repeat(len(text), 1, 1, 1) for x in pieces]
        predicted = predict_together(self.net, given, calls, _numbers(pieces, attends), timestep, text.to(self.dtype))
        return [noise.to(x.dtype) for noise, x in zip(predicted, pieces, strict=True)]


def _numbers(pieces: Sequence[Tensor], attends: Sequence[Attend | None]) -> list[Sequence[int]]:
    """Return the numbers in the clip of each part's frames, which its attention knows; else the parts are in order."""
    firsts = accumulate(map(len, pieces), initial=0)
    return [
        attend.part.frames if isinstance(attend, PartAttention) else range(first, first + len(x))
        for x, attend, first in zip(pieces, attends, firsts, strict=False)
    ]
