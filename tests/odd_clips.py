"""Video files that are long, turned as cameras turn them, or cut without encoding them again."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np

ONE = 1 << 16
"""One, in the numbers with 16 binary places that display matrices are of."""


def write_display_matrix(path, matrix):
    """Write a display matrix into an MP4 file, as cameras do.

    matrix: how far a step to the right leads right and down, and a step down
    """
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 20 + 16
    assert content[place : place + 4] == struct.pack(">i", ONE)
    right, right_down, down_right, down = matrix
    content[place : place + 36] = struct.pack(">9i", right, right_down, 0, down_right, down, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def write_edit_list(path, hidden, shown):
    """Let an MP4 file with one video stream show only some of its frames, as programs do that cut without encoding.

    hidden: frames before the first that is shown
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks, rate = round(1 / stream.time_base / stream.average_rate), stream.average_rate
    content = bytearray(path.read_bytes())
    header, place = content.index(b"mvhd") + 4 + 4 + 8, content.index(b"elst") + 4 + 4
    (scale,) = struct.unpack_from(">I", content, header)
    entries, _length, first = struct.unpack_from(">IIi", content, place)
    assert entries == 1
    struct.pack_into(">Ii", content, place + 4, round(shown * scale / rate), first + hidden * ticks)
    path.write_bytes(content)


def write_long_clip(path, seconds, fps, good):
    """Write a tiny clip of which all pictures behind the first `good` parts of the file are damaged."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 32, 32, "yuv420p", 12
        noise = np.random.default_rng(0).integers(0, 256, (48, 32), np.uint8)
        for number in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=0), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    pictures = content.rindex(b"mdat") + 4
    damaged = pictures + int((len(content) - pictures) * good)
    content[damaged:] = bytes(len(content) - damaged)
    path.write_bytes(content)
