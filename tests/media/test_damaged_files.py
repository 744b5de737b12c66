"""Files of pictures and videos with random damage: each is read, or refused in a sentence."""

import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fatezero_ext.errors import VideoError
from fatezero_ext.media.clip import opened_clip
from fatezero_ext.media.frame_files import check_picture, read_pictures
from fatezero_ext.media.frame_sources import read_frames
from fatezero_ext.media.framing import Framing
from fatezero_ext.media.video import write_video

from ..sounding_clips import write_clip

MUTANTS = 12
PICTURES = ["a.png", "a.gif", "a.webp", "a.tiff", "a.jpg", "a.bmp", "a.ppm"]
VIDEOS = [
    ("a.mp4", "aac", {}),
    ("a.mkv", "pcm_s16le", {}),
    ("a.ts", "mp2", {}),
    ("a.avi", "pcm_s16le", {"video": "mpeg4"}),
    ("a.mov", "pcm_s24be", {}),
    ("a.webm", "libopus", {"video": "libvpx"}),
]
EXTREMES = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\0\0\x40\0")
HEAD = 400
"""Bytes at the beginning of a file, where most of its numbers are."""


def mutants(content, name):
    """Damaged copies of a file, the same each time."""
    for seed in range(MUTANTS):
        chosen = random.Random(f"{name} {seed}")
        damaged = bytearray(content)
        if seed % 4 == 0:
            del damaged[chosen.randrange(len(damaged)) :]
        elif seed % 4 == 1:
            for _ in range(chosen.randint(1, 20)):
                damaged[chosen.randrange(len(damaged))] ^= 1 << chosen.randrange(8)
        else:
            first = chosen.randrange(min(HEAD, len(damaged) - 4))
            damaged[first : first + 4] = chosen.choice(EXTREMES)
        yield bytes(damaged)


def with_checksums(content):
    """A PNG whose chunks are called whole, so that what is in them is looked at."""
    place, made = 8, bytearray(content)
    while place + 12 <= len(made):
        (length,) = struct.unpack(">I", made[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(made):
            break
        made[end : end + 4] = struct.pack(">I", zlib.crc32(made[place + 4 : end]))
        place = end + 4
    return bytes(made)


def read_or_refused(read):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large or odd files that it reads
        try:
            read()
        except VideoError as error:
            assert len(str(error)) > 20


@pytest.mark.parametrize("name", PICTURES)
def test_damaged_pictures_are_read_or_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    pictures, path = [Image.fromarray(picture) for picture in noise], tmp_path / name
    several = {"save_all": True, "append_images": pictures[1:], "duration": 100}
    pictures[0].save(path, **several if name in PICTURES[:4] else {})
    for content in mutants(path.read_bytes(), name):
        path.write_bytes(with_checksums(content) if name.endswith("png") else content)
        read_or_refused(lambda: check_picture(path))
        read_or_refused(lambda: read_pictures(path))
        read_or_refused(lambda: read_frames(path, Framing(short_side=16)))


@pytest.mark.parametrize(("name", "sound", "settings"), VIDEOS)
def test_damaged_videos_are_read_or_refused_and_their_sound_costs_no_frame(tmp_path, name, sound, settings):
    path = write_clip(tmp_path / name, sound, seconds=1, **settings)
    for content in mutants(path.read_bytes(), name):
        path.write_bytes(content)
        read_or_refused(lambda: opened_clip(path).frames.all())
        read_or_refused(lambda: read_frames(path, Framing(count=2, short_side=16)))
        write_video(tmp_path / "saved.mp4", torch.zeros(4, 16, 16, 3), 8, sound=path)


def test_a_png_whose_text_unpacks_to_far_more_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    text = b"zTXt" + b"bomb\0\0" + zlib.compress(bytes(2**22))
    bomb = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(content[:33] + bomb + content[33:])
    with pytest.raises(VideoError, match="not a readable picture"):
        read_pictures(tmp_path / "a.png")
