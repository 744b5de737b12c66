"""The questions that nodes have for the program they run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.media.audio import Sound
    from ...fatezero_ext.media.clip import VideoClip
    from ...fatezero_ext.memory.residency import LoadToDevice
    from ...fatezero_ext.pictures.labelled_sheet import Tile


ModelKind = Literal["checkpoints", "loras"]
"""ComfyUI's names for the kinds of model files."""
ModelPart = Literal["unet", "text encoder", "vae"]
"""Parts of a model; programs have rules for each."""
MODEL_PARTS: tuple[ModelPart, ...] = get_args(ModelPart)


class Progress(Protocol):
    """A bar for one node's work."""

    def update(self, step: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Report that `step` steps are done (1 after the first); raises when the user stops the run.

        preview: returns latents [frames, channels, height, width] to show; called only if previews are on
        """


class Host(Protocol):
    """A program that nodes run in."""

    def progress(self, total: int, latents: LatentFormat | None = None) -> Progress:
        """Start a bar of `total` steps; latents: format of the previews, None for no previews."""

    def say(self, remarks: Sequence[str], choices: Sequence[str], node_id: str | None) -> None:
        """Show what `host.tell` made of remarks and choices while the node of that id runs."""

    def film(self, make: Callable[[], Sequence[Tile]]) -> dict[str, Any] | None:
        """Return what a page needs to play clips over each other, for `NodeOutput(ui=...)`; None where nobody looks.

        make: returns the clips, the first to compare the others with; called only if somebody looks
        """

    def device(self) -> torch.device:
        """Return the device that models compute on."""

    def intermediate_device(self) -> torch.device:
        """Return the device for a node's outputs."""

    def weight_dtype(self) -> torch.dtype:
        """Return the best dtype for a UNet's weights."""

    def residence(self, net: nn.Module, part: ModelPart) -> LoadToDevice:
        """Return a function that brings `net` to the compute device; it is called before each use."""

    def diffusers_folders(self) -> tuple[Path, ...]:
        """Return the folders below which models in diffusers layout are looked for."""

    def clip_folders(self) -> tuple[Path, ...]:
        """Return the folders below which CLIP models with a picture tower are looked for."""

    def model_names(self, kind: ModelKind) -> list[str]:
        """Return the names of the model files of a kind; cheap, no file is opened."""

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        """Return the file of a name that `model_names` gives; None if there is none."""

    def models_place(self) -> str:
        """Return where a missing model should go, as the end of a sentence in a message."""

    def video(self, path: Path) -> Any:  # noqa: ANN401 - the program's own kind of video
        """Return a video file as a value for VIDEO sockets."""

    def clip(self, video: Any) -> VideoClip:  # noqa: ANN401 - the program's own kind of video
        """Return the clip of a VIDEO, not decoded where it is a file's; raises VideoError where that cannot be read."""

    def sound(self, sound: Sound | None, seconds: Fraction) -> Any:  # noqa: ANN401 - the program's own kind of sound
        """Return a sound as a value for AUDIO sockets; None where nothing can be heard.

        Of a file at least the first `seconds` are read; nodes that write a video cut what is longer.
        """

    def most_held_bytes(self) -> int | None:
        """Return the bytes above which IMAGE and MASK sockets carry `StreamedFrames`; None: only tensors."""

    def input_file(self, name: str) -> Path:
        """Return the input file of that name; may raise FateZeroError if there is none."""

    def input_folders(self) -> tuple[Path, ...]:
        """Return the folders that input may be read from, in the order in which they are searched."""

    def output_directory(self) -> Path:
        """Return the folder for results."""
