"""Stand-ins for the core nodes between pictures and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...api import io
from .images import LoadImage

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = ["red", "green", "blue", "alpha"]


class LoadImageMask(io.ComfyNode):
    """Reads a mask from a channel of a picture in the input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI; the list of files is open, `validate_inputs` looks for the file."""
        return io.Schema(
            node_id="LoadImageMask",
            display_name="Load Image (as Mask)",
            category="mask",
            inputs=[
                io.Combo.Input("image", options=[], upload=io.UploadType.image),
                io.Combo.Input("channel", options=["alpha", "red", "green", "blue"]),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        """As Load Image."""
        return LoadImage.validate_inputs(image)

    @classmethod
    def fingerprint_inputs(cls, image: str, channel: str) -> list[Any]:
        """Changes when the file does."""
        return LoadImage.fingerprint_inputs(image)

    @classmethod
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        """For "alpha" the mask of Load Image, 1 where the picture is transparent; else the colour's values."""
        pictures, transparent = LoadImage.execute(image).args
        return io.NodeOutput(transparent if channel == "alpha" else pictures[..., CHANNELS.index(channel)])


class ImageToMask(io.ComfyNode):
    """Takes a channel of pictures as a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="ImageToMask",
            display_name="Convert Image to Mask",
            category="mask",
            inputs=[io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, channel: str) -> io.NodeOutput:
        """image: [frames, height, width, channels], 0..1; "alpha" needs four channels."""
        if CHANNELS.index(channel) >= image.shape[-1]:
            raise ValueError(
                f"the pictures have {image.shape[-1]} channels, so there is no '{channel}'; it takes 4. "
                f"Choose red, green or blue, or take the mask output of Load Image."
            )
        return io.NodeOutput(image[..., CHANNELS.index(channel)])


class InvertMask(io.ComfyNode):
    """Turns a mask around."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """As in ComfyUI."""
        return io.Schema(
            node_id="InvertMask",
            display_name="Invert Mask",
            category="mask",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        """mask: [frames, height, width], 0..1."""
        return io.NodeOutput(1.0 - mask)


MASK_NODES = (LoadImageMask, ImageToMask, InvertMask)
