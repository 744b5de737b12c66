"""LoadLoRA: a LoRA on top of a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...fatezero_ext.errors import ModelError
from .. import host
from ..api import io, schema
from ..file_stamps import file_stamp
from ..first_use import importing
from ..sockets import UNET

if TYPE_CHECKING:
    from ...fatezero_ext.models.text_encoder import ClipTextEncoder
    from ...fatezero_ext.models.unet.model import Pseudo3DUNet

NO_LORA = "none"


class LoadLoRA(io.ComfyNode):
    """Apply a LoRA to a model from Load Stable Diffusion for Video; several are stacked one behind the
    other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_LoadLoRA",
            display_name="Load LoRA (FateZero)",
            category="FateZero",
            description=cls.__doc__,
            search_aliases=["lora loader"],
            inputs=[
                UNET.Input(
                    "unet", tooltip="From Load Stable Diffusion for Video, or another Load LoRA. It is not changed."
                ),
                io.Combo.Input(
                    "lora_name",
                    options=[NO_LORA, *sorted(lora_files())],
                    default=NO_LORA,
                    tooltip="A LoRA file for Stable Diffusion 1.x or 2.x in models/loras, as kohya's trainer, "
                    "diffusers, PEFT or ComfyUI write it. none: the model goes through as it is.",
                ),
                _strength("strength_unet", "UNet"),
                _strength("strength_text", "text encoder"),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="From Load Stable Diffusion for Video. Left open: the text encoder stays without the LoRA.",
                ),
            ],
            outputs=[
                UNET.Output(display_name="unet", tooltip="For Register Attention Control."),
                io.Clip.Output(tooltip="The text encoder, for DDIM Inversion and Prompt-to-Prompt Edit."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_inputs: Any) -> str:  # noqa: ANN401 - the other inputs
        """Return what changes when the file does."""
        if lora_name == NO_LORA:
            return NO_LORA
        return str(file_stamp(_file(lora_name)))

    @classmethod
    def execute(
        cls,
        unet: Pseudo3DUNet,
        lora_name: str,
        strength_unet: float,
        strength_text: float,
        clip: ClipTextEncoder | None = None,
    ) -> io.NodeOutput:
        if lora_name == NO_LORA:
            return io.NodeOutput(unet, clip)
        with importing():
            from ...fatezero_ext.models.lora.apply import apply_lora

        _check_own(clip)
        left_out: list[str] = []
        patched_unet, patched_clip = apply_lora(
            unet, clip, _file(lora_name), unet_strength=strength_unet, text_strength=strength_text, say=left_out.append
        )
        host.tell(left_out, (), cls.hidden.unique_id)
        if patched_unet is not unet:
            patched_unet.load_to_device = host.current().residence(patched_unet.net, "unet")
        if patched_clip is not None and patched_clip is not clip:
            patched_clip.load_to_device = host.current().residence(patched_clip.net, "text encoder")
        return io.NodeOutput(patched_unet, patched_clip)


def _strength(name: str, part: str) -> io.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.01,
        tooltip=f"How strongly the {part} follows the LoRA. 1: as trained. 0: not at all. Negative: away from it.",
    )


def _check_own(clip: object) -> None:
    with importing():
        from ...fatezero_ext.models.text_encoder import ClipTextEncoder

    if clip is not None and not isinstance(clip, ClipTextEncoder):
        raise ModelError(
            f"the clip is ComfyUI's own ({type(clip).__name__}); that of Load Stable Diffusion for Video is needed. "
            f"Leave clip unconnected here, and put this LoRA on ComfyUI's clip with the core node Load LoRA."
        )


def _file(name: str) -> Path:
    files = lora_files()
    if name not in files:
        raise ModelError(
            f"{name!r} is no LoRA file below models/loras; there are {len(files)}. Choose one of the list, or put the "
            f"file there and refresh."
        )
    return files[name]


def lora_files() -> dict[str, Path]:
    """Return LoRA files by the names that users choose from; none is opened."""
    program = host.current()
    files = {name: program.model_file("loras", name) for name in program.model_names("loras")}
    return {name: path for name, path in files.items() if path is not None}
