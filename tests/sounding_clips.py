"""Small video files with a beep, and where it is heard in a file."""

from fractions import Fraction

import av
import numpy as np

RATE, FPS, BEEP = 48000, 24, 2.0
"""Samples and frames per second; the beep's start in seconds of the sound."""
SHORT = 0.2
LOUD = 0.1


def write_clip(
    path, sound, *, video="libx264", seconds=4, rate=RATE, layout="mono", sound_at=0, pictures_at=0, **options
):
    """A grey clip whose sound, in the codec `sound`, is silence with a beep; both begin at their own time."""
    with av.open(str(path), "w", options=options) as container:
        pictures = container.add_stream(video, rate=FPS)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        stream = container.add_stream(sound, rate=rate, layout=layout)
        for packet in (*_pictures(pictures, seconds, pictures_at), *_sound(stream, seconds, sound_at)):
            container.mux(packet)
    return path


def _pictures(stream, seconds, begin):
    for number in range(FPS * seconds):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number % 256, np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = number + round(begin * FPS), Fraction(1, FPS)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sound(stream, seconds, begin):
    context = stream.codec_context
    samples = beeping(seconds, context.sample_rate, len(context.layout.channels))
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=context.layout.name)
    frame.sample_rate, frame.pts = context.sample_rate, round(begin * context.sample_rate)
    size = context.frame_size or 1024
    resampler = av.AudioResampler(context.format.name, context.layout.name, context.sample_rate, frame_size=size)
    for piece in (*resampler.resample(frame), *resampler.resample(None)):
        yield from stream.encode(piece)
    yield from stream.encode(None)


def beeping(seconds=4, rate=RATE, channels=1):
    """[channels, samples], float32: silence with a beep from 2.0 s on."""
    times = np.arange(seconds * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * times)
    beep = np.where((times >= BEEP) & (times < BEEP + SHORT), tone, 0)
    return np.tile(beep.astype(np.float32), (channels, 1))


def heard(path):
    """When the beep starts, in seconds after the first picture (None: never), and how many seconds there are."""
    with av.open(str(path)) as container:
        first = next(frame.time for frame in container.decode(video=0))
    start, seconds = None, 0.0
    with av.open(str(path)) as container:
        mono = av.AudioResampler("fltp", "mono", RATE)
        for frame in container.decode(audio=0):
            for piece in mono.resample(frame):
                seconds += piece.samples / RATE
                loud = np.flatnonzero(abs(piece.to_ndarray()[0]) > LOUD)
                if start is None and len(loud):
                    start = piece.time + loud[0] / RATE - first
    return start, seconds
