"""The stand-in for the core node that saves a moving picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from ....fatezero_ext.atomic_files import whole_file
from ....fatezero_ext.media.streamed import StreamedFrames, parts_of
from ....fatezero_ext.media.video import to_bytes
from ... import host
from ...api import io
from .core_node import SavingNode
from .naming import next_free

if TYPE_CHECKING:
    from torch import Tensor

METHODS = {"default": 4, "fastest": 0, "slowest": 6}
"""Effort of the encoder, by the names of ComfyUI."""


class SaveAnimatedWEBP(SavingNode):
    """Saves pictures into the output folder as one animated WebP."""

    TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "SaveAnimatedWEBP",
        "SaveAnimatedWEBP",
        "image/animation",
        [
            io.Image.Input("images"),
            io.String.Input("filename_prefix", default="ComfyUI", tooltip="Start of the file's name."),
            io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01),
            io.Boolean.Input("lossless", default=True),
            io.Int.Input("quality", default=80, min=0, max=100),
            io.Combo.Input("method", options=list(METHODS), default="default"),
        ],
        [],
        is_output_node=True,
    )

    @classmethod
    def execute(
        cls,
        images: Tensor | StreamedFrames,
        filename_prefix: str,
        fps: float,
        lossless: bool,
        quality: int,
        method: str,
    ) -> io.NodeOutput:
        """images: [frames, height, width, 3], 0..1."""
        height, width = images.shape[1:3]
        first, *others = [Image.fromarray(picture) for part in parts_of(images) for picture in to_bytes(part, "floor")]
        path = next_free(host.current().output_directory(), filename_prefix, "webp", width=width, height=height)
        with whole_file(path) as partial:
            first.save(
                partial,
                format="WEBP",
                save_all=True,
                append_images=others,
                duration=int(1000 / fps),
                lossless=lossless,
                quality=quality,
                method=METHODS[method],
            )
        return io.NodeOutput(ui={"saved": (str(path),)})
