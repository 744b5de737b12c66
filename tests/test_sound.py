import av
import pytest
import torch

from fatezero_ext.errors import VideoError
from fatezero_ext.sound import has_sound
from fatezero_ext.video import read_video, write_video

RATE = 8000
FRAMES = torch.zeros(8, 16, 16, 3)


def write_tone(path, codec, seconds=2):
    """A file with nothing but a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        times = torch.arange(seconds * RATE) / RATE
        tone = (0.5 * torch.sin(2 * torch.pi * 440 * times))[None]
        samples = tone if codec == "aac" else ((tone + 1) * 127).to(torch.uint8)
        frame = av.AudioFrame.from_ndarray(samples.numpy(), format="fltp" if codec == "aac" else "u8", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def heard(path):
    """Seconds of sound in a file."""
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0)) / RATE


def test_sound_is_copied_and_cut_at_the_last_frame(tmp_path):
    write_tone(tmp_path / "tone.m4a", "aac")
    write_video(tmp_path / "clip.mp4", FRAMES, 8, sound=tmp_path / "tone.m4a")
    assert has_sound(tmp_path / "clip.mp4")
    assert heard(tmp_path / "clip.mp4") == pytest.approx(1.0, abs=0.15)
    assert len(read_video(tmp_path / "clip.mp4").frames) == len(FRAMES)


def test_video_without_sound_is_silent(tmp_path):
    write_video(tmp_path / "clip.mp4", FRAMES, 8)
    assert not has_sound(tmp_path / "clip.mp4")


def test_sound_of_a_silent_file_is_refused_and_nothing_is_left(tmp_path):
    write_video(tmp_path / "silent.mp4", FRAMES, 8)
    with pytest.raises(VideoError, match="cannot be stored in MP4"):
        write_video(tmp_path / "clip.mp4", FRAMES, 8, sound=tmp_path / "silent.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["silent.mp4"]


def test_sound_in_a_codec_that_mp4_lacks_is_refused_by_name(tmp_path):
    write_tone(tmp_path / "tone.wav", "pcm_u8")
    with pytest.raises(VideoError, match="tone.wav cannot be stored in MP4.*pcm_u8"):
        write_video(tmp_path / "clip.mp4", FRAMES, 8, sound=tmp_path / "tone.wav")
