"""Stand-ins for the core nodes between pictures, words and latents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ....fatezero_ext.media.made_once import MadeOnce
from ....fatezero_ext.media.streamed import PART, StreamedFrames
from ...api import io
from ...clips.held import held
from .core_node import CoreNode

if TYPE_CHECKING:
    from torch import Tensor


class CLIPTextEncode(CoreNode):
    """Encodes a prompt."""

    CORE_SCHEMA = io.Schema(
        "CLIPTextEncode",
        "CLIP Text Encode (Prompt)",
        "conditioning",
        [
            io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
            io.Clip.Input("clip", tooltip="The text encoder."),
        ],
        [io.Conditioning.Output()],
    )

    @classmethod
    def execute(cls, text: str, clip: Any) -> io.NodeOutput:  # noqa: ANN401 - any object with ComfyUI's CLIP methods
        """Tokenize and encode."""
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class VAEEncode(CoreNode):
    """Encodes pictures into latents."""

    TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "VAEEncode", "VAE Encode", "latent", [io.Image.Input("pixels"), io.Vae.Input("vae")], [io.Latent.Output()]
    )

    @classmethod
    def execute(
        cls,
        pixels: Tensor | StreamedFrames,
        vae: Any,  # noqa: ANN401 - any object with ComfyUI's VAE methods
    ) -> io.NodeOutput:
        """pixels: [frames, height, width, channels], 0..1, of which the first three channels count."""
        import torch

        if isinstance(pixels, StreamedFrames):
            return io.NodeOutput({"samples": torch.cat([vae.encode(part[..., :3]) for part in pixels.parts()])})
        return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})


class VAEDecode(CoreNode):
    """Decodes latents into pictures."""

    CORE_SCHEMA = io.Schema(
        "VAEDecode",
        "VAE Decode",
        "latent",
        [io.Latent.Input("samples", tooltip="The latents."), io.Vae.Input("vae", tooltip="The decoder.")],
        [io.Image.Output()],
    )

    @classmethod
    def execute(cls, samples: dict[str, Tensor], vae: Any) -> io.NodeOutput:  # noqa: ANN401 - as in VAEEncode
        """samples: {"samples": [frames, channels, height, width]}."""
        latents = samples["samples"]
        if isinstance(cell := getattr(vae, "pixels_per_cell", None), int) and latents.ndim == 4 and len(latents) > PART:
            height, width = latents.shape[-2:]
            decoded = MadeOnce([partial(vae.decode, part) for part in latents.split(PART)])
            shape = (len(latents), height * cell, width * cell, 3)
            return io.NodeOutput(held(StreamedFrames(shape, decoded.__iter__, decoded.part)))
        images = vae.decode(latents)
        return io.NodeOutput(images.reshape(-1, *images.shape[-3:]))
