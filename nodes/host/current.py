"""What nodes ask of the program they run in; the only module that imports comfy, and only inside functions.

The program is ComfyUI, or the headless runner (which installs itself with `installed`), or a plain Python session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import IN_COMFYUI
from .comfy import ComfyHost
from .protocol import Host, ModelKind, ModelPart, Progress
from .python import PythonHost

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.memory.residency import LoadToDevice

_INSTALLED: ContextVar[Host | None] = ContextVar("fatezero_host", default=None)


@contextmanager
def installed(host: Host) -> Iterator[None]:
    """Let nodes run in `host` until the block ends."""
    token = _INSTALLED.set(host)
    try:
        yield
    finally:
        _INSTALLED.reset(token)


def current() -> Host:
    """The program that nodes run in now."""
    return _INSTALLED.get() or (ComfyHost() if IN_COMFYUI else PythonHost())


def progress(total: int, latents: LatentFormat | None = None) -> Progress:
    """Start a bar of `total` steps for the running node; latents: of what it will show, None: nothing."""
    return current().progress(total, latents)


def say(text: str, node_id: str | None) -> None:
    """Show a line while the node of that id runs."""
    current().say(text, node_id)


def device() -> torch.device:
    """Where models compute."""
    return current().device()


def intermediate_device() -> torch.device:
    """Where a node's outputs belong."""
    return current().intermediate_device()


def weight_dtype() -> torch.dtype:
    """The precision that a UNet's weights are best kept in."""
    return current().weight_dtype()


def residence(net: nn.Module, part: ModelPart) -> LoadToDevice:
    """How `net` is brought to the compute device before each use."""
    return current().residence(net, part)


def diffusers_folders() -> tuple[Path, ...]:
    """Folders below which models in diffusers layout are looked for."""
    return current().diffusers_folders()


def clip_folders() -> tuple[Path, ...]:
    """Folders below which CLIP models with a picture tower are looked for."""
    return current().clip_folders()


def model_names(kind: ModelKind) -> list[str]:
    """Names of the model files of a kind; cheap, no file is opened."""
    return current().model_names(kind)


def model_file(kind: ModelKind, name: str) -> Path | None:
    """The file of a name that `model_names` gives; None where there is none."""
    return current().model_file(kind, name)


def lora_files() -> dict[str, Path]:
    """LoRA files by the names that users choose from; none is opened."""
    found = {name: model_file("loras", name) for name in model_names("loras")}
    return {name: path for name, path in found.items() if path is not None}


def video(path: Path) -> Any:  # noqa: ANN401 - the program's own kind of video
    """A video file as it travels on VIDEO sockets."""
    return current().video(path)


def models_place() -> str:
    """Where a model that is missing should go, for people."""
    return current().models_place()


def input_file(name: str) -> Path:
    """The input file of that name; raises where there is none."""
    return current().input_file(name)


def input_folders() -> tuple[Path, ...]:
    """Folders that input may be read from, looked through in this order."""
    return current().input_folders()


def output_directory() -> Path:
    """Where results are saved."""
    return current().output_directory()
