"""KeepSourcePixels: the source's own pixels wherever an edit was to change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING

from ...fatezero_ext.media.streamed import StreamedFrames, parts_of, whole
from .. import host
from ..api import io, schema
from ..first_use import importing
from .clip_remarks import plain_mask
from .held import is_streamed

if TYPE_CHECKING:
    from torch import Tensor

MOST_PIXELS = 1024
CELL_OF_STABLE_DIFFUSION = 8


class KeepSourcePixels(io.ComfyNode):
    """Put the source's own pixels back outside a mask, so that what the edit was to leave alone stays exactly."""

    TAKES_STREAMED_FRAMES = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="FateZero_KeepSourcePixels",
            display_name="Keep Source Pixels",
            category="FateZero/clips",
            description=cls.__doc__,
            search_aliases=["composite", "paste back", "restore background", "stitch", "blend mask"],
            inputs=[
                io.Image.Input("images", tooltip="The edited frames, from VAE Decode."),
                io.Image.Input("source", tooltip="The same frames before the edit, as they went into VAE Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the edit stays: last_mask of Prompt-to-Prompt Edit, or one of your own (one "
                    "for all frames or one each).",
                ),
                _pixels_widget(
                    "grow",
                    0,
                    "Pixels by which the mask is grown to all sides. 0 for a last_mask made from words, which is grown "
                    "already, by a cell of the maps it comes from.",
                ),
                _pixels_widget(
                    "feather",
                    CELL_OF_STABLE_DIFFUSION,
                    "Pixels over which edit and source fade into each other, half of them on either side of the "
                    "mask's edge. A latent cell: 8 for Stable Diffusion, 4 for the built-in model. 0: a hard edge.",
                ),
                io.Boolean.Input("enabled", default=True, tooltip="Off: the edited frames go through unchanged."),
            ],
            outputs=[io.Image.Output(tooltip="The edited frames, with the source's pixels outside the mask.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor | StreamedFrames,
        source: Tensor | StreamedFrames,
        mask: Tensor | StreamedFrames,
        grow: int,
        feather: int,
        enabled: bool = True,
    ) -> io.NodeOutput:
        with importing():
            import torch

            from ...fatezero_ext.editing.source_pixels import keep_source_pixels

        if not enabled:
            return io.NodeOutput(images)

        def put_back(edited: Tensor, before: Tensor, inside: Tensor) -> Tensor:
            return keep_source_pixels(edited[..., :3], before[..., :3], inside, grow=grow, feather=feather)

        # Those that do not fit each other are made whole, and refused in the usual words.
        if is_streamed(images, source, mask) and _fit(images, source, mask):

            def pieces() -> Iterator[Tensor]:
                masks = parts_of(mask) if len(mask) > 1 else repeat(whole(mask))
                for given in zip(parts_of(images), parts_of(source), masks, strict=False):
                    yield put_back(*given)

            # Sizes and numbers are refused here, not by the node that uses the pieces.
            put_back(*(torch.zeros(1, *given.shape[1:]) for given in (images, source, mask)))
            kept: Tensor | StreamedFrames = StreamedFrames((*images.shape[:3], 3), pieces)
        else:
            kept = put_back(*map(whole, (images, source, mask)))
        host.tell([plain_mask(parts_of(mask))], (), cls.hidden.unique_id)
        return io.NodeOutput(kept)


def _pixels_widget(name: str, default: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=default, min=0, max=MOST_PIXELS, tooltip=tooltip)


def _fit(images: Tensor | StreamedFrames, source: Tensor | StreamedFrames, mask: Tensor | StreamedFrames) -> bool:
    return len(images) == len(source) and len(mask.shape) == 3 and len(mask) in (1, len(images))
