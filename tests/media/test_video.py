from fractions import Fraction
from itertools import pairwise

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fatezero_ext.atomic_files import whole_file
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.errors import VideoError
from fatezero_ext.media.clip import FileFrames
from fatezero_ext.media.frame_sources import read_frames
from fatezero_ext.media.framing import AS_IS, Framing
from fatezero_ext.media.video import read_video, to_bytes, write_video
from fatezero_ext.pictures.contact_sheet import contact_sheet

from ..odd_clips import ONE, write_display_matrix


def gradient_clip(frames=5, height=32, width=48):
    """A bright square moving over a smooth gradient."""
    rows = torch.linspace(0.2, 0.6, height)[:, None, None]
    columns = torch.linspace(0.1, 0.5, width)[None, :, None]
    clip = (rows * torch.tensor([1.0, 0.5, 0.2]) + columns * torch.tensor([0.2, 0.5, 1.0])).repeat(frames, 1, 1, 1)
    for frame in range(frames):
        clip[frame, 8:16, 4 * frame : 4 * frame + 8] = torch.tensor([0.9, 0.1, 0.1])
    return clip


@pytest.fixture
def clip_file(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, gradient_clip(), 8)
    return path


def test_written_video_reads_back_nearly_equal(clip_file):
    frames, fps = read_video(clip_file)
    assert frames.dtype == torch.float32 and fps == 8
    assert (frames - gradient_clip()).abs().mean() < 0.02


def test_lossless_video_keeps_every_8_bit_value(tmp_path):
    noise = torch.randint(0, 256, (3, 18, 22, 3), generator=torch.Generator().manual_seed(0)) / 255
    write_video(tmp_path / "clip.mp4", noise, 10, lossless=True)
    torch.testing.assert_close(read_video(tmp_path / "clip.mp4").frames, noise, rtol=0, atol=0)


@settings(max_examples=10, deadline=None)
@given(frames=st.integers(1, 4), height=st.integers(16, 40), width=st.integers(16, 40))
def test_any_size_and_length_is_kept(tmp_path_factory, frames, height, width):
    path = tmp_path_factory.mktemp("sizes") / "clip.mp4"
    write_video(path, gradient_clip(frames, height, width), 8)
    assert read_video(path).frames.shape == (frames, height, width, 3)


def test_even_sizes_are_stored_as_yuv420p_which_plays_everywhere(clip_file):
    with av.open(str(clip_file)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_fractional_rate_is_kept(tmp_path):
    write_video(tmp_path / "clip.mp4", gradient_clip(), Fraction(30000, 1001))
    assert read_video(tmp_path / "clip.mp4").fps == Fraction(30000, 1001)


def test_same_frames_give_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, gradient_clip(), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 4), count=st.none() | st.integers(1, 3), stride=st.integers(1, 3))
def test_selection_equals_slicing_the_whole_video(tmp_path_factory, start, count, stride):
    path = tmp_path_factory.getbasetemp() / "selection.mp4"
    if not path.exists():
        write_video(path, gradient_clip(12), 12)
    expected = read_video(path).frames[start::stride][:count]
    selected = read_video(path, start=start, count=count, stride=stride)
    torch.testing.assert_close(selected.frames, expected, rtol=0, atol=0)
    assert selected.fps == Fraction(12, stride)


MARKS = {
    "as it is": ((ONE, 0, 0, ONE), lambda frames: frames),
    "quarter clockwise": ((0, ONE, -ONE, 0), lambda frames: frames.rot90(-1, dims=(1, 2))),
    "quarter counter-clockwise": ((0, -ONE, ONE, 0), lambda frames: frames.rot90(1, dims=(1, 2))),
    "half": ((-ONE, 0, 0, -ONE), lambda frames: frames.rot90(2, dims=(1, 2))),
    "left and right mirrored": ((-ONE, 0, 0, ONE), lambda frames: frames.flip(2)),
    "top and bottom mirrored": ((ONE, 0, 0, -ONE), lambda frames: frames.flip(1)),
    "transposed": ((0, ONE, ONE, 0), lambda frames: frames.transpose(1, 2)),
    "transposed and turned": ((0, -ONE, -ONE, 0), lambda frames: frames.transpose(1, 2).flip(1, 2)),
    "ten degrees": ((64540, 11380, -11380, 64540), lambda frames: frames),
    "nothing": ((0, 0, 0, 0), lambda frames: frames),
}
"""Display matrices: how far a step to the right leads right and down, and one down; and what players show."""


@pytest.mark.parametrize("matrix, shown", MARKS.values(), ids=MARKS)
def test_frames_stand_as_players_show_them(tmp_path, matrix, shown):
    path = tmp_path / "clip.mp4"
    write_video(path, gradient_clip(), 8)
    plain = read_video(path).frames
    write_display_matrix(path, matrix)
    torch.testing.assert_close(read_video(path).frames, shown(plain), rtol=0, atol=0)


@pytest.mark.parametrize("matrix, filters", [
    ((0, ONE, -ONE, 0), [("transpose", "clock")]),
    ((0, -ONE, ONE, 0), [("transpose", "cclock")]),
    ((-ONE, 0, 0, ONE), [("hflip", None)]),
    ((ONE, 0, 0, -ONE), [("vflip", None)]),
    ((0, ONE, ONE, 0), [("transpose", "cclock_flip")]),
    ((0, -ONE, -ONE, 0), [("transpose", "clock_flip")]),
])  # fmt: skip
def test_frames_stand_as_ffmpegs_own_player_turns_them(tmp_path, matrix, filters):
    """The filters are those of `ffplay` and `ffmpeg` for these matrices (fftools/ffmpeg_filter.c, autorotate)."""
    path = tmp_path / "clip.mp4"
    write_video(path, gradient_clip(), 8)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = []
    for picture in pictures:
        graph = av.filter.Graph()
        source = graph.add_buffer(width=picture.shape[1], height=picture.shape[0], format="rgb24", time_base="1/8")
        nodes = [source, *(graph.add(*each) for each in filters), graph.add("buffersink")]
        for before, after in pairwise(nodes):
            before.link_to(after)
        graph.configure()
        graph.push(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        wanted.append(torch.from_numpy(graph.pull().to_ndarray(format="rgb24").copy()).float() / 255)
    write_display_matrix(path, matrix)
    torch.testing.assert_close(read_video(path).frames, torch.stack(wanted), rtol=0, atol=0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VideoError, match="absent.mp4.*No such file"):
        read_video(tmp_path / "absent.mp4")


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 50], ids=["empty", "text"])
def test_unreadable_file_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match="clip.mp4 is not a readable video"):
        read_video(path)


def test_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, torch.rand(12, 64, 64, 3, generator=torch.Generator().manual_seed(0)), 8)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(VideoError, match="cut off after frame"):
        read_video(path)


def test_sound_without_pictures_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(torch.zeros(1, 800, dtype=torch.int16).numpy(), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        read_video(path)


def test_asking_for_more_frames_than_there_are_tells_both_numbers(clip_file):
    with pytest.raises(VideoError, match="has 2 frames from frame 3 on with stride 1, 4 needed"):
        read_video(clip_file, start=3, count=4)


def test_start_behind_the_end_is_refused(clip_file):
    with pytest.raises(VideoError, match="has 0 frames from frame 9"):
        read_video(clip_file, start=9)


@pytest.mark.parametrize("selection", [{"start": -1}, {"count": 0}, {"stride": 0}])
def test_impossible_selection_is_refused_before_the_file_is_opened(tmp_path, selection):
    with pytest.raises(VideoError, match="select no frames"):
        read_video(tmp_path / "absent.mp4", **selection)


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (4, 16, 16, 1), (16, 16, 3)])
def test_frames_of_another_shape_are_refused(tmp_path, shape):
    with pytest.raises(VideoError, match=r"needed is \[frames, height, width, 3\]"):
        write_video(tmp_path / "clip.mp4", torch.zeros(shape), 8)
    assert list(tmp_path.iterdir()) == []


def test_frames_with_nan_are_refused(tmp_path):
    frames = torch.zeros(1, 16, 16, 3)
    frames[0, 0, 0, 0] = float("nan")
    with pytest.raises(VideoError, match="NaN"):
        write_video(tmp_path / "clip.mp4", frames, 8)


@pytest.mark.parametrize(("setting", "message"), [({"fps": 0}, "no rate"), ({"fps": 8, "crf": 60}, "crf 60")])
def test_impossible_encoding_is_refused(tmp_path, setting, message):
    with pytest.raises(VideoError, match=message):
        write_video(tmp_path / "clip.mp4", gradient_clip(), **setting)


@given(arrays("float32", (1, 2, 2, 3), elements=st.floats(-2, 3, width=32)))
def test_bytes_are_rounded_and_clipped(values):
    expected = [min(max(float(value), 0.0), 1.0) * 255 for value in values.ravel()]
    got = to_bytes(torch.from_numpy(values)).ravel().tolist()
    assert all(abs(byte - exact) <= 0.5 + 1e-4 for byte, exact in zip(got, expected, strict=True))


def test_interrupted_write_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_contact_sheet_has_one_row_per_video_and_one_column_per_frame():
    red, blue = torch.zeros(3, 16, 16, 3), torch.zeros(2, 16, 24, 3)
    red[..., 0], blue[..., 2] = 1, 1
    sheet = contact_sheet([red, blue], ["source", "edit"], cell=32, gap=2)
    assert sheet.height == 2 + 2 * (32 + 2)
    pixels = [sheet.getpixel((x, 18)) for x in range(sheet.width)]
    assert pixels.count((255, 0, 0)) == 3 * 32
    assert [sheet.getpixel((x, 52)) for x in range(sheet.width)].count((0, 0, 255)) == 2 * 48


def test_contact_sheet_needs_a_label_for_each_row():
    with pytest.raises(VideoError, match="1 rows and 2 labels"):
        contact_sheet([torch.zeros(1, 8, 8, 3)], ["a", "b"])


def test_the_same_frames_give_the_same_file_each_time(tmp_path):
    frames = torch.from_numpy(example_clip().edited(background="sand").frames)  # the encoder's defaults waver here
    files = set()
    for _ in range(150):
        write_video(tmp_path / "a.mp4", frames, 8)
        files.add((tmp_path / "a.mp4").read_bytes())
    assert len(files) == 1


def test_a_clip_that_memory_cannot_hold_is_refused_while_it_is_read(clip_file, monkeypatch):
    monkeypatch.setattr("fatezero_ext.memory.free_memory.free_ram", lambda: 10_000)
    with pytest.raises(VideoError, match=r"more than the free memory.*[Tt]ake a part.*Prepare Frames"):
        read_video(clip_file)
    assert len(read_video(clip_file, transform=lambda frame: frame[:, :8, :8]).frames)


def test_a_clip_that_stays_too_large_as_it_is_fitted_is_refused_too(clip_file, monkeypatch):
    """As by Prepare Frames with a short_side of 0; 92,160 bytes hold the clip, but not twice."""
    monkeypatch.setattr("fatezero_ext.memory.free_memory.free_ram", lambda: 100_000)
    with pytest.raises(VideoError, match="more than the free memory"):
        read_frames(clip_file, AS_IS)
    assert len(read_frames(clip_file, Framing(count=2, short_side=None, centre_square=False))[0]) == 2


def test_a_part_of_a_file_that_memory_cannot_hold_is_refused_while_it_is_read(clip_file, monkeypatch):
    """As by Image From Batch with a length of 4096; frames before the part are passed over and count for nothing."""
    whole = read_video(clip_file).frames
    frames = FileFrames(clip_file)
    monkeypatch.setattr("fatezero_ext.memory.free_memory.free_ram", lambda: whole[0].nbytes * 2)
    with pytest.raises(VideoError, match=r"more than the free memory.*[Tt]ake a part"):
        frames.part(0, 4096)
    assert frames.part(len(whole) - 2, 4096).equal(whole[-2:])
    assert frames.part(4096, 1).equal(whole[-1:])


@pytest.mark.parametrize("kind", ["folder", "animation"])
def test_pictures_that_memory_cannot_hold_are_refused_while_they_are_read(tmp_path, monkeypatch, kind):
    pictures = [Image.new("RGB", (16, 16), (level, 0, 0)) for level in (0, 90, 180, 250)]
    if kind == "folder":
        for number, picture in enumerate(pictures):
            picture.save(tmp_path / f"{number}.png")
    path = tmp_path if kind == "folder" else tmp_path / "moving.webp"
    if kind == "animation":
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    needed = 16 * 16 * 3 * 4 * 2  # bytes of a frame, which is there twice while they become one clip
    monkeypatch.setattr("fatezero_ext.memory.free_memory.free_ram", lambda: 2 * needed)
    with pytest.raises(VideoError, match=r"more than the free memory.*[Tt]ake a part"):
        read_frames(path, AS_IS)
    assert len(read_frames(path, Framing(count=2, short_side=None, centre_square=False))[0]) == 2
