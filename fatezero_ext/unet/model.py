"""The pseudo-3D UNet as the loops call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from ..attention import Attend, plain
from ..errors import ModelError, StoreError
from ..layers import LayerAddress, Site, key_frame_tensors
from ..map_control import MapController, OnMaps, described
from ..residence import Prepare, stay
from .call import Call
from .features import cross_projection, self_projection
from .inflate import ControlledLayer, InflationSettings, inflate

SD_LATENT_SCALE = 0.18215  # Stable Diffusion 1.x: gives encoded images unit variance
SD_PIXELS_PER_CELL = 8
BYTES_PER_CELL_AND_BYTE = 10_486  # ComfyUI's own estimate for Stable Diffusion 1.x: 0.01 MiB a latent cell


@dataclass(frozen=True)
class LatentFormat:
    """How a model's latents relate to images.

    scale:           factor from raw VAE latents to the latents the UNet sees
    pixels_per_cell: image pixels along one side of a latent cell
    """

    scale: float = SD_LATENT_SCALE
    pixels_per_cell: int = SD_PIXELS_PER_CELL


@dataclass
class Pseudo3DUNet:
    """A diffusers UNet inflated to run clips.

    net:       the UNet2DConditionModel; it is inflated in place when this object is made
    settings:  how it is inflated
    latents:   the latent format it was trained on
    scheduler: the checkpoint's scheduler config, diffusers' keys
    name:      what users know it by
    kernel:    computes attention wherever nothing is recorded or edited
    prepare:   called with a run's bytes before it; brings the weights to the device they compute on
    """

    net: UNet2DConditionModel
    settings: InflationSettings = field(default_factory=InflationSettings)
    latents: LatentFormat = field(default_factory=LatentFormat)
    scheduler: Mapping[str, object] = field(default_factory=dict)
    name: str = "unet"
    kernel: Attend = plain
    prepare: Prepare = stay

    def __post_init__(self) -> None:
        self._call = Call()
        self._controls: list[Registration] = []
        self._sites: dict[tuple[object, ...], Mapping[LayerAddress, Site]] = {}
        self.layers: tuple[ControlledLayer, ...] = inflate(self.net, self.settings, self._call)
        self.net.requires_grad_(False).eval()

    def __repr__(self) -> str:
        return f"Pseudo3DUNet({self.name!r}, {len(self.layers)} attention layers, {self.dtype})"

    @property
    def attend(self) -> Attend:
        """The control registered last, the UNet's own kernel where there is none."""
        return self._controls[-1].attend if self._controls else self.kernel

    def after_step(self, latents: Tensor) -> Tensor:
        """Tell the control registered last that a step is done, if it works on maps; gives the latents to go on with.

        latents: [frames, channels, height, width]
        """
        attend = self.attend
        if not isinstance(attend, OnMaps):
            return latents
        changed = attend.controller.step_callback(latents)
        if not isinstance(changed, Tensor) or changed.shape != latents.shape:
            raise StoreError(
                f"step_callback of {type(attend.controller).__name__} gave {described(changed)}; latents shaped "
                f"{list(latents.shape)} are needed. Return x_t, changed or not."
            )
        return changed

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def smallest_side(self) -> int:
        """Fewest latent cells a side may have: every level below keeps at least one."""
        return 2 ** (len(self.net.down_blocks) - 1)

    def __call__(
        self,
        latents: Tensor,
        timestep: int | Tensor,
        text: Tensor,
        *,
        frames: int,
        attend: Attend | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise (or velocity) in the latents of `chunks` clips.

        latents:   [(chunks frames), channels, height, width], scaled
        timestep:  of the training schedule, 0..999
        text:      [chunks, tokens, width] text embeddings, one per chunk
        attend:    how attention is computed in this call; None: the registered control, plain unless one is registered
        text_mask: [chunks, tokens], 1 for tokens that may be attended to; None: all of them
        Returns a tensor shaped like `latents`, in its dtype; the UNet computes in its own.
        Raises ModelError where the shapes do not fit together.
        """
        self._check(latents, text, frames)
        sites = self.sites(frames, *latents.shape[-2:])
        call, outer = self._call, (self._call.frames, self._call.attend, self._call.sites)
        call.frames, call.attend, call.sites = frames, self.attend if attend is None else attend, sites
        try:
            noise = self.net(
                latents.to(self.dtype),
                timestep,
                encoder_hidden_states=text.to(self.dtype),
                encoder_attention_mask=text_mask,
                return_dict=False,
            )
            return noise[0].to(latents.dtype)
        finally:
            call.frames, call.attend, call.sites = outer

    def source_sites(self, text: Tensor, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """The sites of a clip under a text, from which kept attention of that clip and text can be read again.

        text: [1, tokens, width] text embedding
        """
        text = text.to(self.device, self.dtype)
        return {
            layer.address: replace(site, project=cross_projection(layer.module, text, frames))
            if site.is_cross
            else site
            for layer, site in zip(self.layers, self.sites(frames, height, width).values(), strict=True)
        }

    def sites(self, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """Every controlled layer's site for a clip of `frames` latents of height x width cells."""
        key = (frames, height, width, self.device)
        if key not in self._sites:
            self._sites = {key: {layer.address: self._site(layer, *key) for layer in self.layers}}
        return self._sites[key]

    @staticmethod
    def _site(layer: ControlledLayer, frames: int, height: int, width: int, device: torch.device) -> Site:
        downscale = 2**layer.level
        return Site(
            address=layer.address,
            frames=frames,
            height=-(-height // downscale),  # a stride-2 convolution with padding 1 rounds up
            width=-(-width // downscale),
            downscale=downscale,
            key_frames=key_frame_tensors(layer.key_frames, frames, device),
            upcast=layer.module.upcast_attention,
            project=None if layer.address.kind == "cross" else self_projection(layer.module),
        )

    def working_memory(self, chunks: int, frames: int, height: int, width: int) -> int:
        """Bytes that one call needs beside the weights, an estimate for programs that manage memory."""
        return chunks * frames * height * width * self.dtype.itemsize * BYTES_PER_CELL_AND_BYTE

    def check_latents(self, latents: Tensor) -> None:
        """Raise ModelError unless `latents` [.., channels, height, width] fit this UNet."""
        channels, height, width = latents.shape[-3:]
        if channels != self.net.config.in_channels:
            raise ModelError(
                f"latents have {channels} channels; {self.name} needs {self.net.config.in_channels}. "
                f"Encode the clip with the VAE that belongs to this model."
            )
        if min(height, width) < self.smallest_side:
            pixels = self.smallest_side * self.latents.pixels_per_cell
            raise ModelError(
                f"latents of {height}x{width} cells are too small; {self.name} halves them "
                f"{len(self.net.down_blocks) - 1} times and needs {self.smallest_side} cells a side. "
                f"Use frames of at least {pixels}x{pixels} pixels."
            )

    def _check(self, latents: Tensor, text: Tensor, frames: int) -> None:
        self.check_latents(latents)
        chunks, rest = divmod(len(latents), frames)
        if rest or len(text) != chunks:
            raise ModelError(
                f"{len(latents)} latents and {len(text)} text embeddings do not make clips of {frames} frames; "
                f"the batch axis is (chunks frames) with one embedding per chunk. Give {chunks} embeddings."
            )


@dataclass(eq=False)
class Registration:
    """A control bound to a UNet until `unregister` is called or the `with` block ends.

    attend:         what the layers call for it
    num_att_layers: attention layers under control (32 for Stable Diffusion 1.x)
    """

    unet: Pseudo3DUNet
    controller: Attend | MapController | None
    attend: Attend
    num_att_layers: int

    def unregister(self) -> None:
        """Give the UNet back the control it had before; a second call does nothing."""
        self.unet._controls = [control for control in self.unet._controls if control is not self]

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.unregister()


def register_attention_control(unet: Pseudo3DUNet, controller: Attend | MapController | None) -> Registration:
    """Let `controller` compute every self- and cross-attention of `unet` (temporal attention is left out).

    controller: an `Attend`; or a `MapController`, which is handed the maps of all layers of at most 1024 cells and told
                when a step is done, for one run; None: plain attention. An inversion records beside either. An edit
                leaves to an `Attend` what it does not change itself; beside a map controller it must change nothing.
    Raises StoreError for what is neither.
    Returns the registration; undo it with `.unregister()` or use it in a `with` statement.
    Source: SPEC of FateZero (arXiv 2303.09535), register_attention_control.
    """
    if controller is not None and not callable(controller):
        raise StoreError(
            f"{controller!r} cannot be called; a controller is an attend(q, k, v, site), or a class called with (attn, "
            f"is_cross, place_in_unet) that also has step_callback. Give one of these."
        )
    attend = OnMaps(controller, kernel=unet.kernel) if isinstance(controller, MapController) else controller
    attend = unet.kernel if attend is None else attend
    registration = Registration(unet, controller, attend, len(unet.layers))
    if hasattr(controller, "num_att_layers"):
        controller.num_att_layers = len(unet.layers)
    unet._controls.append(registration)
    return registration
