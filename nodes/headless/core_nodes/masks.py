"""Stand-ins for the core nodes between pictures and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...api import io
from .core_node import CoreNode
from .images import LoadImage

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = ["red", "green", "blue", "alpha"]


class LoadImageMask(CoreNode):
    """Reads a mask from a channel of a picture in the input folder."""

    CORE_SCHEMA = io.Schema(
        "LoadImageMask",
        "Load Image (as Mask)",
        "mask",
        [
            io.Combo.Input("image", options=[], upload=io.UploadType.image),
            io.Combo.Input("channel", options=["alpha", "red", "green", "blue"]),
        ],
        [io.Mask.Output()],
    )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        """Check the file as Load Image does."""
        return LoadImage.validate_inputs(image)

    @classmethod
    def fingerprint_inputs(cls, image: str, channel: str) -> list[str | int]:
        """Return what changes when the file does."""
        return LoadImage.fingerprint_inputs(image)

    @classmethod
    def execute(cls, image: str, channel: str) -> io.NodeOutput:
        """Return the colour's values, or for "alpha" Load Image's mask, which is 1 where the picture is transparent."""
        pictures, transparent = LoadImage.execute(image).args
        return io.NodeOutput(transparent if channel == "alpha" else pictures[..., CHANNELS.index(channel)])


class ImageToMask(CoreNode):
    """Takes a channel of pictures as a mask."""

    CORE_SCHEMA = io.Schema(
        "ImageToMask",
        "Convert Image to Mask",
        "mask",
        [io.Image.Input("image"), io.Combo.Input("channel", options=CHANNELS)],
        [io.Mask.Output()],
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


class InvertMask(CoreNode):
    """Turns a mask around."""

    CORE_SCHEMA = io.Schema("InvertMask", "Invert Mask", "mask", [io.Mask.Input("mask")], [io.Mask.Output()])

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        """mask: [frames, height, width], 0..1."""
        return io.NodeOutput(1.0 - mask)


MASK_NODES = (LoadImageMask, ImageToMask, InvertMask)
