"""Sound of any file beside the frames it belongs to, and frames that no sound can cost."""

import logging
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fatezero_ext.errors import VideoError
from fatezero_ext.media.audio import SoundFile, has_sound, later, read_sound, tracks
from fatezero_ext.media.streamed import StreamedFrames
from fatezero_ext.media.video import read_video, write_video

from ..sounding_clips import BEEP, FPS, RATE, beeping, heard, write_clip

CASES = Path(__file__).parents[1] / "cases"
FRAMES = torch.zeros(4 * FPS, 16, 16, 3)
ATTACK = 0.02
"""Seconds: an encoder's packet lasts 21 milliseconds, within which it may move or blur the start of a beep."""


def saved(folder, sound, frames=FRAMES, fps=FPS):
    """The file that is written with a sound, and what was lost."""
    lost = write_video(folder / "saved.mp4", frames, fps, sound=sound)
    assert len(read_video(folder / "saved.mp4").frames) == len(frames)
    return folder / "saved.mp4", lost


@pytest.mark.parametrize(
    ("name", "sound", "settings"),
    [
        ("plain.mp4", "aac", {}),
        ("from_1.4_s.ts", "aac", {"output_ts_offset": "1.4"}),
        ("from_10_h.ts", "aac", {"output_ts_offset": "36000"}),
        ("from_0.5_s.mpg", "mp2", {"video": "mpeg2video"}),
        ("from_3_s.mkv", "aac", {"output_ts_offset": "3"}),
        ("from_3_s.mp4", "aac", {"output_ts_offset": "3"}),
        ("no_edit_list.mp4", "aac", {"output_ts_offset": "3", "use_editlist": "0"}),
        ("fragments.mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("mp3.mkv", "mp3", {}),
        ("ac3.ts", "ac3", {"output_ts_offset": "7"}),
        ("flac.mkv", "flac", {"output_ts_offset": "1"}),
        ("opus.mkv", "libopus", {"output_ts_offset": "1"}),
        ("opus.webm", "libopus", {"video": "libvpx"}),
        ("pcm.avi", "pcm_s16le", {"video": "mpeg4"}),
        ("pcm.mkv", "pcm_s16le", {}),
        ("pcm.mov", "pcm_s16le", {}),
        ("pcm_24.mov", "pcm_s24be", {"layout": "stereo"}),
        ("pcm_of_6.mkv", "pcm_s16le", {"layout": "5.1"}),
        ("pcm_float.mkv", "pcm_f32le", {"output_ts_offset": "5", "rate": 44100}),
        ("mu_law.mov", "pcm_mulaw", {"rate": 8000}),
        ("pcm_of_an_odd_rate.mkv", "pcm_s16le", {"rate": 12345}),
        ("adpcm.avi", "adpcm_ms", {"video": "mpeg4", "rate": 22050}),
    ],
)
def test_the_beep_is_heard_with_the_frame_it_belongs_to(tmp_path, name, sound, settings):
    path, lost = saved(tmp_path, write_clip(tmp_path / name, sound, **settings))
    beep, seconds = heard(path)
    assert lost is None
    assert beep == pytest.approx(heard(tmp_path / name)[0], abs=ATTACK) and beep == pytest.approx(BEEP, abs=2 * ATTACK)
    assert seconds == pytest.approx(4, abs=0.1)  # AAC's packets of 8000 samples a second last an eighth


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
@pytest.mark.parametrize(("sound_at", "pictures_at"), [(0.5, 0), (0, 0.5), (3, 3), (3.25, 3)])
def test_sound_that_begins_before_or_after_the_pictures_stays_beside_them(tmp_path, sound, sound_at, pictures_at):
    source = write_clip(tmp_path / "clip.mkv", sound, sound_at=sound_at, pictures_at=pictures_at)
    path, lost = saved(tmp_path, source)
    assert lost is None and heard(path)[0] == pytest.approx(BEEP + sound_at - pictures_at, abs=2 * ATTACK)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("start", [0.5, 1.75])
def test_a_later_part_of_a_clip_has_its_own_sound(tmp_path, sound, start):
    source = write_clip(tmp_path / "clip.mkv", sound)
    path, _ = saved(tmp_path, later(SoundFile(source), start), FRAMES[: 2 * FPS])
    beep, seconds = heard(path)
    assert beep == pytest.approx(BEEP - start, abs=2 * ATTACK) and seconds == pytest.approx(2, abs=0.05)


def test_a_cut_clip_keeps_its_sound_in_place(tmp_path):
    """Cut as `ffmpeg -ss 1 -c copy` does: packets as they are, times less one second, an edit list for the rest."""
    whole = write_clip(tmp_path / "whole.mp4", "aac")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        streams = {stream.index: cut.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or packet.stream.type == "audio" and packet.pts * packet.time_base < 0.9:
                continue
            second = round(1 / packet.time_base)
            packet.pts, packet.dts = packet.pts - second, packet.dts - second
            packet.stream = streams[packet.stream.index]
            cut.mux(packet)
    path, lost = saved(tmp_path, tmp_path / "cut.mp4", FRAMES[: 2 * FPS])
    assert lost is None and heard(path)[0] == pytest.approx(heard(tmp_path / "cut.mp4")[0], abs=1e-3)


def test_packets_of_an_mp4_are_copied_with_the_silence_that_an_encoder_puts_first(tmp_path):
    def packets(path):
        with av.open(str(path)) as container:
            return [
                (packet.pts * packet.time_base, bytes(packet))
                for packet in container.demux(audio=0)
                if packet.pts is not None
            ]

    source = write_clip(tmp_path / "clip.mp4", "aac")
    path, _ = saved(tmp_path, source)
    first, *_ = packets(path)
    assert first[0] == Fraction(-1024, RATE) and packets(path) == packets(source)[: len(packets(path))]


def test_the_reported_broadcast_is_heard_on_time(tmp_path):
    path, lost = saved(tmp_path, CASES / "b_aac_off.ts", FRAMES[:FPS])
    with av.open(str(path)) as container:
        sound = next(container.decode(audio=0))
    assert lost is None and abs(sound.time) < ATTACK and heard(path)[1] == pytest.approx(1, abs=0.06)


def test_sound_is_cut_at_the_last_frame(tmp_path):
    for codec in ("aac", "pcm_s16le"):
        path, _ = saved(tmp_path, write_clip(tmp_path / "clip.mkv", codec), FRAMES[:FPS])
        assert heard(path)[1] == pytest.approx(1, abs=0.03)


def test_video_without_sound_is_silent(tmp_path):
    write_video(tmp_path / "clip.mp4", FRAMES, 8)
    assert not has_sound(tmp_path / "clip.mp4")


def test_sound_alone_may_come_from_a_file_without_pictures(tmp_path):
    with av.open(str(tmp_path / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((beeping() * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
    path, lost = saved(tmp_path, tmp_path / "tone.wav")
    assert lost is None and heard(path)[0] == pytest.approx(BEEP, abs=2 * ATTACK)


def damaged(path, keep):
    """The file with noise in place of all bytes from `keep` of its length to 9/10 of it."""
    content = bytearray(path.read_bytes())
    first, last = round(len(content) * keep), round(len(content) * 0.9)
    content[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["clip.ts", "clip.mkv", "clip.avi"])
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_sound_that_is_damaged_on_the_way_costs_no_frame(tmp_path, name, keep):
    source = write_clip(tmp_path / name, "mp2", video="mpeg4" if name.endswith("avi") else "libx264")
    path, lost = saved(tmp_path, damaged(source, keep))
    assert has_sound(path) == (lost is None) and (lost is None or "saved without its sound" in lost)


@pytest.mark.parametrize("content", [None, b"", b"no video" * 99])
def test_sound_that_cannot_be_stored_is_left_out_and_that_is_said(tmp_path, content, caplog):
    source = tmp_path / "source.avi"
    if content is not None:
        source.write_bytes(content)
    path, lost = saved(tmp_path, source)
    assert lost in caplog.messages and "saved without its sound" in lost and "source.avi" in lost
    assert caplog.records[0].levelno == logging.WARNING and not has_sound(path)


@pytest.mark.parametrize(("source", "kept"), [("clip.mkv", True), ("damaged.ts", None), ("none.mp4", False)])
def test_frames_are_made_once_and_their_packets_are_those_of_a_silent_file(tmp_path, source, kept):
    """However many ways to store the sound fail."""
    if source == "damaged.ts":
        damaged(write_clip(tmp_path / source, "mp2"), 0.1)
    elif kept:
        write_clip(tmp_path / source, "pcm_s16le")  # is no sound of MP4: the second way
    made = []

    def frames():
        made.append(None)
        yield noise

    noise = torch.rand(4 * FPS, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    path, lost = saved(tmp_path, tmp_path / source, StreamedFrames(tuple(noise.shape), frames))
    assert len(made) == 1 and has_sound(path) == (lost is None) and kept in (None, lost is None)
    write_video(tmp_path / "silent.mp4", noise, FPS)
    assert pictures(path) == pictures(tmp_path / "silent.mp4")


def pictures(path):
    """Packets of a file's pictures, with their times, and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
        times = [(packet.pts * packet.time_base, packet.dts * packet.time_base) for packet in packets]
        return times, [bytes(packet) for packet in packets], stream.average_rate, stream.duration * stream.time_base


def test_a_silent_file_has_no_sound_to_give(tmp_path):
    write_video(tmp_path / "silent.mp4", FRAMES, 8)
    _, lost = saved(tmp_path, tmp_path / "silent.mp4")
    assert "silent.mp4 has no sound" in lost


def test_a_track_without_packets_makes_a_silent_file(tmp_path):
    source = write_clip(tmp_path / "clip.mkv", "aac", sound_at=9)
    path, lost = saved(tmp_path, source)
    assert lost is None and not has_sound(path)


def audio(samples, rate=RATE):
    """ComfyUI's AUDIO."""
    return {"waveform": torch.as_tensor(samples)[None], "sample_rate": rate}


@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, 12345), (3, 22050), (6, RATE), (17, 44100)])
def test_comfyuis_audio_is_stored(tmp_path, channels, rate):
    path, lost = saved(tmp_path, audio(beeping(rate=rate, channels=channels), rate))
    beep, seconds = heard(path)
    assert lost is None and beep == pytest.approx(BEEP, abs=2 * ATTACK) and seconds == pytest.approx(4, abs=0.05)


def test_whole_numbers_noise_beyond_one_and_gaps_in_audio_are_stored(tmp_path):
    loud = 3 * beeping()
    loud[0, :100] = np.nan
    loud[0, 100:200] = np.inf
    for samples in (loud, (beeping() * 32767).astype(np.int16), beeping().astype(np.float64)):
        path, lost = saved(tmp_path, audio(samples))
        assert lost is None and heard(path)[0] == pytest.approx(BEEP, abs=2 * ATTACK)


def test_audio_without_samples_makes_a_silent_file(tmp_path):
    path, lost = saved(tmp_path, audio(np.zeros((2, 0), np.float32)))
    assert lost is None and not has_sound(path)


@pytest.mark.parametrize(
    "sound",
    [
        {},
        {"waveform": None, "sample_rate": RATE},
        {"waveform": torch.zeros(1, 2, 99), "sample_rate": 0},
        {"waveform": torch.zeros(1, 2, 99), "sample_rate": "fast"},
        {"waveform": torch.zeros(99), "sample_rate": RATE},
        {"waveform": torch.zeros(0, 2, 99), "sample_rate": RATE},
    ],
)
def test_audio_of_another_kind_costs_no_frame(tmp_path, sound):
    _, lost = saved(tmp_path, sound)
    assert "the sound is not what AUDIO holds" in lost


@pytest.mark.parametrize("seconds", [0.5, 1.75])
def test_later_audio_begins_later(tmp_path, seconds):
    whole = audio(beeping(channels=2))
    path, _ = saved(tmp_path, later(whole, seconds), FRAMES[: 2 * FPS])
    assert heard(path)[0] == pytest.approx(BEEP - seconds, abs=2 * ATTACK)
    assert whole["waveform"].shape == (1, 2, 4 * RATE)


def test_audio_that_ends_before_the_later_part_is_none():
    assert later(audio(beeping()), 4) is None and later(audio(beeping()), 9.5) is None


def test_a_file_that_claims_ten_million_samples_a_second_is_read_at_a_rate_that_sound_has(tmp_path):
    with av.open(str(tmp_path / "tone.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 99, np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
    content = bytearray((tmp_path / "tone.wav").read_bytes())
    content[24:28] = (10**7).to_bytes(4, "little")
    (tmp_path / "tone.wav").write_bytes(content)
    found = read_sound(SoundFile(tmp_path / "tone.wav"), Fraction(1, 1000))
    assert found.rate == 192_000 and found.samples.shape == (1, 192)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed there")
@pytest.mark.parametrize("sound", ["pcm_s16le", "aac"])
def test_a_file_whose_sound_is_not_copied_after_all_is_closed(tmp_path, sound):
    """Whether the codec does not suit MP4, or encoding the frames beside it fails."""
    path = write_clip(tmp_path / "clip.mkv", sound)
    copied = next(tracks(SoundFile(path), Fraction(1)))
    with pytest.raises((VideoError, ZeroDivisionError)) as refused, copied():
        raise ZeroDivisionError
    opened = [str(each.resolve()) for each in Path("/proc/self/fd").iterdir()]
    assert refused.value and str(path) not in opened
