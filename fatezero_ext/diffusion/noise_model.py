"""What the loops ask of a model that predicts noise, and how controllers are bound to one."""

from __future__ import annotations

import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from ..attention.controlled_layer import ControlledLayer, cross_projection, self_projection
from ..attention.functional import Attend, plain
from ..attention.key_frames import key_frame_tensors
from ..attention.map_control import MapControlAttention, MapController
from ..attention.sites import LayerAddress, Site
from ..errors import ModelError, StoreError
from .preview_colours import LatentColours
from .schedule import Schedule

log = logging.getLogger(__name__)

SD_LATENT_SCALE = 0.18215  # Stable Diffusion 1.x: gives encoded images unit variance
SD_PIXELS_PER_CELL = 8
BYTES_PER_CELL_AND_BYTE = 10_486  # ComfyUI's own estimate for Stable Diffusion 1.x: 0.01 MiB a latent cell

SHAPES_AT_ONCE = 8  # of clips whose sites are kept, for threads that share a model

Result = TypeVar("Result")


@dataclass(frozen=True)
class LatentFormat:
    """How a model's latents relate to images.

    scale:           factor from raw VAE latents to the latents the model sees
    pixels_per_cell: image pixels along one side of a latent cell
    colours:         what they look like to the eye; None: as Stable Diffusion's do
    """

    scale: float = SD_LATENT_SCALE
    pixels_per_cell: int = SD_PIXELS_PER_CELL
    colours: LatentColours | None = None


class NoiseModel(ABC):
    """A model of Stable Diffusion 1.x / 2.x kind, seen by inversion and editing.

    A subclass brings the model itself: what it is made of, one prediction, and how it is brought to its device.
    Threads may share a model, each with controls of its own.

    layers:  the attention layers under control, in the order the model runs them
    latents: the latent format it was trained on
    name:    what users know it by
    kernel:  computes attention wherever nothing is recorded or edited
    """

    layers: tuple[ControlledLayer, ...]
    latent_format: LatentFormat
    name: str
    kernel: Attend = plain

    def __init__(self) -> None:
        self._controls: list[Registration] = []
        self.forget_sites()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.layers)} attention layers, {self.dtype})"

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """That it computes in."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """That it computes on."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Of the latents."""

    @property
    @abstractmethod
    def text_width(self) -> int:
        """Of the text embeddings."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Resolutions it works at, each half as fine as the one before."""

    @abstractmethod
    def schedule(self, steps: int) -> Schedule:
        """The DDIM schedule of its training; raises what `Schedule.from_config` does."""

    @abstractmethod
    def digest(self) -> str:
        """Of everything its predictions depend on but their inputs; asked for inside `run`."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Its weights by name, looked through when a result is not finite; none: it does not tell."""
        return iter(())

    @property
    def trained_side(self) -> int | None:
        """Latent cells along a side of the pictures it was trained on; None: it does not say."""
        return None

    @property
    def uncacheable_parts(self) -> str:
        """What of it no digest can name, so that nothing of it can be found again on disk; empty: nothing."""
        return ""

    @abstractmethod
    def run(self, work: Callable[[], Result], chunks: int, frames: int, height: int, width: int) -> Result:
        """Bring the model to its device and do `work`, which calls it.

        chunks, frames, height, width: the largest call that is to come, in latent cells
        """

    @abstractmethod
    def __call__(
        self, latents: Tensor, timestep: int | Tensor, text: Tensor, *, frames: int, attend: Attend | None = None
    ) -> Tensor:
        """Predict the noise (or velocity, see `schedule`) in a clip's latents under each of the texts.

        latents:  [frames, channels, height, width], scaled, the same clip under every text
        timestep: of the training schedule, 0..999
        text:     [chunks, tokens, width] text embeddings
        attend:   how attention is computed in this call; None: the registered control, plain unless one is registered.
                  It may treat the last chunk unlike the others
        Returns [(chunks frames), channels, height, width] in the latents' dtype; the model computes in its own.
        Raises ModelError where the shapes do not fit together.
        """

    @property
    def attend(self) -> Attend:
        """The control registered last in this thread, the model's own kernel where there is none."""
        here = threading.current_thread()
        return next((found.attend for found in reversed(tuple(self._controls)) if found.thread() is here), self.kernel)

    def report_left_out(self) -> None:
        """Warn once of each control that another thread registered: a run of this one goes on without it."""
        here = threading.current_thread()
        for found in tuple(self._controls):
            if found.thread() is not here and not found.reported and found.controller is not None:
                found.reported = True
                log.warning(
                    "%s is registered on %s by another thread and takes no part in this one's run; controls belong to "
                    "their thread. Register it in the thread that inverts and edits.",
                    _called(found.controller),
                    self.name,
                )

    def after_step(self, latents: Tensor) -> Tensor:
        """Tell the control registered last that a step is done, if it works on maps; gives the latents to go on with.

        latents: [frames, channels, height, width], scaled
        """
        attend = self.attend
        return attend.after_step(latents) if isinstance(attend, MapControlAttention) else latents

    @property
    def smallest_side(self) -> int:
        """Fewest latent cells a side may have: every level below keeps at least one."""
        return 2 ** (self.levels - 1)

    def source_sites(self, text: Tensor, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """The sites of a clip under a text, from which kept attention of that clip and text can be read again.

        text: [1, tokens, width] text embedding
        """
        text = text.to(self.device, self.dtype)
        return {
            layer.address: replace(site, project=cross_projection(layer, text, frames)) if site.is_cross else site
            for layer, site in zip(self.layers, self.sites(frames, height, width).values(), strict=True)
        }

    def sites(self, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """Every controlled layer's site for a clip of `frames` latents of height x width cells."""
        key = (frames, height, width, self.device, self.dtype)
        sites = self._sites.get(key)
        if sites is None:
            sites = {layer.address: self._site(layer, *key) for layer in self.layers}
            newest = list(self._sites.items())[1 - SHAPES_AT_ONCE :]
            self._sites = {**dict(newest), key: sites}  # another thread may read the old one meanwhile
        return sites

    def forget_sites(self) -> None:
        """Let the index tensors go, which would stay on the device; a run of another thread makes its own anew."""
        self._sites: dict[tuple[object, ...], Mapping[LayerAddress, Site]] = {}

    @staticmethod
    def _site(
        layer: ControlledLayer, frames: int, height: int, width: int, device: torch.device, dtype: torch.dtype
    ) -> Site:
        downscale = 2**layer.level
        return Site(
            address=layer.address,
            frames=frames,
            height=-(-height // downscale),  # a stride-2 convolution with padding 1 rounds up
            width=-(-width // downscale),
            downscale=downscale,
            key_frames=key_frame_tensors(layer.key_frames, frames, device),
            upcast=layer.upcast,
            project=None if layer.address.kind == "cross" else self_projection(layer, device, dtype),
        )

    def working_memory(self, chunks: int, frames: int, height: int, width: int) -> int:
        """Bytes that one call needs beside the weights, an estimate for programs that manage memory."""
        return chunks * frames * height * width * self.dtype.itemsize * BYTES_PER_CELL_AND_BYTE

    def check_latents(self, latents: Tensor) -> None:
        """Raise ModelError unless `latents` [.., channels, height, width], raw or scaled, fit this model."""
        channels, height, width = latents.shape[-3:]
        if channels != self.channels:
            raise ModelError(
                f"latents have {channels} channels; {self.name} needs {self.channels}. "
                f"Encode the clip with the VAE that belongs to this model."
            )
        if min(height, width) < self.smallest_side:
            pixels = self.smallest_side * self.latent_format.pixels_per_cell
            raise ModelError(
                f"latents of {height}x{width} cells are too small; {self.name} halves them "
                f"{self.levels - 1} times and needs {self.smallest_side} cells a side. "
                f"Use frames of at least {pixels}x{pixels} pixels."
            )

    def check_call(self, latents: Tensor, text: Tensor, frames: int) -> None:
        """Raise ModelError unless scaled latents [(chunks frames) or frames, ..] and text [chunks, ..] fit together."""
        self.check_latents(latents)
        chunks, rest = divmod(len(latents), frames)
        if rest or chunks not in (1, len(text)):
            raise ModelError(
                f"{len(latents)} latents and {len(text)} text embeddings do not make clips of {frames} frames; "
                f"the batch axis is (chunks frames) with one embedding per chunk. Give {chunks} embeddings."
            )


@dataclass(eq=False)
class Registration:
    """A control bound to a model until `unregister` is called or the `with` block ends.

    attend:         what the layers call for it
    num_att_layers: attention layers under control (32 for Stable Diffusion 1.x)
    thread:         the one that registered it; runs of other threads go on without it
    reported:       whether a run of another thread has said so
    """

    unet: NoiseModel
    controller: Attend | MapController | None
    attend: Attend
    num_att_layers: int
    thread: weakref.ref[threading.Thread] = field(default_factory=lambda: weakref.ref(threading.current_thread()))
    reported: bool = False

    def unregister(self) -> None:
        """Give the model back the control it had before; a second call does nothing."""
        with suppress(ValueError):
            self.unet._controls.remove(self)  # in place: other threads register and unregister meanwhile

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.unregister()


def register_attention_control(
    unet: NoiseModel, controller: Attend | MapController | None, *, clip_axes: bool = False
) -> Registration:
    """Let `controller` compute every self- and cross-attention of `unet` (temporal attention is left out).

    controller: an `Attend`; or a `MapController`, which is handed the maps of all layers of at most 1024 cells and told
                when a step is done, for one run; None: plain attention. An inversion records beside either. An edit
                leaves to an `Attend` what it does not change itself; beside a map controller it must change nothing.
    clip_axes:  a map controller's `step_callback` gets the scaled latents as [1, channels, frames, height, width], as
                in the authors' program; else as [frames, channels, height, width]
    It is bound for the thread that registers it, and let go after that one has ended: runs of other threads that share
    the model go on without it, and say so once. Register it in the thread that inverts and edits.
    Raises StoreError for what is neither.
    Returns the registration; undo it with `.unregister()` or use it in a `with` statement.
    Source: SPEC of FateZero (arXiv 2303.09535), register_attention_control.
    """
    if controller is not None and not callable(controller):
        raise StoreError(
            f"{controller!r} cannot be called; a controller is an attend(q, k, v, site), or a class called with (attn, "
            f"is_cross, place_in_unet) that also has step_callback. Give one of these."
        )
    maps = isinstance(controller, MapController)
    attend = MapControlAttention(controller, kernel=unet.kernel, clip_axes=clip_axes) if maps else controller
    attend = unet.kernel if attend is None else attend
    registration = Registration(unet, controller, attend, len(unet.layers))
    if hasattr(controller, "num_att_layers"):
        controller.num_att_layers = len(unet.layers)
    for other in tuple(unet._controls):
        thread = other.thread()
        if thread is None or not thread.is_alive():  # no run can take it up again
            other.unregister()
    unet._controls.append(registration)
    return registration


def _called(controller: object) -> str:
    """What a control is called: a function by its name, an object by its class."""
    return getattr(controller, "__name__", type(controller).__name__)
