"""Files of video and sound, opened without trust."""

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
"""FFmpeg's names of files that hold all they play; playlists, which name other files, are not opened."""
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
"""What PyAV raises for a damaged file, depending on where it is damaged."""


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file of video or sound; raises VideoError where it is missing, damaged or of another kind."""
    with errors_told(path):
        # Titles may be in any encoding, and are not read.
        return av.open(str(path), container_options={"format_whitelist": FORMATS}, metadata_errors="replace")


@contextmanager
def opened_media(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file of video or sound for a block; raises VideoError for whatever is found damaged inside."""
    with open_media(path) as container, errors_told(path):
        yield container


@contextmanager
def errors_told(path: Path) -> Iterator[None]:
    """Raise VideoError, with the file's name, for what PyAV raises inside the block."""
    try:
        yield
    except FateZeroError:
        raise
    except OSError as error:
        raise VideoError(f"cannot read the video {path}: {error.strerror or error}. Check the path.") from error
    except BROKEN_MEDIA as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"{path} is not a readable video ({reason}). Choose or make another file.") from error
