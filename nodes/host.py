"""What nodes ask of the program they run in; the only module that imports comfy, and only inside functions.

The program is ComfyUI, or the headless runner (which installs itself with `installed`), or a plain Python session.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL import Image
from torch import nn

from ..fatezero_ext.residence import Prepare
from .api import IN_COMFYUI

log = logging.getLogger(__name__)

PREVIEW_SIZE = 512
"""Longest side of a preview picture in pixels; what ComfyUI's own samplers send."""
CLIP_KINDS = ("clip_vision", "text_encoders", "diffusers")
"""ComfyUI's kinds of model folders that may hold CLIP models in Hugging Face layout."""


ModelKind = Literal["checkpoints", "loras"]
"""ComfyUI's kinds of model folders that single files are looked for in."""


class Progress(Protocol):
    """A bar for one node's work."""

    def update(self, step: int, preview: Image.Image | None = None) -> None:
        """Say that `step` steps are done (1 after the first); raises when the user stops the run."""


class Host(Protocol):
    """A program that nodes run in."""

    def progress(self, total: int) -> Progress:
        """Start a bar of `total` steps."""

    def say(self, text: str, node_id: str | None) -> None:
        """Show a line while the node of that id runs."""

    def device(self) -> torch.device:
        """Where models compute."""

    def intermediate_device(self) -> torch.device:
        """Where a node's outputs belong."""

    def residence(self, net: nn.Module) -> Prepare:
        """How `net` is brought to the compute device before each use."""

    def diffusers_folders(self) -> tuple[Path, ...]:
        """Folders below which models in diffusers layout are looked for."""

    def clip_folders(self) -> tuple[Path, ...]:
        """Folders below which CLIP models with a picture tower are looked for."""

    def model_names(self, kind: ModelKind) -> list[str]:
        """Names of the model files of a kind; cheap, no file is opened."""

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        """The file of a name that `model_names` gives; None where there is none."""

    def input_file(self, name: str) -> Path:
        """The input file of that name; raises where there is none."""

    def input_folders(self) -> tuple[Path, ...]:
        """Folders that input may be read from, looked through in this order."""

    def output_directory(self) -> Path:
        """Where results are saved."""


class SilentProgress:
    """A bar that nobody looks at."""

    def update(self, step: int, preview: Image.Image | None = None) -> None:
        """Do nothing."""


class PythonHost:
    """A plain Python session: no bar, an accelerator if torch has one, files of the working folder."""

    def progress(self, total: int) -> Progress:
        """A bar that shows nothing."""
        return SilentProgress()

    def say(self, text: str, node_id: str | None) -> None:
        """Log it."""
        log.info(text)

    def device(self) -> torch.device:
        """The CUDA device if there is one, else the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def intermediate_device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def residence(self, net: nn.Module) -> Prepare:
        """Move it there once."""
        return lambda working_memory: net.to(self.device())

    def diffusers_folders(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def clip_folders(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def model_names(self, kind: ModelKind) -> list[str]:
        """None."""
        return []

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        """None."""
        return None

    def input_file(self, name: str) -> Path:
        """The file of that name, relative to the working folder."""
        return Path(name)

    def input_folders(self) -> tuple[Path, ...]:
        """The working folder."""
        return (Path("."),)

    def output_directory(self) -> Path:
        """The folder `output` of the working folder."""
        return Path("output")


class ComfyProgress:
    """ComfyUI's bar with its preview and its cancel button."""

    def __init__(self, total: int) -> None:
        from comfy.utils import ProgressBar

        self._bar = ProgressBar(total)
        self._total = total

    def update(self, step: int, preview: Image.Image | None = None) -> None:
        """Move the bar; raises ComfyUI's InterruptProcessingException once the user has cancelled."""
        from comfy.model_management import throw_exception_if_processing_interrupted

        throw_exception_if_processing_interrupted()
        shown = None if preview is None else ("JPEG", preview, PREVIEW_SIZE)
        self._bar.update_absolute(step, self._total, shown)


class ComfyHost:
    """ComfyUI."""

    def progress(self, total: int) -> Progress:
        """ComfyUI's bar for the running node."""
        return ComfyProgress(total)

    def say(self, text: str, node_id: str | None) -> None:
        """In the console, and on the node where ComfyUI can show text there."""
        from server import PromptServer

        log.info(text)
        if node_id is not None and hasattr(PromptServer.instance, "send_progress_text"):
            PromptServer.instance.send_progress_text(text, node_id)

    def device(self) -> torch.device:
        """ComfyUI's compute device."""
        from comfy.model_management import get_torch_device

        return get_torch_device()

    def intermediate_device(self) -> torch.device:
        """Where ComfyUI keeps images and latents between nodes."""
        from comfy.model_management import intermediate_device

        return intermediate_device()

    def residence(self, net: nn.Module) -> Prepare:
        """Let ComfyUI load it in full right before each use, and unload it when memory is short."""
        from comfy.model_management import get_torch_device, load_models_gpu, unet_offload_device
        from comfy.model_patcher import ModelPatcher

        # The container is what ComfyUI writes its bookkeeping to; diffusers' models refuse a `device` attribute.
        patcher = ModelPatcher(nn.ModuleDict({"net": net}), get_torch_device(), unet_offload_device())
        return lambda working_memory: load_models_gpu([patcher], memory_required=working_memory, force_full_load=True)

    def diffusers_folders(self) -> tuple[Path, ...]:
        """ComfyUI's folders of the kind `diffusers`."""
        from folder_paths import get_folder_paths

        return tuple(Path(folder) for folder in get_folder_paths("diffusers"))

    def clip_folders(self) -> tuple[Path, ...]:
        """ComfyUI's folders of the kinds that CLIP models are kept in."""
        from folder_paths import get_folder_paths

        return tuple(Path(folder) for kind in CLIP_KINDS for folder in get_folder_paths(kind))

    def model_names(self, kind: ModelKind) -> list[str]:
        """ComfyUI's list."""
        from folder_paths import get_filename_list

        return list(get_filename_list(kind))

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        """ComfyUI's file of that name."""
        from folder_paths import get_filename_list, get_full_path

        path = get_full_path(kind, name) if name in get_filename_list(kind) else None
        return None if path is None else Path(path)

    def input_file(self, name: str) -> Path:
        """The file of that name below ComfyUI's input folder."""
        from folder_paths import get_annotated_filepath

        return Path(get_annotated_filepath(name))

    def input_folders(self) -> tuple[Path, ...]:
        """ComfyUI's input folder."""
        from folder_paths import get_input_directory

        return (Path(get_input_directory()),)

    def output_directory(self) -> Path:
        """ComfyUI's output folder."""
        from folder_paths import get_output_directory

        return Path(get_output_directory())


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


def progress(total: int) -> Progress:
    """Start a bar of `total` steps for the running node."""
    return current().progress(total)


def say(text: str, node_id: str | None) -> None:
    """Show a line while the node of that id runs."""
    current().say(text, node_id)


def device() -> torch.device:
    """Where models compute."""
    return current().device()


def intermediate_device() -> torch.device:
    """Where a node's outputs belong."""
    return current().intermediate_device()


def residence(net: nn.Module) -> Prepare:
    """How `net` is brought to the compute device before each use."""
    return current().residence(net)


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


def input_file(name: str) -> Path:
    """The input file of that name; raises where there is none."""
    return current().input_file(name)


def input_folders() -> tuple[Path, ...]:
    """Folders that input may be read from, looked through in this order."""
    return current().input_folders()


def output_directory() -> Path:
    """Where results are saved."""
    return current().output_directory()
