"""Frames that are made where they are used: the same values and the same files as of a clip that is held whole."""

import sys
from fractions import Fraction

import pytest
import torch

from fatezero_ext import write_video
from fatezero_ext.errors import VideoError
from fatezero_ext.media import made_once
from fatezero_ext.media.clip import FileFrames
from fatezero_ext.media.framing import AS_IS, Framing, reframe
from fatezero_ext.media.made_once import MadeOnce
from fatezero_ext.media.streamed import PART, StreamedFrames, parts_of, read_ahead, regrouped

from ..sounding_clips import write_clip

FRAMES = 2 * PART + 3


@pytest.fixture(scope="module")
def clip():
    return torch.rand(FRAMES, 20, 28, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("streamed") / "clip.mp4"
    write_video(path, clip, 8)
    return path


def streamed(clip, size=5):
    return StreamedFrames(tuple(clip.shape), lambda: iter(clip.split(size)))


def test_parts_are_of_one_length_and_the_whole_is_the_clip(clip):
    found = streamed(clip)
    assert [len(part) for part in found.parts()] == [PART, PART, 3] and len(found) == FRAMES
    assert found.all().equal(clip) and torch.cat(list(parts_of(clip))).equal(clip)
    assert found.nbytes == clip.nbytes


@pytest.mark.parametrize("sizes", [[1] * 9, [20], [8, 8], [3, 17, 1], []])
def test_pieces_of_any_length_become_parts(sizes):
    pieces = torch.arange(sum(sizes)).split(sizes) if sizes else ()
    parts = list(regrouped(pieces))
    assert all(len(part) == PART for part in parts[:-1]) and (not parts or 0 < len(parts[-1]) <= PART)
    assert [int(frame) for part in parts for frame in part] == list(range(sum(sizes)))


@pytest.mark.parametrize(("first", "length"), [(0, 1), (6, 4), (15, 100), (40, 2)])
def test_a_part_is_that_of_the_clip_and_at_least_its_last_frame(clip, file, first, length):
    whole = FileFrames(file).all()
    for frames in (streamed(clip), FileFrames(file).taken_within(AS_IS, 0)):
        wanted = (clip if len(frames) == len(clip) and frames.all().equal(clip) else whole)[min(first, FRAMES - 1) :]
        assert frames.part(first, length).equal(wanted[:length])


@pytest.mark.parametrize(
    "framing",
    [AS_IS, Framing(start=2, count=9, sampling_rate=2, short_side=16), Framing(short_side=None, multiple_of=8)],
)
def test_a_files_frames_are_those_that_are_taken_at_once_however_often_they_are_asked_for(file, framing):
    wanted = FileFrames(file).taken(framing)
    frames = FileFrames(file).taken_within(framing, wanted.nbytes - 1)
    assert isinstance(frames, StreamedFrames) and frames.shape == tuple(wanted.shape)
    for _ in range(2):
        assert frames.all().equal(wanted)
    assert FileFrames(file).taken_within(framing, wanted.nbytes).equal(wanted)


@pytest.fixture
def decoded(clip):
    """A clip whose parts are made once, and the numbers of the parts that were."""
    made = []

    def maker(number, part):
        return lambda: made.append(number) or part.clone()

    once = MadeOnce([maker(*numbered) for numbered in enumerate(clip.split(PART))])
    return StreamedFrames(tuple(clip.shape), once.__iter__, once.part), made


def test_parts_that_cost_much_are_made_once_for_all_that_read_them(decoded, clip):
    frames, made = decoded
    for left, right in zip(frames.parts(), frames.parts(), strict=True):  # as Keep Source Pixels and Compare Clips read
        assert left.equal(right)
    assert frames.all().equal(clip) and made == [0, 1, 2]


def test_one_frame_at_the_end_needs_no_part_before_it(decoded, clip):
    frames, made = decoded
    assert frames.part(FRAMES - 1, 1).equal(clip[-1:]) and made == [2]
    assert frames.part(PART - 2, 4).equal(clip[PART - 2 : PART + 2]) and made == [2, 0, 1]
    assert frames.part(99, 5).equal(clip[-1:]) and frames.all().equal(clip) and made == [2, 0, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such device")
def test_parts_that_the_disk_has_no_room_for_are_made_again(clip, monkeypatch):
    monkeypatch.setattr(made_once, "TemporaryFile", lambda _mode, buffering: open("/dev/full", "r+b", buffering))
    made = []
    once = MadeOnce([lambda: made.append(None) or clip[:PART]])
    assert all(part.equal(clip[:PART]) for _ in range(2) for part in once) and len(made) == 2


def test_streamed_frames_are_framed_as_a_clip_is(clip):
    framing = Framing(start=1, sampling_rate=3, short_side=16, centre_square=True)
    found = streamed(clip).reframed(framing)
    wanted = reframe(clip, framing)
    assert found.shape == tuple(wanted.shape)
    torch.testing.assert_close(found.all(), wanted)


def test_too_few_frames_and_damage_are_found_before_anything_is_used(file):
    with pytest.raises(VideoError, match="Ask for fewer"):
        FileFrames(file).taken_within(Framing(count=50), 0)


def test_a_file_that_changes_while_it_is_used_is_an_error(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, clip, 8)
    frames = FileFrames(path).taken_within(AS_IS, 0)
    frames.all()
    for number in (5, FRAMES):
        write_video(path, clip[:number].flip(0), 8)
        with pytest.raises(VideoError, match="clip.mp4 has changed while it was used.*Run again"):
            frames.all()
    path.unlink()
    with pytest.raises(VideoError, match="clip.mp4"):
        frames.all()


def test_frames_that_come_in_another_number_than_was_said_are_an_error(clip):
    with pytest.raises(VideoError, match=f"had {FRAMES} frames and now has 5"):
        StreamedFrames(tuple(clip.shape), lambda: iter([clip[:5]])).all()


@pytest.mark.parametrize("lossless", [True, False])
def test_a_streamed_clip_is_saved_to_the_same_bytes(clip, tmp_path, lossless):
    for name, frames in (("whole", clip), ("streamed", streamed(clip))):
        write_video(tmp_path / name, frames, Fraction(25, 2), lossless=lossless)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "streamed").read_bytes()


def test_a_streamed_clip_is_saved_with_the_same_sound(clip, tmp_path):
    write_clip(tmp_path / "sounding.mp4", "aac")
    for name, frames in (("whole", clip), ("streamed", streamed(clip))):
        write_video(tmp_path / name, frames, 8, sound=tmp_path / "sounding.mp4")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "streamed").read_bytes()


def test_an_error_of_the_frames_is_not_taken_for_one_of_the_sound_and_leaves_no_file(clip, tmp_path):
    write_clip(tmp_path / "sounding.mp4", "aac")
    asked = []

    def broken():
        asked.append(None)
        yield clip[:PART]
        yield clip[PART:] * float("nan")

    with pytest.raises(VideoError, match="not numbers"):
        write_video(tmp_path / "out.mp4", StreamedFrames(tuple(clip.shape), broken), 8, sound=tmp_path / "sounding.mp4")
    assert len(asked) == 1 and not list(tmp_path.glob("*out*"))


def test_no_more_than_one_piece_is_made_ahead():
    made = []

    def pieces():
        for number in range(6):
            made.append(number)
            yield torch.tensor([number])

    ahead = read_ahead(pieces())
    for used in range(4):
        assert int(next(ahead)) == used and len(made) <= used + 2
    ahead.close()
    assert len(made) <= 5


def test_an_error_while_reading_ahead_reaches_the_reader():
    def pieces():
        yield torch.zeros(1)
        raise VideoError("cut off")

    ahead = read_ahead(pieces())
    next(ahead)
    with pytest.raises(VideoError, match="cut off"):
        next(ahead)
