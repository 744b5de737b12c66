"""ComfyUI as the program that nodes run in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ...fatezero_ext.printable import visible
from ..api import InputImpl
from .protocol import ModelKind, ModelPart, Progress
from .told import ToldLines

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ...fatezero_ext.diffusion.noise_model import LatentFormat
    from ...fatezero_ext.media.audio import Sound
    from ...fatezero_ext.media.clip import VideoClip
    from ...fatezero_ext.memory.residency import LoadToDevice
    from ...fatezero_ext.pictures.labelled_sheet import Tile


log = logging.getLogger(__name__)

STABLE_DIFFUSION_PARAMETERS = 860_000_000
"""Number of parameters of a UNet of Stable Diffusion 1.x; 2.x has about as many."""
CLIP_KINDS = ("clip_vision", "text_encoders", "diffusers")
"""Kinds of ComfyUI's model folders that may hold CLIP models in Hugging Face layout."""
REMARK, FURTHER = "\N{WARNING SIGN} ", "\N{MIDDLE DOT} "
"""Marks of a remark and of its further lines, by which web/said.js tells them from choices; other pages show them."""
_TOLD: ContextVar[ToldLines] = ContextVar("fatezero_told")
"""Lines that the console has had of this prompt: ComfyUI runs each in a context of its own."""


class ComfyProgress:
    """ComfyUI's bar with its preview and its cancel button."""

    def __init__(self, total: int, latents: LatentFormat | None) -> None:
        from comfy.model_management import get_torch_device
        from comfy.utils import ProgressBar
        from latent_preview import get_previewer

        self._bar = ProgressBar(total)
        self._total = total
        kind = None if latents is None else _comfy_format(latents)
        self._previewer = None if kind is None else get_previewer(get_torch_device(), kind)
        self._channels = None if kind is None else kind.latent_channels

    def update(self, step: int, preview: Callable[[], Tensor] | None = None) -> None:
        """Move the bar; raises ComfyUI's InterruptProcessingException once the user has cancelled."""
        from comfy.model_management import throw_exception_if_processing_interrupted

        throw_exception_if_processing_interrupted()
        picture = None
        if self._previewer is not None and preview is not None:
            latents = preview()
            if latents.shape[1] == self._channels:
                picture = self._previewer.decode_latent_to_preview_image("JPEG", latents)
        self._bar.update_absolute(step, self._total, picture)


def _comfy_format(latents: LatentFormat) -> Any:  # noqa: ANN401 - ComfyUI's LatentFormat
    """Return ComfyUI's description of the latents, for its previews."""
    from comfy import latent_formats

    if latents.colours is None:
        return latent_formats.SD15(latents.scale)
    ours = latent_formats.LatentFormat()
    ours.latent_channels = len(latents.colours.factors)
    ours.latent_rgb_factors = [list(row) for row in latents.colours.factors]
    ours.latent_rgb_factors_bias = list(latents.colours.bias)
    return ours


def _shown_at(node_id: str) -> tuple[str, bool]:
    """Return the node of the page that shows what this one says, and whether it is of the same kind.

    It is the node itself, that of which a loop runs copies, or another kind that has put this one in its place.
    """
    from comfy_execution.progress import get_progress_state

    graph = get_progress_state().dynprompt
    shown: str = graph.get_display_node_id(node_id)
    return shown, graph.get_node(shown)["class_type"] == graph.get_node(node_id)["class_type"]


def _marked(remarks: Sequence[str]) -> Iterator[str]:
    """Yield the lines of remarks with their marks, lines that two remarks share once."""
    lines = (f"{FURTHER if place else REMARK}{line}" for text in remarks for place, line in enumerate(text.split("\n")))
    return iter(dict.fromkeys(lines))


def _is_whole_file(video: Any, kind: type) -> bool:  # noqa: ANN401
    """Return whether a VIDEO is a file as it is: what trims or crops it, or else changes it, is in other attributes."""
    return type(video) is kind and not any(value for name, value in vars(video).items() if not name.endswith("__file"))


class ComfyHost:
    """ComfyUI."""

    def progress(self, total: int, latents: LatentFormat | None = None) -> Progress:
        return ComfyProgress(total, latents)

    def say(self, remarks: Sequence[str], choices: Sequence[str], node_id: str | None) -> None:
        """Show it in the console, once for nodes inside each other, and on the node if this version of ComfyUI can.

        Remarks of a node in another's place join those of that one. Only the page that has queued the run is told.
        """
        from server import PromptServer

        told = _TOLD.get(None)
        if told is None:
            _TOLD.set(told := ToldLines())
        if new := told.new((*remarks, *choices), node_id):
            log.info("%s", visible("\n".join(new), keep="\n"))
        page = getattr(PromptServer.instance, "client_id", None)
        if page is None or node_id is None or not hasattr(PromptServer.instance, "send_progress_text"):
            return
        shown, is_itself = _shown_at(node_id)
        lines = told.on_page(shown, remarks, choices) if is_itself else told.joined(shown, remarks, new)
        if lines is not None:
            text = "\n".join((*_marked(lines[0]), *lines[1]))
            PromptServer.instance.send_progress_text(text, shown, page)

    def film(self, make: Callable[[], Sequence[Tile]]) -> dict[str, Any] | None:
        """Save a sheet of the clips among ComfyUI's temporary files; web/film.js plays it.

        None without a page, and where it cannot be drawn or saved: that costs the picture, not the work behind it.
        """
        from folder_paths import get_temp_directory
        from server import PromptServer

        from ...fatezero_ext.errors import FateZeroError
        from ...fatezero_ext.pictures.film_sheet import film_sheet

        if getattr(PromptServer.instance, "client_id", None) is None:
            return None
        name = f"fatezero_{uuid4().hex}.jpg"
        try:
            sheet = film_sheet(make())
            folder = Path(get_temp_directory())
            folder.mkdir(parents=True, exist_ok=True)
            sheet.picture.save(folder / name, quality=85, subsampling=0)  # colours stay in their block
        except (OSError, FateZeroError, MemoryError, RuntimeError) as error:  # torch's own for memory is of the last
            log.warning("The page shows no picture of this run: %s", visible(str(error)))
            return None
        file = {"filename": name, "subfolder": "", "type": "temp"}
        return {"fatezero_film": [{**file, "frames": sheet.frames, "labels": list(sheet.labels)}]}

    def device(self) -> torch.device:
        from comfy.model_management import get_torch_device

        return get_torch_device()

    def intermediate_device(self) -> torch.device:
        from comfy.model_management import intermediate_device

        return intermediate_device()

    def weight_dtype(self) -> torch.dtype:
        """Return the dtype in which ComfyUI would compute Stable Diffusion 1.x, its flags considered."""
        import torch
        from comfy import model_management as mm

        device, known = mm.get_torch_device(), [torch.float16, torch.bfloat16, torch.float32]
        stored = mm.unet_dtype(device, STABLE_DIFFUSION_PARAMETERS, known)
        computed = mm.unet_manual_cast(stored, device, known) or stored
        return computed if computed in known else torch.float32

    def residence(self, net: nn.Module, part: ModelPart) -> LoadToDevice:
        """Let ComfyUI load the whole net right before each use, and unload it when memory is short."""
        from comfy import model_management as mm
        from comfy.model_patcher import ModelPatcher
        from torch import nn

        load, offload = {
            "unet": (mm.get_torch_device, mm.unet_offload_device),
            "text encoder": (mm.text_encoder_device, mm.text_encoder_offload_device),
            "vae": (mm.vae_device, mm.vae_offload_device),
        }[part]
        # The container is what ComfyUI writes its bookkeeping to; diffusers' models refuse a `device` attribute.
        patcher = ModelPatcher(nn.ModuleDict({"net": net}), load(), offload())

        def bring(memory: int) -> None:
            mm.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
            if next(net.parameters()).device.type != patcher.load_device.type:  # --novram
                log.warning("ComfyUI keeps the %s off %s; it computes on the CPU.", part, patcher.load_device)

        return bring

    def diffusers_folders(self) -> tuple[Path, ...]:
        from folder_paths import get_folder_paths

        return tuple(Path(folder) for folder in get_folder_paths("diffusers"))

    def clip_folders(self) -> tuple[Path, ...]:
        from folder_paths import get_folder_paths

        return tuple(Path(folder) for kind in CLIP_KINDS for folder in get_folder_paths(kind))

    def model_names(self, kind: ModelKind) -> list[str]:
        from folder_paths import get_filename_list

        return list(get_filename_list(kind))

    def model_file(self, kind: ModelKind, name: str) -> Path | None:
        from folder_paths import get_filename_list, get_full_path

        path = get_full_path(kind, name) if name in get_filename_list(kind) else None
        return None if path is None else Path(path)

    def models_place(self) -> str:
        return "into models/checkpoints or models/diffusers and refresh"

    def video(self, path: Path) -> Any:  # noqa: ANN401
        return InputImpl.VideoFromFile(str(path))

    def clip(self, video: Any) -> VideoClip:  # noqa: ANN401
        """Open the file again where the VIDEO is one as it is; all else, such as a trimmed one, ComfyUI decodes."""
        from ...fatezero_ext.media.clip import VideoClip, opened_clip

        if _is_whole_file(video, InputImpl.VideoFromFile):
            source = video.get_stream_source()
            if isinstance(source, (str, Path)):
                return opened_clip(Path(source))
        parts = video.get_components()
        return VideoClip(parts.images[..., :3], Fraction(parts.frame_rate), parts.audio)

    def sound(self, sound: Sound | None, seconds: Fraction) -> Any:  # noqa: ANN401
        import torch

        from ...fatezero_ext.errors import VideoError
        from ...fatezero_ext.media.audio import SoundFile, read_sound

        if not isinstance(sound, SoundFile):
            return sound
        try:
            heard = read_sound(sound, seconds)
        except VideoError as error:
            log.warning("The clip goes on without its sound: %s", visible(str(error)))
            return None
        return {"waveform": torch.from_numpy(heard.samples)[None], "sample_rate": heard.rate}

    def most_held_bytes(self) -> int | None:
        return None

    def input_file(self, name: str) -> Path:
        from folder_paths import get_annotated_filepath

        return Path(get_annotated_filepath(name))

    def input_folders(self) -> tuple[Path, ...]:
        from folder_paths import get_input_directory

        return (Path(get_input_directory()),)

    def output_directory(self) -> Path:
        from folder_paths import get_output_directory

        return Path(get_output_directory())
