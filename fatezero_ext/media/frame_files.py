"""Reads files of pictures: still ones and animations."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import VideoError

if TYPE_CHECKING:
    from torch import Tensor

PICTURE_ENDINGS = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .ppm .pgm".split())
ANIMATION_ENDINGS = PICTURE_ENDINGS | {".gif", ".apng"}
"""Endings of files that Pillow reads; all but the last two are usually still pictures."""
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""Pillow's names of the formats that are opened, whatever a file is called."""
TIMED_FORMATS = ("PNG", "WEBP", "GIF")
"""Formats whose pictures follow each other in time; others hold pages."""
BROKEN_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors that Pillow raises for a damaged file, depending on the format."""
WHITE_16_BIT = 65535
MOST_PIXELS = 2**29
"""Most pixels of all pictures of a file together, 6.4 GB as floats; a small file may claim any number."""
STILL_MS, UNTIMED_MS = 10, 100
"""Milliseconds; as browsers do, a picture with a time of 10 or less is shown for 100."""
NO_MASK = (64, 64)
"""Height and width of the black mask that ComfyUI gives for a picture without transparency, whatever its size."""


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """Open a file of pictures; errors inside the block name the file.

    Raises VideoError where the file is damaged, of another kind, or claims more pixels than Pillow decodes.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as opened:
            yield opened
    except VideoError:
        raise
    except BROKEN_PICTURE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of another kind" if unknown else str(error) or type(error).__name__
        raise VideoError(
            f"{path} is not a readable picture ({reason}); PNG, JPEG, WebP, BMP, TIFF, PPM or GIF is needed. Replace "
            f"the file or take it out."
        ) from error


def picture_count(path: Path) -> int:
    """Count the pictures of a file; an MPO file of a camera counts as one, as its others are views of the first."""
    with opened_picture(path) as opened:
        return _count(opened)


def _count(opened: Image.Image) -> int:
    return 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)


def read_picture(path: Path) -> Tensor:
    """Read a picture, [height, width, 3], float32, 0..1, turned upright; transparency is dropped.

    Raises VideoError where the file cannot be read or holds several.
    """
    with opened_picture(path) as opened:
        if (count := _count(opened)) > 1:
            raise ValueError(f"it holds {count} pictures, where one is expected")
        return _as_tensor(ImageOps.exif_transpose(opened))


def read_pictures(path: Path) -> tuple[Tensor, Tensor]:
    """Read all pictures of a file with their masks of transparency, as ComfyUI's Load Image does.

    Returns pictures [count, height, width, 3] and masks [count, height, width], 1 where they are transparent; masks of
    a file without transparency are empty and [count, 64, 64]. Pictures of another size than the first are left out.
    Raises VideoError where the file cannot be read or is too large.
    """
    import torch

    pictures: list[Tensor] = []
    masks: list[Tensor | None] = []
    with opened_picture(path) as opened:
        _check_size(path, opened)
        for index in range(_count(opened)):
            opened.seek(index)
            picture = ImageOps.exif_transpose(opened)
            colours = _as_tensor(picture)
            if pictures and colours.shape != pictures[0].shape:
                continue
            pictures.append(colours)
            masks.append(_transparency(picture))
    if all(mask is None for mask in masks):
        return torch.stack(pictures), torch.zeros(len(pictures), *NO_MASK)
    opaque = torch.zeros(pictures[0].shape[:2])
    return torch.stack(pictures), torch.stack([opaque if mask is None else mask for mask in masks])


def _check_size(path: Path, opened: Image.Image) -> None:
    """Raise VideoError where all pictures of a file together would fill the memory."""
    pixels = _count(opened) * opened.width * opened.height
    if pixels > MOST_PIXELS:
        raise VideoError(
            f"{path} holds {_count(opened)} pictures of {opened.width}x{opened.height}, {pixels} pixels together; at "
            f"most {MOST_PIXELS} are read at once. Take a part with Load Frames, or make them smaller."
        )


def check_picture(path: Path) -> None:
    """Read a file's first picture and the number of all; raises VideoError as `read_pictures` does."""
    with opened_picture(path) as opened:
        _check_size(path, opened)
        opened.load()


def animation(path: Path, taken: range) -> Iterator[tuple[Tensor | None, Fraction]]:
    """Read the pictures of a file in turn, from the first to the last that is taken.

    taken: indices among those that `picture_count` counts
    Yields each as [height, width, 3], float32, 0..1, or None where it is not taken, and its time in milliseconds (0:
    the file has no times).
    Raises VideoError where the file cannot be read.
    """
    with opened_picture(path) as opened:
        for index in range(taken.start, taken[-1] + 1):
            opened.seek(index)
            opened.load()  # WebP has a picture's time only then
            yield (_as_tensor(ImageOps.exif_transpose(opened)) if index in taken else None), _milliseconds(opened)


def _milliseconds(opened: Image.Image) -> Fraction:
    if opened.format not in TIMED_FORMATS:
        return Fraction(0)
    lasting = Fraction(opened.info.get("duration", 0)).limit_denominator(1000)
    return lasting if lasting > STILL_MS else Fraction(UNTIMED_MS)


def _transparency(picture: Image.Image) -> Tensor | None:
    """Transparency of a picture, [height, width], 0..1; None if it has no such data."""
    if not picture.has_transparency_data:
        return None
    import torch

    return 1 - torch.from_numpy(np.array(picture.convert("RGBA").getchannel("A"))).float() / 255


def _as_tensor(picture: Image.Image) -> Tensor:
    import torch

    if picture.mode == "F":
        raise ValueError("its values are floating-point numbers without a known range")
    if picture.mode.startswith("I"):  # Pillow's own conversion cuts 16-bit values off at 255
        grey = torch.from_numpy(np.array(picture).astype(np.float32)).div_(WHITE_16_BIT).clamp_(0, 1)
        return grey[..., None].expand(-1, -1, 3)
    return torch.from_numpy(np.array(picture.convert("RGB"))).float().div_(255)
