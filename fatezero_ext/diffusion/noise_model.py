"""The model that predicts noise, as inversion and editing see it, and the registration of controllers on it."""

from __future__ import annotations

import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from ..attention.clip_parts import ClipPart, check_frames_at_once, split_clip, whole_clip
from ..attention.controlled_layer import ControlledLayer, cross_projection, self_projection
from ..attention.functional import Attend, plain
from ..attention.key_frames import key_frame_tensors, resolve_key_frames
from ..attention.map_control import MapControlAttention, MapController
from ..attention.sites import LayerAddress, Site
from ..errors import ModelError, SettingsError, StoreError
from .preview_colours import STABLE_DIFFUSION, LatentColours
from .schedule import Schedule

log = logging.getLogger(__name__)

SD_LATENT_SCALE = 0.18215  # Stable Diffusion 1.x: gives encoded images unit variance
SD_PIXELS_PER_CELL = 8
BYTES_PER_CELL_AND_BYTE = 10_486  # ComfyUI's own estimate for Stable Diffusion 1.x: 0.01 MiB a latent cell

SHAPES_AT_ONCE = 8  # clips whose sites are remembered, for threads that share a model

Result = TypeVar("Result")


@dataclass(frozen=True)
class LatentFormat:
    """Relation of a model's latents to images.

    scale:           factor from raw VAE latents to the latents the model sees
    pixels_per_cell: image pixels along one side of a latent cell
    colours:         for previews; None: Stable Diffusion's
    """

    scale: float = SD_LATENT_SCALE
    pixels_per_cell: int = SD_PIXELS_PER_CELL
    colours: LatentColours | None = None

    def rough_frames(self, latents: Tensor) -> Tensor:
        """Return pictures of scaled latents without a decoder, see `LatentColours.frames`."""
        return (self.colours or STABLE_DIFFUSION).frames(latents)


class NoiseModel(ABC):
    """A model of Stable Diffusion 1.x / 2.x kind, as inversion and editing see it.

    A subclass brings the model itself: its parts, one prediction, and its way to the device.
    Threads may share a model, each with controllers of its own.

    layers:        the attention layers under control, in the order the model runs them
    latent_format: of the latents it was trained on
    name:          for messages to the user
    built_in:      whether it is this project's own small model, or one trained like it, which other settings suit than
                   Stable Diffusion
    objects:       names of the objects that a built-in model was trained on beside coloured shapes
    kernel:        computes attention wherever nothing is recorded or edited
    """

    layers: tuple[ControlledLayer, ...]
    latent_format: LatentFormat
    name: str
    built_in: bool = False
    objects: tuple[str, ...] = ()
    kernel: Attend = plain
    _sites: dict[tuple[object, ...], Mapping[LayerAddress, Site]]

    def __init__(self) -> None:
        self._controls: list[Registration] = []
        self.forget_sites()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.layers)} attention layers, {self.dtype})"

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of the computation."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the computation."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of latent channels."""

    @property
    @abstractmethod
    def text_width(self) -> int:
        """Width of the text embeddings."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of resolutions it works at, each half as fine as the one before."""

    @abstractmethod
    def schedule(self, steps: int) -> Schedule:
        """Return the DDIM schedule of its training; raises what `Schedule.from_config` does."""

    @abstractmethod
    def digest(self) -> str:
        """Return a digest of all that determines a prediction besides its inputs. Call it inside `run` only."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Return the weights by name, to be searched when a result is not finite; none: they are not accessible."""
        return iter(())

    @property
    def trained_side(self) -> int | None:
        """Latent cells along a side of the pictures it was trained on; None: not known."""
        return None

    @property
    def uncacheable_parts(self) -> str:
        """Parts of the model that cannot be hashed (patch functions) and so rule out the disk cache; '' if none."""
        return ""

    @property
    def needs_whole_clip(self) -> str:
        """Sentences on a part of the model that looks at all frames at once, for an error; '' if there is none."""
        return ""

    @property
    def joined_by(self) -> str:
        """Clause on what makes the parts of a clip wait for each other in every layer; '' if nothing does."""
        return ""

    @property
    def joins_norms_alone(self) -> bool:
        """Tells whether nothing but norms over all frames makes them wait, which may be loaded otherwise."""
        return False

    @property
    def joins_parts(self) -> bool:
        """Tells whether the parts of a clip can only be computed together, layer by layer, see `predict_parts`."""
        return bool(self.joined_by)

    def waiting_memory(self, chunks: int, frames: int, height: int, width: int) -> int:
        """Bytes of RAM, at most, in which the parts of a clip wait for each other in a call, see `joins_parts`."""
        return 0

    def parts(self, frames: int, frames_at_once: int, *, controlled: bool = False) -> tuple[ClipPart, ...]:
        """Return the parts in which a clip is computed, with the result of the whole one within rounding.

        frames_at_once: most frames of a part; 0, or no fewer than the clip has: all in one
        controlled:     whether a registered controller takes part
        Raises SettingsError for what is no such number, where the model or such a controller needs all frames at once,
        and where more frames read each other's keys.
        """
        check_frames_at_once(frames_at_once)
        if not 0 < frames_at_once < frames:
            return whole_clip(frames)
        control = self.attend if controlled else self.kernel
        if isinstance(control, MapControlAttention) and not control.per_frame:
            raise SettingsError(
                f"frames_at_once is {frames_at_once}, but {_called(control.controller)} is registered, which takes "
                f"maps of all {frames} frames and counts its calls. Use {frames}, all at once, or unregister it; one "
                f"that does the same with each frame whatever others it gets may be registered with per_frame=True."
            )
        if self.needs_whole_clip:
            raise SettingsError(
                f"frames_at_once is {frames_at_once}, but {self.needs_whole_clip} Or use {frames}, all frames at once."
            )
        lists = {layer.key_frames for layer in self.layers}
        tables = [table for key_frames in lists for table in resolve_key_frames(key_frames, frames)]
        return split_clip(tables, frames, frames_at_once)

    @abstractmethod
    def run(self, work: Callable[[], Result], chunks: int, frames: int, height: int, width: int) -> Result:
        """Bring the model to its device and do `work`, which calls it.

        chunks, frames, height, width: of the largest call that `work` makes, in latent cells
        """

    @abstractmethod
    def __call__(
        self, latents: Tensor, timestep: int | Tensor, text: Tensor, *, frames: int, attend: Attend | None = None
    ) -> Tensor:
        """Predict the noise (or velocity, see `schedule`) in a clip's latents under each of the texts.

        latents:  [frames, channels, height, width], scaled, the same clip under every text
        timestep: of the training schedule, 0..999
        text:     [chunks, tokens, width] text embeddings
        attend:   computes attention in this call, and may treat the last chunk unlike the others; None: the registered
                  controller does, or the kernel if none is registered
        Returns [(chunks frames), channels, height, width] in the latents' dtype; the model computes in its own.
        Raises ModelError if the shapes do not fit together.
        """

    def predict_parts(
        self, pieces: Sequence[Tensor], timestep: int | Tensor, text: Tensor, attends: Sequence[Attend | None]
    ) -> list[Tensor]:
        """Predict for parts of a clip in their order, as a call of each does; all of them where `joins_parts`.

        pieces: [frames, channels, height, width] of each part, scaled
        attends: computes the attention of each part
        """
        return [
            self(x, timestep, text, frames=len(x), attend=attend) for x, attend in zip(pieces, attends, strict=True)
        ]

    @property
    def attend(self) -> Attend:
        """The controller registered last in this thread, or the model's own kernel."""
        here = threading.current_thread()
        return next(
            (control.attend for control in reversed(tuple(self._controls)) if control.thread() is here), self.kernel
        )

    def report_left_out(self) -> None:
        """Warn once of each controller that another thread registered: a run of this one goes on without it."""
        here = threading.current_thread()
        for control in tuple(self._controls):
            if control.thread() is not here and not control.reported and control.controller is not None:
                control.reported = True
                log.warning(
                    "%s is registered on %s by another thread and takes no part in this one's run; controllers belong "
                    "to their thread. Register it in the thread that inverts and edits.",
                    _called(control.controller),
                    self.name,
                )

    def after_step(self, latents: Tensor) -> Tensor:
        """Tell the controller registered last that a step is done, if it works on maps; return the latents to use.

        latents: [frames, channels, height, width], scaled
        """
        attend = self.attend
        return attend.after_step(latents) if isinstance(attend, MapControlAttention) else latents

    @property
    def smallest_side(self) -> int:
        """Fewest latent cells a side may have: every level below keeps at least one."""
        return 1 << (self.levels - 1)

    def source_sites(self, text: Tensor, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """Return the sites of a clip under a text, with which its recorded attention can be read.

        text: [1, tokens, width] text embedding
        """
        text = text.to(self.device, self.dtype)
        return {
            layer.address: replace(site, project=cross_projection(layer, text)) if site.is_cross else site
            for layer, site in zip(self.layers, self.sites(frames, height, width).values(), strict=True)
        }

    def sites(self, frames: int, height: int, width: int) -> Mapping[LayerAddress, Site]:
        """Return every controlled layer's site for a clip of `frames` latents of height x width cells."""
        key = (frames, height, width, self.device, self.dtype)
        sites = self._sites.get(key)
        if sites is None:
            sites = {layer.address: self._site(layer, *key) for layer in self.layers}
            newest = list(self._sites.items())[1 - SHAPES_AT_ONCE :]
            self._sites = {**dict(newest), key: sites}  # another thread may read the old one meanwhile
        return sites

    def forget_sites(self) -> None:
        """Free the index tensors, which would stay on the device; a run of another thread makes its own anew."""
        self._sites = {}

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
        """Estimate the bytes that one call needs beside the weights, for programs that manage memory."""
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
    """A controller bound to a model until `unregister` is called or the `with` block ends.

    attend:         called by the layers
    num_att_layers: attention layers under control (32 for Stable Diffusion 1.x)
    thread:         the one that registered it; runs of other threads go on without it
    reported:       whether a run of another thread has warned about it
    """

    unet: NoiseModel
    controller: Attend | MapController | None
    attend: Attend
    num_att_layers: int
    thread: weakref.ref[threading.Thread] = field(default_factory=lambda: weakref.ref(threading.current_thread()))
    reported: bool = False

    def unregister(self) -> None:
        """Restore the controller that the model had before; a second call does nothing."""
        with suppress(ValueError):
            self.unet._controls.remove(self)  # in place: other threads register and unregister meanwhile

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.unregister()


def register_attention_control(
    unet: NoiseModel, controller: Attend | MapController | None, *, clip_axes: bool = False, per_frame: bool = False
) -> Registration:
    """Let `controller` compute every self- and cross-attention of `unet` (temporal attention is left out).

    controller: an `Attend`; or a `MapController`, which is called with the maps of all layers of at most 1024 cells and
                after every step, for one run; None: plain attention. An inversion records beside either. An edit
                leaves to an `Attend` what it does not change itself; beside a map controller it must change nothing.
    clip_axes:  a map controller's `step_callback` gets the scaled latents as [1, channels, frames, height, width], as
                in the authors' program; else as [frames, channels, height, width]
    per_frame:  a map controller does with the maps of a frame the same whatever other frames it gets, and counts no
                calls: `frames_at_once` may then call it at each layer for a few frames at a time, in any order of
                parts and layers, and after each step for the whole clip
    It is bound for the thread that registers it, until that one has ended: runs of other threads that share the model
    go on without it, and warn once. Register it in the thread that inverts and edits.
    Raises StoreError for anything else.
    Returns the registration; undo it with `.unregister()` or use it in a `with` statement.
    Source: SPEC of FateZero (arXiv 2303.09535), register_attention_control.
    """
    if controller is not None and not callable(controller):
        raise StoreError(
            f"{controller!r} cannot be called; a controller is an attend(q, k, v, site), or a class called with (attn, "
            f"is_cross, place_in_unet) that also has step_callback. Give one of these."
        )
    if isinstance(controller, MapController):
        attend: Attend = MapControlAttention(controller, kernel=unet.kernel, clip_axes=clip_axes, per_frame=per_frame)
    else:
        attend = unet.kernel if controller is None else controller
    registration = Registration(unet, controller, attend, len(unet.layers))
    if controller is not None and hasattr(controller, "num_att_layers"):
        controller.num_att_layers = len(unet.layers)
    for other in tuple(unet._controls):
        thread = other.thread()
        if thread is None or not thread.is_alive():  # no run can take it up again
            other.unregister()
    unet._controls.append(registration)
    return registration


def _called(controller: object) -> str:
    """Return a controller's name for messages: that of a function, or of an object's class."""
    return getattr(controller, "__name__", type(controller).__name__)
