"""Carries a video's sound over to its edit, packet by packet, without decoding it."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av

from .errors import VideoError


def has_sound(path: Path) -> bool:
    """Whether the video at `path` has a sound track; False too where it cannot be opened."""
    with suppress(OSError, av.FFmpegError), av.open(str(path)) as container:
        return bool(container.streams.audio)
    return False


class SoundTrack:
    """The sound of the video at `path`, to be copied into another container."""

    def __init__(self, path: Path, into: av.container.OutputContainer) -> None:
        """Adds a stream to `into`; raises VideoError where its format cannot hold the sound as it is."""
        self._source = av.open(str(path))
        self._into = into
        try:
            self._stream = into.add_stream_from_template(self._source.streams.audio[0])
        except (ValueError, av.FFmpegError, IndexError) as error:
            self._source.close()
            raise VideoError(
                f"the sound of {path} cannot be stored in MP4 as it is ({error}); AAC or MP3 can. "
                f"Convert the sound, or save without it."
            ) from error

    def copy(self, seconds: Fraction) -> None:
        """Copy what is heard before `seconds`."""
        with self._source:
            for packet in self._source.demux(self._source.streams.audio[0]):
                if packet.dts is None or packet.dts * packet.time_base >= seconds:
                    continue
                packet.stream = self._stream
                self._into.mux(packet)
