"""Video files and contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .errors import VideoError
from .files import whole_file
from .sound import SoundTrack

if TYPE_CHECKING:
    from torch import Tensor

REPEATABLE = {"x264-params": "mbtree=0"}  # with the macroblock tree one file in a hundred differed, by up to 21 levels
CRF = 17
"""x264's quality setting; 17 is what its authors call visually lossless, 0 to 51 is its range."""
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,ogg,asf,yuv4mpegpipe,"
    "ivf,mxf,dv,nut,rm,wav,mp3,aac,flac"
)
"""FFmpeg's names of files that hold all they play; playlists, which name other files, are not opened."""
BT601, STUDIO_RANGE = 6, 1
"""FFmpeg's numbers for the colour matrix and range it converts RGB with, written to the file for players."""


Kept = TypeVar("Kept")


class Video(NamedTuple):
    """A decoded video.

    frames: [frames, height, width, 3], float32, 0..1
    fps:    frames per second
    """

    frames: Tensor
    fps: Fraction


def read_video(
    path: Path | str,
    *,
    start: int = 0,
    count: int | None = None,
    stride: int = 1,
    fit: Callable[[Tensor], Tensor] | None = None,
) -> Video:
    """Decode `count` frames (None: all there are) from frame `start` on, every `stride`-th.

    fit: given each frame as [1, height, width, 3], 0..1, makes what is kept of it; None: all of it

    The rate is divided by `stride`; frames are turned upright where the file says so.
    Raises VideoError where the file is not a readable video, is cut off, or has fewer frames than asked for.
    """
    import torch

    def kept(picture: NDArray[np.uint8]) -> NDArray[np.uint8] | Tensor:
        return picture if fit is None else fit(_as_floats(picture[None]))

    # As bytes, or fitted, while they come: a long clip at full size would fill the memory.
    pictures, rate = _pictures(Path(path), start, count, stride, kept)
    frames = _as_floats(np.stack(pictures)) if fit is None else torch.cat(pictures)
    return Video(frames, rate / stride)


def check_video(path: Path | str) -> None:
    """Raise VideoError where `read_video` could not read the first frame; nothing else is decoded."""
    _pictures(Path(path), 0, 1, 1, lambda picture: None)


def _pictures(
    path: Path, start: int, count: int | None, stride: int, kept: Callable[[NDArray[np.uint8]], Kept]
) -> tuple[list[Kept], Fraction]:
    """What is kept of each frame that `read_video` selects, given as [height, width, 3], and the video's own rate."""
    if start < 0 or stride < 1 or count is not None and count < 1:
        raise VideoError(
            f"start {start}, count {count}, stride {stride} select no frames of {path.name}; needed are start >= 0, "
            f"count >= 1, stride >= 1. Change them."
        )
    stop = None if count is None else start + (count - 1) * stride + 1
    try:
        with av.open(str(path), container_options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise VideoError(f"{path} has no video stream; one is needed. Choose another file.")
            rate = container.streams.video[0].average_rate or container.streams.video[0].guessed_rate
            upright = (_upright(frame) for frame in islice(_decoded(container, path), start, stop, stride))
            pictures = [kept(picture) for picture in upright]
    except OSError as error:
        raise VideoError(f"cannot read the video {path}: {error.strerror or error}. Check the path.") from error
    except av.FFmpegError as error:
        raise VideoError(f"{path} is not a readable video ({error.strerror}). Choose or make another file.") from error
    _check_selection(path, len(pictures), start, count, stride)
    if not rate:
        raise VideoError(f"{path} does not say its frame rate; one is needed. Encode it again with a rate.")
    return pictures, Fraction(rate)


def _as_floats(pictures: NDArray[np.uint8]) -> Tensor:
    import torch

    return torch.from_numpy(pictures).float().div_(255)


def _decoded(container: av.container.InputContainer, path: Path) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    decoded = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(
                f"{path} is damaged or cut off after frame {decoded}; a whole file is needed. Copy it again."
            )
        try:
            for frame in packet.decode():
                yield frame
                decoded += 1
        except av.FFmpegError as error:
            raise VideoError(
                f"{path} is damaged or cut off after frame {decoded} ({error.strerror}); a whole file is needed. "
                f"Copy it again."
            ) from error


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The frame as [height, width, 3]; its rotation mark counts degrees counter-clockwise."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90)))


def _check_selection(path: Path, found: int, start: int, count: int | None, stride: int) -> None:
    if found == 0 and start == 0:
        raise VideoError(f"{path} has no frames; at least one is needed. Choose another file.")
    if found < (count or 1):
        raise VideoError(
            f"{path} has {found} frames from frame {start} on with stride {stride}, {count or 'at least 1'} needed. "
            f"Ask for fewer."
        )


def write_video(
    path: Path | str,
    frames: Tensor,
    fps: Fraction | float,
    *,
    crf: int = CRF,
    lossless: bool = False,
    repeatable: bool = True,
    sound: Path | None = None,
) -> None:
    """Save H.264 in MP4. The file appears whole or not at all.

    frames: [frames, height, width, 3], 0..1 (values outside are clipped)
    fps:    frames per second
    crf:    quality, 0 (best) to 51
    lossless: keep every 8-bit RGB value; such files play in few browsers
    repeatable: the same frames always give the same bytes; False: as ffmpeg encodes by itself, on all threads
    sound:  a video whose sound is copied, cut at the end of the frames; None for a silent file
    Even sizes are stored as yuv420p, which plays everywhere; odd ones as yuv444p, which keeps the size exactly.
    Raises VideoError where the frames are no video.
    """
    pictures = to_bytes(frames)
    rate = Fraction(fps).limit_denominator(1000)
    if rate <= 0:
        raise VideoError(f"{fps} frames per second is no rate; a positive one is needed. Change fps.")
    if not 0 <= crf <= 51:
        raise VideoError(f"crf {crf} is out of range; x264 takes 0 (best) to 51. Change crf.")
    height, width = pictures.shape[1:3]
    even = height % 2 == 0 and width % 2 == 0
    pixels = "rgb24" if lossless else "yuv420p" if even else "yuv444p"
    quality = {"qp": "0"} if lossless else {"crf": str(crf), **(REPEATABLE if repeatable else {})}
    with whole_file(Path(path)) as partial:
        _encode(partial, pictures, rate, pixels=pixels, quality=quality, threads=int(repeatable), sound=sound)


def _encode(
    path: Path,
    pictures: NDArray[np.uint8],
    rate: Fraction,
    *,
    pixels: str,
    quality: dict[str, str],
    threads: int,
    sound: Path | None,
) -> None:
    codec = "libx264rgb" if pixels == "rgb24" else "libx264"
    # Bit exactness leaves the library's version out of the file.
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=quality)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.thread_count = threads
        if pixels != "rgb24":
            context.colorspace, context.color_range = BT601, STUDIO_RANGE
        track = None if sound is None else SoundTrack(sound, container)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode(None))
        if track is not None:
            track.copy(len(pictures) / rate)


def to_bytes(frames: Tensor) -> NDArray[np.uint8]:
    """Frames as 8-bit numbers, rounded; values outside 0..1 are clipped.

    frames: [frames, height, width, 3]
    Raises VideoError where the shape is another, there are no frames, or a value is not a number.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.numel() == 0:
        raise VideoError(
            f"frames have shape {list(frames.shape)}; needed is [frames, height, width, 3] with at least one frame. "
            f"Check what is connected."
        )
    if frames.isnan().any():
        raise VideoError("frames hold values that are not numbers (NaN); needed is 0..1. Check the model's precision.")
    return frames.detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()


PAPER = (214, 214, 214)
"""Between the pictures of a sheet: grey, so that white and black ones have edges."""


def contact_sheet(rows: Sequence[Tensor], labels: Sequence[str], *, cell: int = 128, gap: int = 4) -> Image.Image:
    """Frames over time, one labelled row per video.

    rows:   each [frames, height, width, 3], 0..1; sizes and frame counts may differ
    labels: one per row
    cell:   height of a picture in pixels; small pictures are enlarged without smoothing
    gap:    pixels between pictures
    Raises VideoError where there are no rows or not one label each.
    """
    if not rows or len(rows) != len(labels):
        raise VideoError(f"{len(rows)} rows and {len(labels)} labels; needed is a label for each. Give as many.")
    strips = [_strip(to_bytes(row), cell, gap) for row in rows]
    font = ImageFont.load_default(size=max(10, cell // 8))
    margin = gap + max(round(font.getlength(label)) for label in labels) + gap
    width = margin + max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, gap + len(rows) * (cell + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        top = gap + number * (cell + gap)
        draw.text((gap, top + cell // 2), label, fill="black", font=font, anchor="lm")
        sheet.paste(strip, (margin, top))
    return sheet


def _strip(pictures: NDArray[np.uint8], cell: int, gap: int) -> Image.Image:
    """Pictures side by side, each `cell` pixels high and followed by a gap."""
    height, width = pictures.shape[1:3]
    across = max(1, round(width * cell / height))
    method = Image.Resampling.NEAREST if cell >= height else Image.Resampling.LANCZOS
    strip = Image.new("RGB", (len(pictures) * (across + gap), cell), PAPER)
    for number, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture).resize((across, cell), method), (number * (across + gap), 0))
    return strip
