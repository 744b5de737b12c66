"""A plain Python session as the program that nodes run in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .protocol import ModelKind, ModelPart, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.media.audio import Sound
    from ...fatezero_ext.media.clip import VideoClip
    from ...fatezero_ext.memory.residency import LoadToDevice
    from ...fatezero_ext.pictures.labelled_sheet import Tile


log = logging.getLogger(__name__)


class SilentProgress:
    """A bar that shows nothing."""

    def update(self, step: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Do nothing."""


class PythonHost:
    """A plain Python session: no bar, an accelerator if torch has one, files of the working folder."""

    def progress(self, total: int, latents: LatentFormat | None = None) -> Progress:
        return SilentProgress()

    def say(self, remarks: Sequence[str], choices: Sequence[str], node_id: str | None) -> None:
        log.info("%s", "\n".join((*remarks, *choices)))

    def film(self, make: Callable[[], Sequence[Tile]]) -> dict[str, Any] | None:
        return None

    def device(self) -> torch.device:
        """Return the CUDA device if there is one, else the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def intermediate_device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def weight_dtype(self) -> torch.dtype:
        """Choose half precision beside an accelerator."""
        import torch

        return torch.float32 if self.device().type == "cpu" else torch.float16

    def residence(self, net: nn.Module, part: ModelPart) -> LoadToDevice:

        def move(_working_memory: int) -> None:
            net.to(self.device())

        return move

    def diffusers_folders(self) -> tuple[Path, ...]:
        return ()

    def clip_folders(self) -> tuple[Path, ...]:
        return ()

    def model_names(self, kind: ModelKind) -> list[str]:
        return []

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        return None

    def models_place(self) -> str:
        return "anywhere and give its path to `load_model`"

    def video(self, path: Path) -> Any:  # noqa: ANN401
        from ...fatezero_ext.media.clip import opened_clip

        return opened_clip(path)

    def clip(self, video: Any) -> VideoClip:  # noqa: ANN401
        from ...fatezero_ext.errors import VideoError
        from ...fatezero_ext.media.clip import VideoClip

        if not isinstance(video, VideoClip):
            raise VideoError(f"the video is a {type(video).__name__}; a VideoClip is needed. Connect Load Video.")
        return video

    def sound(self, sound: Sound | None, seconds: Fraction) -> Any:  # noqa: ANN401
        return sound

    def most_held_bytes(self) -> int | None:
        return None

    def input_file(self, name: str) -> Path:
        return Path(name)

    def input_folders(self) -> tuple[Path, ...]:
        return (Path("."),)

    def output_directory(self) -> Path:
        return Path("output")
