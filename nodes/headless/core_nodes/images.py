"""Stand-ins for the core nodes that read, write and reshape pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ....fatezero_ext.atomic_files import whole_file
from ....fatezero_ext.errors import FateZeroError
from ....fatezero_ext.media.clip import FileFrames
from ....fatezero_ext.media.frame_files import check_picture, read_pictures
from ....fatezero_ext.media.framing import LONGEST_SIDE
from ....fatezero_ext.media.streamed import StreamedFrames, parts_of
from ....fatezero_ext.media.video import to_bytes
from ... import host
from ...api import io
from ...file_stamps import file_stamp
from .core_node import CoreNode, SavingNode
from .naming import next_free

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
PILLOW_METHODS = {"lanczos": Image.Resampling.LANCZOS}


class LoadImage(CoreNode):
    """Reads the pictures of a file in the input folder, and masks that are 1 where these are transparent."""

    CORE_SCHEMA = io.Schema(
        "LoadImage",
        "Load Image",
        "image",
        [io.Combo.Input("image", options=[], upload=io.UploadType.image)],
        [io.Image.Output(), io.Mask.Output()],
    )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        """Check before anything runs that the file is there and its first picture can be read."""
        try:
            check_picture(host.current().input_file(image))
        except FateZeroError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image: str) -> list[str | int]:
        """Return what changes when the file does."""
        return file_stamp(host.current().input_file(image))

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        """Decode all pictures."""
        return io.NodeOutput(*read_pictures(host.current().input_file(image)))


class SaveImage(SavingNode):
    """Saves pictures into the output folder, one PNG file each."""

    TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "SaveImage",
        "Save Image",
        "image",
        [
            io.Image.Input("images", tooltip="The pictures to save."),
            io.String.Input("filename_prefix", default="ComfyUI", tooltip="Start of the files' names."),
        ],
        [io.Image.Output()],
        is_output_node=True,
    )

    @classmethod
    def execute(cls, images: Tensor | StreamedFrames, filename_prefix: str) -> io.NodeOutput:
        """images: [frames, height, width, 3], 0..1."""
        height, width = images.shape[1:3]
        saved = []
        # ComfyUI cuts levels off, where others round.
        for picture in (picture for part in parts_of(images) for picture in to_bytes(part, "floor")):
            path = next_free(host.current().output_directory(), filename_prefix, "png", width=width, height=height)
            with whole_file(path) as partial:
                Image.fromarray(picture).save(partial, format="PNG")
            saved.append(str(path))
        return io.NodeOutput(images, ui={"saved": tuple(saved)})


class MaskToImage(CoreNode):
    """Shows a mask as grey pictures."""

    CORE_SCHEMA = io.Schema(
        "MaskToImage", "Convert Mask to Image", "mask", [io.Mask.Input("mask")], [io.Image.Output()]
    )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        """mask: [frames, height, width] or [height, width], 0..1."""
        return io.NodeOutput(mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3))


class RepeatImageBatch(CoreNode):
    """Repeats a batch of pictures."""

    CORE_SCHEMA = io.Schema(
        "RepeatImageBatch",
        "RepeatImageBatch",
        "image/batch",
        [io.Image.Input("image"), io.Int.Input("amount", default=1, min=1, max=4096)],
        [io.Image.Output()],
    )

    @classmethod
    def execute(cls, image: Tensor, amount: int) -> io.NodeOutput:
        """image: [frames, height, width, channels]."""
        return io.NodeOutput(image.repeat(amount, 1, 1, 1))


class ImageFromBatch(CoreNode):
    """Takes some pictures out of a batch."""

    TAKES_FILE_FRAMES = TAKES_STREAMED_FRAMES = True

    CORE_SCHEMA = io.Schema(
        "ImageFromBatch",
        "ImageFromBatch",
        "image/batch",
        [
            io.Image.Input("image"),
            io.Int.Input("batch_index", default=0, min=0, max=4095),
            io.Int.Input("length", default=1, min=1, max=4096),
        ],
        [io.Image.Output()],
    )

    @classmethod
    def execute(cls, image: Tensor | FileFrames | StreamedFrames, batch_index: int, length: int) -> io.NodeOutput:
        """Take at most `length` pictures from `batch_index` on, and at least the last one."""
        if isinstance(image, (FileFrames, StreamedFrames)):
            return io.NodeOutput(image.part(batch_index, length))
        first = min(batch_index, image.shape[0] - 1)
        return io.NodeOutput(image[first : first + length].clone())


class ImageBatch(CoreNode):
    """Joins two batches of pictures; the second is scaled to the first one's size."""

    CORE_SCHEMA = io.Schema(
        "ImageBatch", "Batch Images", "image", [io.Image.Input("image1"), io.Image.Input("image2")], [io.Image.Output()]
    )

    @classmethod
    def execute(cls, image1: Tensor, image2: Tensor) -> io.NodeOutput:
        """image1, image2: [frames, height, width, channels]."""
        import torch

        height, width = image1.shape[1:3]
        return io.NodeOutput(torch.cat([image1, scaled(image2, width, height, "bilinear", crop=True)]))


class ImageScale(CoreNode):
    """Scales pictures."""

    CORE_SCHEMA = io.Schema(
        "ImageScale",
        "Upscale Image",
        "image/upscaling",
        [
            io.Image.Input("image"),
            io.Combo.Input("upscale_method", options=METHODS),
            io.Int.Input("width", default=512, min=0, max=LONGEST_SIDE, step=1),
            io.Int.Input("height", default=512, min=0, max=LONGEST_SIDE, step=1),
            io.Combo.Input("crop", options=["disabled", "center"]),
        ],
        [io.Image.Output()],
    )

    @classmethod
    def execute(cls, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> io.NodeOutput:
        """Scale; a width or height of 0 follows from the other, and both 0 leave the size."""
        rows, columns = image.shape[1:3]
        wide = width or (max(1, round(columns * height / rows)) if height else columns)
        high = height or (max(1, round(rows * width / columns)) if width else rows)
        return io.NodeOutput(scaled(image, wide, high, upscale_method, crop=crop == "center"))


def scaled(image: Tensor, width: int, height: int, method: str, *, crop: bool) -> Tensor:
    """Scale pictures to the given size.

    image: [frames, rows, columns, channels]
    crop:  cut the longer side at its centre first, so that shapes keep their proportions
    """
    import torch

    if crop:
        image = _cropped(image, width / height)
    if image.shape[1:3] == (height, width):
        return image
    if method in PILLOW_METHODS:
        pictures = [
            Image.fromarray(picture).resize((width, height), PILLOW_METHODS[method]) for picture in to_bytes(image)
        ]
        return torch.stack([torch.from_numpy(np.array(picture)).float() / 255 for picture in pictures])
    return torch.nn.functional.interpolate(image.movedim(-1, 1), size=(height, width), mode=method).movedim(1, -1)


def _cropped(image: Tensor, aspect: float) -> Tensor:
    rows, columns = image.shape[1:3]
    across = round((columns - rows * aspect) / 2) if columns / rows > aspect else 0
    down = round((rows - columns / aspect) / 2) if columns / rows < aspect else 0
    return image[:, down : rows - down, across : columns - across]
