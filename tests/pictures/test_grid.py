"""Clips side by side."""

import pytest
import torch
from PIL import ImageFont

from fatezero_ext.errors import VideoError
from fatezero_ext.pictures.comparison_grid import GAP, MOST_LINES, centre_crop_like, compare
from fatezero_ext.pictures.labelled_sheet import ELLIPSIS, wrapped

SIZE = (3, 20, 30, 3)


def flat(value):
    return torch.full(SIZE, value)


def pictures(sheet, clips, across):
    """Where each clip's pictures stand, found by their rows and columns counted from the sheet's end."""
    height, width = SIZE[1:3]
    down = -(-clips // across)
    cell = (sheet.shape[1] - GAP) // down
    for number in range(clips):
        top = GAP + (number // across + 1) * cell - GAP - height
        left = GAP + number % across * (width + GAP)
        yield sheet[:, top : top + height, left : left + width]


@pytest.mark.parametrize(("clips", "across"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_every_clip_keeps_its_exact_pixels_at_its_place(clips, across):
    generator = torch.Generator().manual_seed(clips)
    stack = [torch.rand(*SIZE, generator=generator) for _ in range(clips)]
    sheet = compare(stack, [f"clip {number}" for number in range(clips)])
    assert sheet.shape[2] in (GAP + across * (30 + GAP), GAP + across * (30 + GAP) + 1)
    for clip, picture in zip(stack, pictures(sheet, clips, across), strict=True):
        assert picture.equal(clip)


@pytest.mark.parametrize(("height", "width"), [(15, 21), (16, 21), (15, 22), (16, 22)])
def test_sides_are_even_so_that_the_grid_can_be_encoded(height, width):
    sheet = compare([torch.rand(1, height, width, 3)] * 3, ["a", "b", "c"])
    assert sheet.shape[1] % 2 == 0 and sheet.shape[2] % 2 == 0


def test_the_label_stands_above_its_picture_and_nowhere_else():
    sheet = compare([flat(1.0)] * 2, ["I", ""])
    ink = (sheet[0] < 0.5).all(dim=-1)
    assert ink.any() and not ink[-(20 + GAP) :].any() and not ink[:, GAP + 30 :].any()
    assert sheet[0].equal(sheet[2])


def test_values_outside_the_range_are_clipped():
    assert compare([flat(1.5)], ["bright"]).max() == 1


def test_long_labels_are_wrapped_and_shortened_to_the_width():
    font = ImageFont.load_default(size=10)
    lines = wrapped("a silver jeep driving down a curvy road in the countryside " * 3, font, 90, MOST_LINES)
    assert len(lines) == MOST_LINES and lines[-1].endswith(ELLIPSIS)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert " ".join(lines).startswith("a silver jeep driving down")


def test_a_single_word_wider_than_the_picture_is_shortened():
    font = ImageFont.load_default(size=10)
    lines = wrapped("incomprehensibilities", font, 40, MOST_LINES)
    assert lines[0].endswith(ELLIPSIS) and font.getlength(lines[0]) <= 40


def test_short_labels_stay_as_they_are():
    assert wrapped("a red circle", ImageFont.load_default(size=10), 400, MOST_LINES) == ["a red circle"]
    assert wrapped("", ImageFont.load_default(size=10), 400, MOST_LINES) == [""]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.zeros(2, 20, 30, 3), "'edit' has 2 frames, 'source' has 3"),
        (torch.zeros(3, 20, 32, 3), "'edit' is 32x20 pixels, 'source' is 30x20"),
        (torch.zeros(3, 20, 30, 4), "'edit' has shape"),
        (torch.zeros(0, 20, 30, 3), "'edit' has shape"),
    ],
)
def test_clips_that_do_not_fit_are_named(other, words):
    with pytest.raises(VideoError, match=words):
        compare([flat(0.0), other], ["source", "edit"])


def test_a_label_for_each_clip_is_needed():
    with pytest.raises(VideoError, match="2 clips and 1 labels"):
        compare([flat(0.0)] * 2, ["source"])


@pytest.mark.parametrize(("height", "rows"), [(20, slice(None)), (21, slice(0, 20)), (27, slice(3, 23))])
def test_a_source_is_cut_as_a_vae_cuts_it(height, rows):
    source, edit = torch.rand(3, height, 30, 3), flat(0.5)
    assert centre_crop_like(source, edit).equal(source[:, rows])


@pytest.mark.parametrize("height", [19, 28])
def test_a_source_of_another_size_stays_as_it_is_and_is_refused(height):
    source, edit = torch.rand(3, height, 30, 3), flat(0.5)
    assert centre_crop_like(source, edit) is source
    with pytest.raises(VideoError, match="equal size"):
        compare([source, edit], ["source", "edit"])
