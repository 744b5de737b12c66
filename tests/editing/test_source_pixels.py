"""The source's pixels outside a mask: the formula, its limits, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from fatezero_ext import SettingsError, VideoError, keep_source_pixels
from fatezero_ext.editing import source_pixels

FRAMES = 6  # more than are composed at once
CELL = 8


def clip(seed, frames=FRAMES, height=48, width=80):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


def cells(seed=3, frames=FRAMES, height=6, width=10, share=0.2):
    """A random mask in cells of 8 pixels, of all kinds of corners, borders included."""
    return torch.rand(frames, height, width, generator=torch.Generator().manual_seed(seed)) < share


def enlarged(mask, cell=CELL):
    return mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def share_of_the_edit(mask, **pixels):
    """What the edit has of each pixel, read off a black source and a white edit."""
    height, width = pixels.pop("size", (48, 80))
    black = torch.zeros(len(mask), height, width, 3)
    return keep_source_pixels(black + 1, black, mask, **pixels)[..., 0]


@pytest.fixture(scope="module")
def edited():
    return clip(1)


@pytest.fixture(scope="module")
def source():
    return clip(2)


@pytest.mark.parametrize("cell", [2, 4, 8, 5])
@pytest.mark.parametrize("in_pixels", [True, False])
def test_a_mask_of_cells_is_grown_by_a_cell_and_scaled_bilinearly(cell, in_pixels):
    edited, source = (clip(seed, height=6 * cell, width=10 * cell) for seed in (1, 2))
    mask = cells()
    grown = max_pool2d(mask[:, None].float(), kernel_size=3, stride=1, padding=1)
    weight = interpolate(grown, scale_factor=cell, mode="bilinear", align_corners=False)[:, 0, ..., None]
    assert weight.min() == 0 < weight.max()
    given = enlarged(mask, cell).float() if in_pixels else mask
    found = keep_source_pixels(edited, source, given, grow=cell, feather=cell)
    torch.testing.assert_close(found, weight * edited + (1 - weight) * source)  # both are rounded


def test_a_black_mask_gives_the_source_and_a_white_one_the_edit(edited, source):
    assert keep_source_pixels(edited, source, torch.zeros(1, 6, 10)).equal(source)
    assert keep_source_pixels(edited, source, torch.ones(1, 48, 80)).equal(edited)


def test_far_from_the_edge_both_clips_are_whole(edited, source):
    mask = torch.zeros(1, 48, 80)
    mask[:, :, :40] = 1
    found = keep_source_pixels(edited, source, mask, grow=4, feather=7)
    assert found[:, :, : 44 - 3].equal(edited[:, :, : 44 - 3])
    assert found[:, :, 44 + 3 :].equal(source[:, :, 44 + 3 :])


@pytest.mark.parametrize("grow", [0, 1, 5])
def test_without_feather_a_mask_is_cut_out_hard_where_any_pixel_near_is_in_it(grow):
    mask = cells(height=24, width=40, share=0.01)
    pixels = enlarged(mask, 2)
    wanted = torch.zeros(pixels.shape)
    for frame, row, column in pixels.nonzero():
        wanted[frame, max(row - grow, 0) : row + grow + 1, max(column - grow, 0) : column + grow + 1] = 1
    assert share_of_the_edit(mask, grow=grow, feather=0).equal(wanted)


@pytest.mark.parametrize("feather", [1, 2, 3, 8, 9, 31])
def test_the_feather_is_a_straight_ramp_about_the_edge(feather):
    mask = torch.zeros(1, 48, 80)
    mask[:, :, 40:] = 1
    middle_of_pixels = torch.arange(80) + 0.5
    ramp = ((middle_of_pixels - 40) / feather + 0.5).clamp(0, 1)  # an edge seen through a window
    found = share_of_the_edit(mask, grow=0, feather=feather)
    torch.testing.assert_close(found, ramp.expand(1, 48, 80))


@pytest.mark.parametrize("pixels", [{"grow": 1024, "feather": 0}, {"grow": 0, "feather": 1024}])
def test_the_widest_windows_stay_exact(pixels):
    assert share_of_the_edit(torch.ones(1, 6, 10), **pixels).eq(1).all()
    assert share_of_the_edit(torch.zeros(1, 6, 10), **pixels).eq(0).all()


def test_frames_are_independent_of_how_many_are_composed_at_once(edited, source, monkeypatch):
    whole = keep_source_pixels(edited, source, cells())
    monkeypatch.setattr(source_pixels, "FRAMES_AT_ONCE", 1)
    assert keep_source_pixels(edited, source, cells()).equal(whole)


def test_one_mask_serves_all_frames(edited, source):
    one = cells(frames=1)
    found = keep_source_pixels(edited, source, one)
    assert found.equal(keep_source_pixels(edited, source, one.expand(FRAMES, -1, -1)))


def test_a_source_that_the_vae_cut_to_whole_cells_is_cut_alike_and_its_mask_too(edited, source):
    uncut = torch.zeros(FRAMES, 53, 87, 3)
    uncut[:, 2:50, 3:83] = source
    mask = torch.zeros(FRAMES, 53, 87)
    mask[:, 2:50, 3:83] = enlarged(cells()).float()
    assert keep_source_pixels(edited, uncut, mask).equal(keep_source_pixels(edited, source, cells()))


def test_the_result_has_the_edits_precision_and_the_arguments_stay(edited, source):
    before = edited.clone(), source.clone()
    half = keep_source_pixels(edited.bfloat16(), source, cells())
    whole = keep_source_pixels(edited, source, cells())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.02, rtol=0)  # bfloat16 has 8 bits
    assert edited.equal(before[0]) and source.equal(before[1])


NAN = torch.full((FRAMES, 48, 80, 3), torch.nan)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": clip(2, frames=5)}, VideoError, "'edited' has 6 frames, 'source' has 5; .*Cut the longer"),
        ({"source": clip(2, height=96)}, VideoError, "'edited' is 80x48 pixels, 'source' is 80x96; .*Scale one"),
        ({"source": clip(2)[..., 0]}, VideoError, "'source' has shape .*needed is"),
        ({"source": Path("clip.mp4")}, VideoError, "'source' is .*Path.*values 0..1 are needed.*read_video"),
        ({"edited": np.zeros((6, 48, 80, 3))}, VideoError, r"'edited' is an array shaped \[6, 48, 80, 3\].*needed"),
        ({"edited": (clip(1) * 255).byte()}, VideoError, "'edited' is torch.uint8.*values 0..1 are needed"),
        ({"edited": NAN}, VideoError, "'edited' holds values that are not numbers"),
        ({"source": NAN}, VideoError, "'source' holds values that are not numbers"),
        ({"mask": torch.zeros(2, 6, 10)}, SettingsError, r"mask is shaped \[2, 6, 10\].*6 frames"),
        ({"mask": torch.zeros(1, 6, 6)}, SettingsError, "mask is 6x6.*frames are 48x80.*Crop or scale the mask"),
        ({"mask": NAN[:1, ..., 0]}, SettingsError, "the mask holds values that are not numbers"),
        ({"mask": [[1.0]]}, SettingsError, "the mask is a list; a torch tensor is needed"),
        ({"grow": -1}, SettingsError, "grow is -1; a whole number of pixels, 0 to 1024, is needed"),
        ({"feather": 1025}, SettingsError, "feather is 1025; a whole number of pixels"),
        ({"feather": 0.5}, SettingsError, "feather is 0.5; a whole number of pixels"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_needed(change, error, message):
    given = {"edited": clip(1), "source": clip(2), "mask": cells(), **change}
    with pytest.raises(error, match=message):
        keep_source_pixels(given.pop("edited"), given.pop("source"), given.pop("mask"), **given)
