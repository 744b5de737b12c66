"""Frames taken, cropped and scaled as the published data set reader does, and read from folders."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from fatezero_ext.errors import SettingsError, VideoError
from fatezero_ext.media.frame_sources import pictures_in, read_folder, read_frames
from fatezero_ext.media.framing import AS_IS, Framing, crop_and_scale, frame_indices, reframe
from fatezero_ext.media.video import read_video, write_video

CASES = Path(__file__).parents[1] / "cases"
ORIENTATION = 0x0112


def published(frames, framing):
    """The published reader's steps written out: frames [f, h, w, c], margins inside the picture, square result."""
    start, rate = framing.start, framing.sampling_rate
    images = torch.stack([frames[start + number * rate] for number in range(framing.count)]).permute(0, 3, 1, 2)
    height, width = images.shape[-2:]
    left = min(framing.left, width - 1)
    right = min(framing.right, width - left - 1)
    top = min(framing.top, height - 1)
    bottom = min(framing.bottom, height - top - 1)
    images = images[:, :, top : height - bottom, left : width - right]
    height, width = images.shape[-2:]
    short, long = (height, width) if height < width else (width, height)
    long = int(framing.short_side / short * long)
    size = (framing.short_side, long) if height < width else (long, framing.short_side)
    images = interpolate(images, size=size, mode="bilinear", antialias=True)
    height, width = images.shape[-2:]
    top, left = (height - framing.short_side) // 2, (width - framing.short_side) // 2
    return images[:, :, top : top + framing.short_side, left : left + framing.short_side].permute(0, 2, 3, 1)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    margins=st.tuples(*[st.integers(0, 50)] * 4),
    short_side=st.integers(1, 48),
    selection=st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(1, 2)),
)
def test_frames_equal_the_published_readers_steps(size, margins, short_side, selection):
    frames = torch.rand(7, *size, 3, generator=torch.Generator().manual_seed(0))
    left, right, top, bottom = margins
    start, count, rate = selection
    framing = Framing(
        start=start,
        count=count,
        sampling_rate=rate,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        short_side=short_side,
    )
    wanted = published(frames, framing)
    assume(wanted.shape[1:3] == (short_side, short_side))  # theirs fails where rounding leaves less than a square
    torch.testing.assert_close(reframe(frames, framing), wanted, rtol=0, atol=1e-6)


def test_a_square_that_rounds_to_one_pixel_less_stays_square():
    side = next(side for side in range(2, 2000) if int(512 / side * side) == 511)
    assert reframe(torch.rand(1, side, side, 3), Framing()).shape == (1, 512, 512, 3)


def test_margins_are_cut_off_their_own_sides():
    frames = torch.arange(24.0).reshape(1, 4, 6, 1)
    cut = reframe(frames, Framing(left=1, right=2, top=1, short_side=None, centre_square=False))
    assert cut[0, ..., 0].tolist() == [[7, 8, 9], [13, 14, 15], [19, 20, 21]]


@pytest.mark.parametrize(
    ("margins", "remaining"),
    [({"left": 9}, 5), ({"left": 2, "right": 9}, 2), ({"left": 9, "right": 9}, 5)],
)
def test_margins_wider_than_the_picture_leave_one_pixel(margins, remaining):
    frames = torch.arange(6.0).expand(4, 6)[None, ..., None]
    cut = reframe(frames, Framing(**margins, short_side=None, centre_square=False))
    assert cut.shape == (1, 4, 1, 1) and cut.unique().tolist() == [remaining]


@pytest.mark.parametrize(("size", "wanted"), [((60, 90), (20, 30)), ((90, 60), (30, 20)), ((60, 91), (20, 30))])
def test_without_the_centre_crop_the_long_side_follows(size, wanted):
    scaled = reframe(torch.rand(2, *size, 3), Framing(short_side=20, centre_square=False))
    assert scaled.shape == (2, *wanted, 3)


def test_centre_crop_without_scaling_takes_the_middle_square():
    frames = torch.arange(5.0).expand(2, 5)[None, ..., None]
    square = reframe(frames, Framing(short_side=None))
    assert square[0, ..., 0].tolist() == [[1, 2], [1, 2]]


def test_frames_that_fit_already_are_unchanged():
    frames = torch.rand(2, 16, 24, 3)
    assert reframe(frames, Framing(short_side=16, centre_square=False)).equal(frames)
    assert reframe(frames, AS_IS).equal(frames)


@given(
    start=st.integers(0, 9), count=st.none() | st.integers(1, 9), rate=st.integers(1, 4), available=st.integers(0, 12)
)
def test_indices_equal_slicing_a_list_or_there_are_too_few(start, count, rate, available):
    wanted = list(range(available))[start::rate][:count]
    framing = Framing(start=start, count=count, sampling_rate=rate)
    if len(wanted) < (count or 1):
        with pytest.raises(VideoError, match=f"has {available} frames, of which {len(wanted)} from frame {start}"):
            frame_indices(framing, available)
    else:
        assert list(frame_indices(framing, available)) == wanted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"start": -1}, "start is -1; at least 0"),
        ({"count": 0}, "count is 0; at least 1"),
        ({"sampling_rate": 0}, "sampling_rate is 0; at least 1"),
        ({"left": -1}, "left is -1"),
        ({"bottom": -3}, "bottom is -3"),
        ({"short_side": 0}, "short_side is 0"),
        ({"short_side": 20000}, "at most 16384"),
    ],
)
def test_impossible_framings_are_refused(setting, message):
    with pytest.raises(SettingsError, match=message):
        Framing(**setting)


def test_a_sliver_scaled_beyond_any_memory_is_refused_with_its_length():
    with pytest.raises(SettingsError, match="100x1 pixels.*would be 51200 long"):
        crop_and_scale(torch.zeros(1, 100, 50, 3), Framing(left=49))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3)])
def test_what_is_no_stack_of_frames_is_refused(shape):
    with pytest.raises(VideoError, match=r"needed is \[frames, height, width, channels\]"):
        reframe(torch.zeros(shape), AS_IS)


def save(path, value, *, size=(6, 4), mode="RGB", **options):
    """A picture of one grey value, with a white pixel at its top left."""
    picture = Image.new(mode, size, value)
    picture.putpixel((0, 0), {"RGB": (255, 255, 255), "RGBA": (255, 255, 255, 255)}.get(mode, 255))
    picture.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of rising brightness, and a note that is no picture."""
    for number in range(12):
        save(tmp_path / f"frame{number}.png", (10 * number,) * 3)
    (tmp_path / "note.txt").write_text("not a frame")
    (tmp_path / "._frame0.png").write_bytes(b"what some systems leave beside a file")
    return tmp_path


def levels(frames):
    """The grey value of each frame."""
    return [round(value * 255) for value in frames[:, -1, -1, 0].tolist()]


def test_a_folder_gives_its_pictures_in_the_order_of_their_numbers(folder):
    frames = read_folder(folder, AS_IS)
    assert frames.shape == (12, 4, 6, 3) and frames.dtype == torch.float32
    assert levels(frames) == [10 * number for number in range(12)]
    assert frames[:, 0, 0].eq(1).all()


def test_a_selection_of_a_folder_equals_reframing_all_of_it(folder):
    framing = Framing(start=2, count=3, sampling_rate=4, left=1, short_side=16)
    assert levels(read_folder(folder, framing)) == [20, 60, 100]
    torch.testing.assert_close(read_folder(folder, framing), reframe(read_folder(folder, AS_IS), framing))


def test_pictures_that_are_not_taken_are_not_opened(folder):
    (folder / "frame3.png").write_bytes(b"damaged")
    assert levels(read_folder(folder, Framing(start=2, count=2, sampling_rate=2, short_side=None))) == [20, 40]
    with pytest.raises(VideoError, match=r"frame3\.png is not a readable picture"):
        read_folder(folder, AS_IS)


def test_a_cut_off_picture_is_named(folder):
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((60, 40)).save(folder / "frame5.png")
    content = (folder / "frame5.png").read_bytes()
    (folder / "frame5.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"frame5\.png is not a readable picture"):
        read_folder(folder, AS_IS)


def test_a_picture_of_another_size_is_named_with_both_sizes(folder):
    save(folder / "frame7.png", (0, 0, 0), size=(6, 5))
    with pytest.raises(VideoError, match=r"frame7\.png is 6x5 pixels, frame0\.png before it 6x4"):
        read_folder(folder, AS_IS)


def test_too_few_pictures_are_told_with_both_numbers(folder):
    with pytest.raises(VideoError, match=r"has 12 frames, of which 2 from frame 10 on at sampling rate 1; 8 needed"):
        read_folder(folder, Framing(start=10, count=8))


@pytest.mark.parametrize("ending", ["jpg", "webp", "bmp", "tiff", "ppm", "JPEG"])
def test_usual_kinds_of_pictures_are_read(tmp_path, ending):
    save(tmp_path / f"frame.{ending}", (200, 200, 200), size=(16, 16))
    assert levels(read_folder(tmp_path, AS_IS)) == pytest.approx([200], abs=3)


@pytest.mark.parametrize(("mode", "value"), [("L", 80), ("RGBA", (80, 80, 80, 0)), ("LA", (80, 255)), ("P", 80)])
def test_other_colour_modes_become_rgb(tmp_path, mode, value):
    picture = Image.new(mode, (4, 4), value)
    if mode == "P":
        picture.putpalette([level for level in range(256) for _ in range(3)])
    picture.save(tmp_path / "frame.png")
    assert levels(read_folder(tmp_path, AS_IS)) == [80]


def test_sixteen_bit_greys_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(tmp_path / "frame.png")
    frames = read_folder(tmp_path, AS_IS)
    assert frames.shape == (1, 4, 4, 3) and frames.unique().item() == pytest.approx(0x8000 / 0xFFFF)


def test_floating_point_pictures_are_refused_with_the_reason(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "frame.tiff")
    with pytest.raises(VideoError, match=r"frame\.tiff is not a readable picture \(its values are floating-point"):
        read_folder(tmp_path, AS_IS)


def test_a_cameras_rotation_mark_is_applied(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(tmp_path / "frame.png", (0, 0, 0), exif=exif)
    frames = read_folder(tmp_path, AS_IS)
    assert frames.shape == (1, 6, 4, 3) and frames[0, 0, -1].tolist() == [1, 1, 1]


def test_other_programs_files_named_as_pictures_are_not_opened(tmp_path):
    (tmp_path / "frame.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    with pytest.raises(VideoError, match=r"frame\.png is not a readable picture"):
        read_folder(tmp_path, AS_IS)


def test_missing_folders_files_and_folders_without_pictures_are_told_apart(tmp_path):
    with pytest.raises(VideoError, match="cannot read the folder .*absent: No such file"):
        read_folder(tmp_path / "absent", AS_IS)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(VideoError, match="holds 1 files and no picture"):
        pictures_in(tmp_path)
    with pytest.raises(VideoError, match="Not a directory"):
        read_folder(tmp_path / "file.txt", AS_IS)


def test_videos_and_single_pictures_are_read_by_the_same_call(tmp_path, folder):
    write_video(folder / "clip.mp4", read_folder(folder, Framing(short_side=16)), 12, lossless=True)
    framing = Framing(start=1, count=3, sampling_rate=3, short_side=16)
    frames, fps = read_frames(folder / "clip.mp4", framing)
    assert levels(frames) == [10, 40, 70] and fps == 4
    frames, fps = read_frames(folder / "frame4.png", AS_IS)
    assert levels(frames) == [40] and fps is None
    assert levels(read_frames(folder, framing)[0]) == [10, 40, 70]


ANIMATED = ["moving.webp", "moving.gif", "moving.png", "moving.apng"]


def save_animation(path, durations, size=(8, 8)):
    """Pictures of the levels 0, 30, 60, ... that last so many milliseconds."""
    pictures = [Image.new("RGB", size, (30 * number,) * 3) for number in range(len(durations))]
    kind = "PNG" if path.suffix == ".apng" else None
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], duration=durations, lossless=True)


@pytest.mark.parametrize("name", ANIMATED)
def test_an_animated_picture_is_a_clip_with_its_rate(tmp_path, name):
    save_animation(tmp_path / name, [120] * 8)
    frames, fps = read_frames(tmp_path / name, AS_IS)
    assert levels(frames) == [30 * number for number in range(8)] and fps == Fraction(1000, 120)
    frames, fps = read_frames(tmp_path / name, Framing(start=1, count=3, sampling_rate=2, short_side=4))
    assert levels(frames) == [30, 90, 150] and frames.shape == (3, 4, 4, 3) and fps == Fraction(500, 120)


def test_the_reported_animation_has_eight_frames(tmp_path):
    frames, fps = read_frames(CASES / "clip.webp", Framing(count=8, short_side=64))
    assert frames.shape == (8, 64, 64, 3) and fps == 8


@pytest.mark.parametrize("name", ANIMATED)
def test_pictures_that_last_differently_long_keep_their_time_together(tmp_path, name):
    save_animation(tmp_path / name, [40, 80, 40, 640])
    assert read_frames(tmp_path / name, AS_IS)[1] == 5
    assert read_frames(tmp_path / name, Framing(start=1, count=2, short_side=None))[1] == Fraction(2000, 120)


@pytest.mark.parametrize("name", ["moving.gif", "moving.apng"])
def test_pictures_without_time_are_shown_as_browsers_do(tmp_path, name):
    save_animation(tmp_path / name, [0] * 4)
    assert read_frames(tmp_path / name, AS_IS)[1] == 10


def test_pages_and_still_pictures_have_no_rate(tmp_path):
    pages = [Image.new("RGB", (8, 8), (level,) * 3) for level in (10, 20)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    frames, fps = read_frames(tmp_path / "pages.tiff", AS_IS)
    assert levels(frames) == [10, 20] and fps is None
    save(tmp_path / "still.webp", (200, 200, 200), size=(16, 16))
    assert read_frames(tmp_path / "still.webp", AS_IS)[1] is None


def test_too_few_pictures_of_an_animation_are_told_with_both_numbers(tmp_path):
    save_animation(tmp_path / "moving.webp", [100] * 4)
    with pytest.raises(VideoError, match=r"moving.webp has 4 frames, of which 3 from frame 1 on.*; 8 needed"):
        read_frames(tmp_path / "moving.webp", Framing(start=1, count=8))


def test_an_animation_in_a_folder_of_pictures_is_refused(folder):
    save_animation(folder / "frame5.png", [100, 100], size=(6, 4))
    with pytest.raises(VideoError, match=r"frame5.png is not a readable picture .it holds 2 pictures"):
        read_folder(folder, AS_IS)


def test_the_second_view_of_a_cameras_picture_is_not_a_second_frame(tmp_path):
    views = [Image.new("RGB", (8, 8), "white"), Image.new("RGB", (4, 4))]
    views[0].save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=views[1:])
    assert levels(read_folder(tmp_path, AS_IS)) == [255]


def test_a_video_is_fitted_frame_by_frame_with_the_same_result(tmp_path):
    clip = torch.rand(4, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "clip.mp4", clip, 8, lossless=True)
    framing = Framing(start=1, short_side=16, left=3)
    whole = read_video(tmp_path / "clip.mp4")
    frames, rate = read_frames(tmp_path / "clip.mp4", framing)
    torch.testing.assert_close(frames, reframe(whole.frames, framing), rtol=0, atol=1e-6)
    assert rate == whole.fps


def test_a_playlist_does_not_lead_to_other_files(tmp_path):
    write_video(tmp_path / "private.mp4", torch.zeros(2, 16, 16, 3), 8)
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/private.mp4\n#EXT-X-ENDLIST\n"
    for name, text in (
        ("clip.m3u8", playlist),
        ("clip.mp4", playlist),
        ("list.mp4", "ffconcat version 1.0\nfile private.mp4\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="not a readable video"):
            read_frames(tmp_path / name, AS_IS)
