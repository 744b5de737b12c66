"""Carries a video's sound over to its edit: packet by packet where MP4 can hold it, else encoded anew as AAC."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from .media_file import errors_named, open_media, opened_media

COPIED = frozenset("aac mp3 ac3 eac3 alac flac opus".split())
"""FFmpeg's names of the codecs that MP4 holds and players know in it."""
AAC_RATES = frozenset((96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000))
"""Samples per second that AAC can be encoded with."""
USUAL_RATE = 48000
HIGHEST_RATE = 192_000
"""Most samples per second that sound is decoded to; a small file may claim billions."""
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
"""FFmpeg's names of the usual layouts of one, two and six channels."""
AAC_FRAME = 1024
"""Samples in one packet."""
LEAD = Fraction(1, 10)
"""Seconds of packets before the first sample that is heard: decoders need some before they give out any."""
JITTER = Fraction(1, 20)
"""Seconds by which timestamps may be off, as containers round them; a larger step is a gap in the sound."""


@dataclass(frozen=True)
class SoundFile:
    """The sound of a video file.

    start: seconds from the file's first frame to the first frame of the clip
    """

    path: Path
    start: Fraction = Fraction(0)


class Waveform(NamedTuple):
    """Decoded sound.

    samples: [channels, samples], float32, -1..1
    rate:    samples per second
    layout:  FFmpeg's name of the channels' layout
    """

    samples: NDArray[np.float32]
    rate: int
    layout: str


if TYPE_CHECKING:
    SoundPacket = av.Packet[av.audio.stream.AudioStream]

Sound = SoundFile | Mapping[str, Any]
"""A file's sound, or ComfyUI's AUDIO: {"waveform": [batch, channels, samples], "sample_rate": samples per second}."""


class Track(Protocol):
    """Sound that is ready to be written beside a video."""

    def add(self, into: av.container.OutputContainer) -> None:
        """Add its stream, before the container's first packet."""

    def write(self, into: av.container.OutputContainer) -> None:
        """Write all of it."""


def has_sound(path: Path) -> bool:
    """True if the video at `path` has a sound track; False also if it cannot be opened."""
    with suppress(VideoError), opened_media(path) as container:
        return bool(container.streams.audio)
    return False


def later(sound: Sound, seconds: Fraction | float) -> Sound | None:
    """Cut off the first `seconds` of a sound; None for a waveform of which nothing is left."""
    if isinstance(sound, SoundFile):
        return replace(sound, start=sound.start + Fraction(seconds))
    left = sound["waveform"][..., round(seconds * sound["sample_rate"]) :]
    return {**sound, "waveform": left} if left.shape[-1] else None


def tracks(sound: Sound, seconds: Fraction) -> Iterator[Callable[[], AbstractContextManager[Track]]]:
    """Yield ways to store the first `seconds` of a sound, the best one first; each reads it, and raises if it fails."""
    if isinstance(sound, SoundFile):
        yield lambda: _copied(sound, seconds)
        yield lambda: nullcontext(_Encoded(read_sound(sound, seconds)))
    else:
        yield lambda: nullcontext(_Encoded(_waveform(sound, seconds)))


@contextmanager
def _copied(sound: SoundFile, seconds: Fraction) -> Iterator[Track]:
    """Copy the packets of a file; it stays open in the block, since a stream of a closed file is no template."""
    begin = _begin(sound)
    with open_media(sound.path) as container:
        with errors_named(sound.path):
            source = _sound_stream(container, sound.path)
            codec = source.codec_context.name
            if codec not in COPIED:
                raise VideoError(
                    f"MP4 holds {', '.join(sorted(COPIED))}; the sound of {sound.path} is {codec}. Encode it anew."
                )
            packets = list(_heard(container.demux(source), begin, seconds))
        yield _Copied(source, packets)


class _Copied:
    """Packets of an open file, stored as they are."""

    def __init__(self, source: av.audio.stream.AudioStream, packets: Sequence[SoundPacket]) -> None:
        self._source, self._packets = source, packets

    def add(self, into: av.container.OutputContainer) -> None:
        if self._packets:
            self._stream = into.add_stream_from_template(self._source)

    def write(self, into: av.container.OutputContainer) -> None:
        for packet in self._packets:
            packet.stream = self._stream
            into.mux(packet)


def _heard(packets: Iterator[SoundPacket], begin: Fraction, seconds: Fraction) -> Iterator[SoundPacket]:
    """Select the packets that are heard, and those that decoders need before them; their clock starts at `begin`."""
    for packet in packets:
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            continue
        time = stamp * packet.time_base - begin
        if time >= seconds:
            return
        if time >= -LEAD:
            shift = round(begin / packet.time_base)
            packet.pts = stamp - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            yield packet


class _Encoded:
    """Samples, stored as AAC."""

    def __init__(self, waveform: Waveform) -> None:
        self._waveform = waveform
        self._rate = waveform.rate if waveform.rate in AAC_RATES else USUAL_RATE

    def add(self, into: av.container.OutputContainer) -> None:
        if self._waveform.samples.size:
            self._stream = into.add_stream("aac", rate=self._rate, layout=self._waveform.layout)

    def write(self, into: av.container.OutputContainer) -> None:
        if not self._waveform.samples.size:
            return
        layout = self._waveform.layout
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=self._rate, frame_size=AAC_FRAME)
        whole = av.AudioFrame.from_ndarray(self._waveform.samples, format="fltp", layout=layout)
        whole.sample_rate, whole.pts = self._waveform.rate, 0
        for frame in [*resampler.resample(whole), *resampler.resample(None)]:
            into.mux(self._stream.encode(frame))
        into.mux(self._stream.encode(None))


def _begin(sound: SoundFile) -> Fraction:
    """Time of the clip's first frame on the file's clock, in seconds.

    The clock may start anywhere, as in recordings of broadcasts and cameras, and after a cut.
    """
    with opened_media(sound.path) as container:
        if container.streams.video:
            times = (_time(frame) for frame in container.decode(video=0))
            return next((time for time in times if time is not None), Fraction(0)) + sound.start
        stream = _sound_stream(container, sound.path)
        return max(0, stream.start_time or 0) * (stream.time_base or Fraction(0)) + sound.start


def _time(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
    """Time of a frame on the file's clock, in seconds; None if it has none."""
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base


def _sound_stream(container: av.container.InputContainer, path: Path) -> av.audio.stream.AudioStream:
    if not container.streams.audio:
        raise VideoError(f"{path} has no sound; a file with a sound track is needed. Choose another, or save without.")
    return container.streams.audio[0]


def read_sound(sound: SoundFile, seconds: Fraction) -> Waveform:
    """Decode the first `seconds` of a file's sound, as mono or stereo; damaged parts and gaps are silent.

    Raises VideoError where the file cannot be read, or nothing of its sound can be.
    """
    begin = _begin(sound)
    with opened_media(sound.path) as container:
        stream = _sound_stream(container, sound.path)
        rate = min(stream.rate or USUAL_RATE, HIGHEST_RATE)
        layout = LAYOUTS[min(stream.channels, 2)]
        samples = np.zeros((min(stream.channels, 2), math.ceil(seconds * rate)), np.float32)
        decoded, filled = False, None
        for frame in _decoded(container.demux(stream), layout, rate):
            decoded = True
            place = filled
            if (time := _time(frame)) is not None:
                place = round((time - begin) * rate)
                if filled is not None and abs(place - filled) <= JITTER * rate:
                    place = filled
            place = place or 0
            if place >= samples.shape[1]:
                break
            piece = frame.to_ndarray()[:, max(0, -place) :]
            piece = piece[:, : samples.shape[1] - max(0, place)]
            samples[:, max(0, place) : max(0, place) + piece.shape[1]] = piece
            filled = place + frame.samples
    if not decoded:
        raise VideoError(f"nothing of the sound of {sound.path} can be decoded; a whole one is needed. Replace it.")
    return Waveform(samples, rate, layout)


def _decoded(packets: Iterator[SoundPacket], layout: str, rate: int) -> Iterator[av.AudioFrame]:
    """Decode packets to frames of one format; packets that cannot be decoded are left out."""
    resampler, format_now = None, None
    for packet in packets:
        frames: list[av.AudioFrame] = []
        with suppress(av.FFmpegError):
            frames = packet.decode()
        for frame in frames:
            if resampler is None or format_now != (frame.format.name, frame.layout.name, frame.sample_rate):
                format_now = (frame.format.name, frame.layout.name, frame.sample_rate)
                resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            yield from resampler.resample(frame)


def _waveform(audio: Mapping[str, Any], seconds: Fraction) -> Waveform:
    """Convert the first `seconds` of ComfyUI's AUDIO, of a batch the first sound.

    Raises VideoError if it is something else.
    """
    import torch

    try:
        rate = int(audio["sample_rate"])
        samples = torch.as_tensor(audio["waveform"])[0]
        if rate < 1 or samples.ndim != 2:
            raise ValueError(f"{rate} samples per second, each sound shaped {list(samples.shape)}")
        samples = samples[:, : math.ceil(seconds * rate)]
        if not samples.is_floating_point():
            samples = samples.float() / torch.iinfo(samples.dtype).max
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise VideoError(
            f"the sound is not what AUDIO holds ({type(error).__name__}: {error}); a waveform [batch, channels, "
            f"samples] and a sample_rate are needed. Check what is connected to audio."
        ) from error
    if len(samples) not in LAYOUTS:
        samples = samples.mean(0, keepdim=True)
    return Waveform(
        samples.float().nan_to_num(0, 0, 0).clamp(-1, 1).cpu().contiguous().numpy(), rate, LAYOUTS[len(samples)]
    )
