"""What nodes ask of the program they run in, and a plain Python session as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.memory.residency import LoadToDevice


ModelKind = Literal["checkpoints", "loras"]
"""ComfyUI's kinds of model folders that single files are looked for in."""
ModelPart = Literal["unet", "text encoder", "vae"]
"""Parts of a model; programs have rules for each."""
MODEL_PARTS: tuple[ModelPart, ...] = get_args(ModelPart)


class Progress(Protocol):
    """A bar for one node's work."""

    def update(self, step: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Say that `step` steps are done (1 after the first); raises when the user stops the run.

        preview: gives latents [frames, channels, height, width] to show; asked only where previews are wanted
        """


class Host(Protocol):
    """A program that nodes run in."""

    def progress(self, total: int, latents: LatentFormat | None = None) -> Progress:
        """Start a bar of `total` steps; latents: of what it will show, None: nothing."""

    def say(self, text: str, node_id: str | None) -> None:
        """Show a line while the node of that id runs."""

    def device(self) -> torch.device:
        """Where models compute."""

    def intermediate_device(self) -> torch.device:
        """Where a node's outputs belong."""

    def weight_dtype(self) -> torch.dtype:
        """The precision that a UNet's weights are best kept in."""

    def residence(self, net: nn.Module, part: ModelPart) -> LoadToDevice:
        """How `net` is brought to the compute device before each use."""

    def diffusers_folders(self) -> tuple[Path, ...]:
        """Folders below which models in diffusers layout are looked for."""

    def clip_folders(self) -> tuple[Path, ...]:
        """Folders below which CLIP models with a picture tower are looked for."""

    def model_names(self, kind: ModelKind) -> list[str]:
        """Names of the model files of a kind; cheap, no file is opened."""

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        """The file of a name that `model_names` gives; None where there is none."""

    def video(self, path: Path) -> Any:  # noqa: ANN401 - the program's own kind of video
        """A video file as it travels on VIDEO sockets."""

    def models_place(self) -> str:
        """Where a model that is missing should go, for people."""

    def input_file(self, name: str) -> Path:
        """The input file of that name; raises where there is none."""

    def input_folders(self) -> tuple[Path, ...]:
        """Folders that input may be read from, looked through in this order."""

    def output_directory(self) -> Path:
        """Where results are saved."""
