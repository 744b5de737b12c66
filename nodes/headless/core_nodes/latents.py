"""Stand-ins for the core nodes between pictures, words and latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...api import io

if TYPE_CHECKING:
    from torch import Tensor


class CLIPTextEncode(io.ComfyNode):
    """Encodes a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            inputs=[
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.Clip.Input("clip", tooltip="The text encoder."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> io.NodeOutput:  # noqa: ANN401 - any object with ComfyUI's CLIP methods
        """Tokenize and encode."""
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class VAEEncode(io.ComfyNode):
    """Encodes pictures into latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            inputs=[io.Image.Input("pixels"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any) -> io.NodeOutput:  # noqa: ANN401 - any object with ComfyUI's VAE methods
        """pixels: [frames, height, width, channels], 0..1, of which the first three channels count."""
        return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})


class VAEDecode(io.ComfyNode):
    """Decodes latents into pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            inputs=[io.Latent.Input("samples", tooltip="The latents."), io.Vae.Input("vae", tooltip="The decoder.")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, samples: dict[str, Tensor], vae: Any) -> io.NodeOutput:  # noqa: ANN401 - as in VAEEncode
        """samples: {"samples": [frames, channels, height, width]}."""
        images = vae.decode(samples["samples"])
        return io.NodeOutput(images.reshape(-1, *images.shape[-3:]))
