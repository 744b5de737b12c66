"""Reads and writes video files."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

from ..atomic_files import whole_file
from ..errors import VideoError, as_path, described, is_whole
from ..printable import format_bytes
from .audio import Sound, SoundFile, Track, tracks
from .frame_checks import check_frames
from .framing import LONGEST_SIDE
from .media_file import BROKEN_MEDIA, opened_media
from .pixels import as_floats, stacked
from .streamed import FLOAT_BYTES, StreamedFrames, parts_of

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

REPEATABLE = {"x264-params": "mbtree=0"}  # with the macroblock tree one file in a hundred differed, by up to 21 levels
CRF, WORST_CRF = 17, 51
"""x264's quality setting; 17 is what its authors call visually lossless, 0 to 51 is its range."""
SLOWEST, FASTEST = Fraction(1, 1001), 2**31 - 1
"""Bounds of frames per second. Rates of broadcasts are fractions of 1001, such as 30000/1001; FFmpeg's have 32 bits."""
BT601, STUDIO_RANGE = 6, 1
"""FFmpeg's numbers for the colour matrix and range it converts RGB with, written to the file for players."""

Rounding = Literal["round", "floor"]
"""Conversion of values to 8-bit numbers; ComfyUI rounds down ("floor")."""
Frame = TypeVar("Frame")


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
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Video:
    """Decode `count` frames (None: all there are) from frame `start` on, every `stride`-th.

    transform: applied to each frame, [1, height, width, 3], 0..1, as soon as it is decoded

    The rate is divided by `stride`; frames are turned and mirrored where the file says so.
    Raises VideoError where the file is not a readable video, is cut off, has fewer frames than asked for, or takes more
    than the free memory, and for numbers that select no frames.
    """
    import torch

    path = as_path(path, VideoError)
    counted = memory_counter(path)
    # As bytes, or transformed, while they come: a long clip at full size would fill the memory.
    if transform is None:
        pictures, rate = selected_pictures(
            path, start, count, stride, lambda picture: counted(picture, picture.nbytes * FLOAT_BYTES)
        )
        return Video(stacked(pictures), rate / stride)

    def transformed(picture: NDArray[np.uint8]) -> Tensor:
        frame = transform(as_floats(picture[None]))
        return counted(frame, frame.nbytes * 2)  # it is there twice while the frames become one clip

    frames, rate = selected_pictures(path, start, count, stride, transformed)
    return Video(torch.cat(frames), rate / stride)


def memory_counter(path: Path) -> Callable[[Frame, int], Frame]:
    """Return what counts the bytes of each frame that is kept, and gives the frame back.

    It raises VideoError once they are more than was free at this call; path: that of the frames, for the error.
    """
    from ..memory.free_memory import free_ram

    free, held = free_ram(), 0

    def counted(frame: Frame, nbytes: int) -> Frame:
        nonlocal held
        held += nbytes
        if held > free:
            raise VideoError(
                f"{path} takes more than the free memory, {format_bytes(free)}, at the size asked for; fewer or "
                f"smaller frames are needed. Take a part of it or scale it: with Prepare Frames, or with count or "
                f"transform."
            )
        return frame

    return counted


def video_rate(path: Path | str) -> Fraction:
    """A video's frames per second. Decodes one frame, and raises what `read_video` does."""
    _, rate = selected_pictures(as_path(path, VideoError), 0, 1, 1, lambda picture: None)
    return rate


def frames_said(path: Path) -> int:
    """Return the number of frames that a video file says it shows; 0 if it says none."""
    with opened_media(path) as container:
        if not container.streams.video:
            return 0
        stream = container.streams.video[0]
        if stream.duration is None or stream.time_base is None or stream.average_rate is None:
            return stream.frames
        # A clip cut without encoding it again holds frames that its edit list hides: its duration leaves them out.
        return min(stream.frames, round(stream.duration * stream.time_base * stream.average_rate))


def selected_pictures(
    path: Path, start: int, count: int | None, stride: int, transform: Callable[[NDArray[np.uint8]], Frame]
) -> tuple[list[Frame], Fraction]:
    """Results of `transform` for each frame [height, width, 3] that `read_video` selects, and the video's own rate."""
    if not (is_whole(start, 0) and is_whole(stride, 1) and (count is None or is_whole(count, 1))):
        raise VideoError(
            f"start {start!r}, count {count!r}, stride {stride!r} select no frames of {path.name}; whole numbers are "
            f"needed, start >= 0, count >= 1, stride >= 1. Change them."
        )
    stop = None if count is None else start + (count - 1) * stride + 1
    frames: list[Frame] = []
    rate: Fraction | None = None
    for picture, rate in pictures_of(path, start, stop, stride):  # noqa: B007 - read after the loop
        frames.append(transform(picture))
    _check_selection(path, len(frames), start, count, stride)
    if not rate:
        raise VideoError(f"{path} does not say its frame rate; one is needed. Encode it again with a rate.")
    return frames, Fraction(rate)


def pictures_of(
    path: Path, start: int, stop: int | None, stride: int
) -> Iterator[tuple[NDArray[np.uint8], Fraction | None]]:
    """Decode every `stride`-th picture of a video from `start` to before `stop`, upright, with the file's frame rate.

    Raises VideoError where the file is not a readable video.
    """
    with opened_media(path) as container:
        if not container.streams.video:
            raise VideoError(f"{path} has no video stream; one is needed. Choose another file.")
        stream = container.streams.video[0]
        if max(stream.width, stream.height) > LONGEST_SIDE:
            raise VideoError(
                f"{path} is {stream.width}x{stream.height} pixels; at most {LONGEST_SIDE} a side are read. Scale it."
            )
        rate, size = stream.average_rate or stream.guessed_rate, None
        for frame in islice(_decoded(container, path), start, stop, stride):
            picture = _upright(frame)
            size = size or picture.shape
            if picture.shape != size:
                raise VideoError(
                    f"{path} changes from {size[1]}x{size[0]} to {picture.shape[1]}x{picture.shape[0]} pixels; all "
                    f"frames need one size. Encode it again with one, or take a part before the change."
                )
            yield picture, rate


def _decoded(container: av.container.InputContainer, path: Path) -> Iterator[av.VideoFrame]:
    stream = container.streams.video[0]
    decoded = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(
                f"{path} is damaged or cut off after frame {decoded}; a whole file is needed. Copy it again."
            )
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            raise VideoError(
                f"{path} is damaged or cut off after frame {decoded} ({error.strerror}); a whole file is needed. "
                f"Copy it again."
            ) from error
        for frame in frames:
            yield frame
            decoded += 1


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Turn and mirror a frame as its display matrix says and players show it, [height, width, 3].

    The matrix, [3, 3] in rows, maps a pixel's column and row, a vector from the left, to where it is shown. Angles
    between quarter turns are rounded. Source: libavutil/display.h.
    """
    picture = np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)
    marks: Any = frame.side_data  # its keys are of a type that PyAV does not tell
    matrix = marks.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return picture
    across, down = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    columns, rows = across[0], down[1]
    if abs(across[1]) + abs(down[0]) > abs(columns) + abs(rows):
        picture, columns, rows = picture.swapaxes(0, 1), down[0], across[1]
    return np.ascontiguousarray(picture[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1])


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
    frames: Tensor | StreamedFrames,
    fps: Fraction | float,
    *,
    crf: int = CRF,
    lossless: bool = False,
    repeatable: bool = True,
    sound: Path | str | Sound | None = None,
    rounding: Rounding = "round",
) -> str | None:
    """Save H.264 in MP4. The file appears whole or not at all.

    frames: [frames, height, width, 3], 0..1 (values outside are clipped); or those that are made while they are written
    fps:    frames per second
    crf:    quality, 0 (best) to 51
    lossless: keep every 8-bit RGB value; such files play in few browsers
    repeatable: the same frames always give the same bytes; False: as ffmpeg encodes by itself, on all threads
    sound:  the sound, or the video file that has it, cut at the end of the frames; None for a silent file
    rounding: conversion of values to 8-bit numbers
    Even sizes are stored as yuv420p, which plays everywhere; odd ones as yuv444p, which keeps the size exactly.
    Sound that MP4 cannot hold is stored as AAC. If sound cannot be stored at all, the file is silent, and the reason is
    logged and returned; else None.
    Raises VideoError for frames that are no video, a rate, quality or rounding that there is not, and for what is no
    path or sound.
    """
    path = as_path(path, VideoError)
    if not isinstance(frames, StreamedFrames):  # parts of those are checked as they come
        _check_frames(frames)
    _check_rounding(rounding)
    rate = _rate(fps)
    if not is_whole(crf, 0, WORST_CRF):
        raise VideoError(f"crf {described(crf)} is no quality; x264 takes 0 (best) to {WORST_CRF}. Change crf.")
    height, width = frames.shape[1:3]
    even = height % 2 == 0 and width % 2 == 0
    pixels = "rgb24" if lossless else "yuv420p" if even else "yuv444p"
    quality = {"qp": "0"} if lossless else {"crf": str(crf), **(REPEATABLE if repeatable else {})}
    heard = _sound(sound)
    encoding = _Encoding(rate, pixels, quality, int(repeatable), rounding)
    with whole_file(path) as partial:
        _encode(partial, frames, encoding)
        return None if heard is None else _add_sound(partial, heard, len(frames) / rate)


def _rate(fps: object) -> Fraction:
    """Return a rate as files have it; raises VideoError for what is none."""
    if isinstance(fps, Real) and math.isfinite(fps):
        exact = Fraction(fps if isinstance(fps, (int, Fraction)) else float(fps))
        rate = exact.limit_denominator(SLOWEST.denominator)
        if rate > 0 and rate.numerator <= FASTEST:
            return rate
    raise VideoError(
        f"{described(fps)} frames per second is no rate; a number from {SLOWEST} to {FASTEST} is needed. Change fps."
    )


def _sound(sound: object) -> Sound | None:
    if isinstance(sound, (str, Path)):
        return SoundFile(Path(sound))
    if sound is None or isinstance(sound, (SoundFile, Mapping)):
        return sound
    raise VideoError(
        f"the sound is {described(sound)}; the path of a file that has it, or None, is needed. Name the source video."
    )


class _Encoding(NamedTuple):
    rate: Fraction
    pixels: str
    quality: dict[str, str]
    threads: int
    rounding: Rounding


def _add_sound(path: Path, sound: Sound, seconds: Fraction) -> str | None:
    """Add a sound to a silent file in the best way that works, or leave it so. Returns the loss in words, or None.

    However many ways fail, the pictures are encoded once: to make those of a long clip again takes long.
    """
    reason: Exception | None = None
    for track in tracks(sound, seconds):
        try:
            with track() as prepared, whole_file(path) as partial:
                _join(path, prepared, partial)
            return None
        except (VideoError, OSError, *BROKEN_MEDIA) as error:
            reason = error
    lost = f"The clip was saved without its sound, which cannot be stored: {reason}"
    log.warning(lost)
    return lost


def _join(silent: Path, track: Track, path: Path) -> None:
    """Write the packets of a silent file, as they are, and a track."""
    with av.open(str(silent)) as pictures, _written(path) as container:
        stream = container.add_stream_from_template(pictures.streams.video[0])
        track.add(container)
        for packet in pictures.demux(video=0):
            if packet.dts is not None:  # the last one only ends the file
                packet.stream = stream
                container.mux(packet)
        track.write(container)


def _written(path: Path) -> av.container.OutputContainer:
    # Bit exactness leaves the library's version out of the file.
    return av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"})


def _encode(path: Path, frames: Tensor | StreamedFrames, encoding: _Encoding) -> None:
    codec: Literal["libx264rgb", "libx264"] = "libx264rgb" if encoding.pixels == "rgb24" else "libx264"
    with _written(path) as container:
        stream = container.add_stream(codec, rate=encoding.rate, options=encoding.quality)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = encoding.pixels
        context = stream.codec_context
        context.thread_count = encoding.threads
        if encoding.pixels != "rgb24":
            context.colorspace, context.color_range = BT601, STUDIO_RANGE
        for part in parts_of(frames):
            if isinstance(frames, StreamedFrames):
                _check_frames(part)
            for frame in part:
                picture = av.VideoFrame.from_ndarray(_as_bytes(frame, encoding.rounding), format="rgb24")
                container.mux(stream.encode(picture.reformat(format=encoding.pixels)))
        container.mux(stream.encode(None))


def to_bytes(frames: Tensor, rounding: Rounding = "round") -> NDArray[np.uint8]:
    """Convert frames to 8-bit numbers; values outside 0..1 are clipped.

    frames: [frames, height, width, 3]
    Raises VideoError where these are no frames of numbers 0..1, or a value is not a number.
    """
    _check_frames(frames)
    _check_rounding(rounding)
    return _as_bytes(frames, rounding)


def _check_frames(frames: Tensor) -> None:
    check_frames(frames)
    if any(frame.isnan().any() for frame in frames):
        raise VideoError("frames hold values that are not numbers (NaN); needed is 0..1. Check the model's precision.")


def _check_rounding(rounding: object) -> None:
    if rounding not in get_args(Rounding):
        raise VideoError(
            f"rounding is {described(rounding)}; it must be one of {', '.join(get_args(Rounding))}. Choose one."
        )


def _as_bytes(frames: Tensor, rounding: Rounding) -> NDArray[np.uint8]:
    levels = frames.detach().float().clamp(0, 1).mul(255)
    return (levels.floor() if rounding == "floor" else levels.round()).byte().cpu().numpy()
