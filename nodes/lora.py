"""LoadLoRA: a LoRA's changes on the UNet and the text encoder of Load Pseudo-3D UNet."""

from __future__ import annotations

from typing import Any

from ..fatezero_ext.errors import FateZeroError, SettingsError
from ..fatezero_ext.lora import apply_lora
from ..fatezero_ext.text import TextEncoder
from ..fatezero_ext.unet import Pseudo3DUNet
from . import host
from .api import io, schema
from .load import UNET
from .models import lora_path, stamps


class LoadLoRA(io.ComfyNode):
    """Put a LoRA on a pseudo-3D UNet and its CLIP. Several can follow each other; the model before stays as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = host.model_names("loras")
        return schema(
            node_id="FateZero_LoadLoRA",
            display_name="Load LoRA (Pseudo-3D UNet)",
            category="FateZero",
            description=cls.__doc__,
            inputs=[
                UNET.Input("unet", tooltip="From Load Pseudo-3D UNet. (A MODEL takes ComfyUI's own Load LoRA.)"),
                io.Combo.Input(
                    "lora_name",
                    options=names,
                    default=next(iter(names), ""),
                    tooltip="A LoRA for the model's own version of Stable Diffusion, in models/loras: of kohya's or "
                    "diffusers' format.",
                ),
                _strength("strength_unet", "How much the LoRA changes the UNet. 0: not at all; may be negative."),
                _strength("strength_text", "How much it changes the text encoder."),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the same Load Pseudo-3D UNet."),
            ],
            outputs=[UNET.Output(display_name="unet"), io.Clip.Output()],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str | None = None) -> bool | str:
        try:
            if lora_name is not None:
                lora_path(lora_name)
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_widgets: Any) -> str:  # noqa: ANN401 - the other widgets
        """Changes when the file does."""
        return stamps(lora_path(lora_name))

    @classmethod
    def execute(
        cls,
        unet: Pseudo3DUNet,
        lora_name: str,
        strength_unet: float,
        strength_text: float,
        clip: TextEncoder | None = None,
    ) -> io.NodeOutput:
        if clip is not None and not isinstance(clip, TextEncoder):
            raise SettingsError(
                f"a CLIP of kind {type(clip).__name__} came; the one of Load Pseudo-3D UNet is needed. Put ComfyUI's "
                f"own Load LoRA on that CLIP, and leave clip unconnected here."
            )
        changed, text = apply_lora(
            unet, clip, lora_path(lora_name), unet_strength=strength_unet, text_strength=strength_text
        )
        for part in (changed, text):
            if part is not None:
                part.prepare = host.residence(part.net)
        return io.NodeOutput(changed, text)


def _strength(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=1.0, min=-10.0, max=10.0, step=0.01, tooltip=tooltip)
