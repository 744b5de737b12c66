"""Opens files of video and sound without trusting them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from ..errors import FateZeroError, VideoError

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,ogg,asf,yuv4mpegpipe,"
    "ivf,mxf,dv,nut,rm,wav,mp3,aac,flac"
)
"""FFmpeg's names of the formats that are opened; playlists, which name other files, are not among them."""
BROKEN_MEDIA = (
    av.FFmpegError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
"""Errors that PyAV raises for a damaged file, depending on where it is damaged."""


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file of video or sound; raises VideoError where it is missing, damaged or of another kind."""
    with errors_named(path):
        # Titles may be in any encoding, and are not read.
        return av.open(str(path), container_options={"format_whitelist": FORMATS}, metadata_errors="replace")


@contextmanager
def opened_media(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file of video or sound for a block; damage found inside it raises VideoError."""
    with open_media(path) as container, errors_named(path):
        yield container


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Raise VideoError, with the file's name, for what PyAV raises inside the block."""
    try:
        yield
    except FateZeroError:
        raise
    except IsADirectoryError as error:
        raise VideoError(f"{path} is a folder; a video file is needed. Choose a clip.") from error
    except OSError as error:
        raise VideoError(f"cannot read the video {path}: {error.strerror or error}. Check the path.") from error
    except BROKEN_MEDIA as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{path} is not a readable video ({reason}). Choose or make another file.") from error
