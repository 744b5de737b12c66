"""Sheets of clips that a page plays."""

import numpy as np
import pytest
import torch

from fatezero_ext.diffusion.noise_model import LatentFormat
from fatezero_ext.pictures.film_sheet import BLOCK, LONGEST, MOST_FRAMES, MOST_PIXELS, SHORTEST, film_sheet, lit
from fatezero_ext.pictures.labelled_sheet import Tile


def grey(values, height=32, width=48):
    """A clip whose frame number k has the colour of `values[k]`."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, height, width, 3).clone()


def cells_of(sheet):
    """The colours of the middle of each picture, [frames, columns]."""
    rows, columns = sheet.frames, len(sheet.labels)
    pixels = np.asarray(sheet.picture).reshape(rows, sheet.picture.height // rows, columns, -1, 3)
    return pixels[:, pixels.shape[1] // 2, :, pixels.shape[3] // 2, 0] / 255


def test_frames_stand_below_each_other_and_clips_beside_each_other():
    sheet = film_sheet([Tile("source", grey([0.0, 0.2, 0.4])), Tile("edit", grey([0.6, 0.8, 1.0]))])
    assert (sheet.frames, sheet.labels) == (3, ("source", "edit"))
    np.testing.assert_allclose(cells_of(sheet), [[0.0, 0.6], [0.2, 0.8], [0.4, 1.0]], atol=1 / 255)


def test_of_a_long_clip_frames_from_first_to_last_are_shown():
    shades = torch.linspace(0, 1, 200).tolist()
    shown = cells_of(film_sheet([Tile("source", grey(shades, 16, 16))]))[:, 0]
    assert len(shown) == MOST_FRAMES
    np.testing.assert_allclose(shown, np.linspace(0, 1, MOST_FRAMES), atol=0.01)


def test_small_pictures_of_one_clip_are_enlarged_and_their_proportions_stay():
    sheet = film_sheet([Tile("source", grey([0.5], 16, 32))])
    assert sheet.picture.size == (LONGEST, LONGEST // 2)


@pytest.mark.parametrize("clips", [1, 9, 76, 500])
def test_a_sheet_has_whole_blocks_and_no_more_pixels_than_allowed(clips):
    sheet = film_sheet([Tile(str(number), grey([0.5] * 16, 4, 6)) for number in range(clips)])
    width, height = sheet.picture.width // len(sheet.labels), sheet.picture.height // sheet.frames
    assert width % BLOCK == height % BLOCK == 0 and width >= SHORTEST - BLOCK
    assert sheet.picture.width * sheet.picture.height <= MOST_PIXELS
    assert len(sheet.labels) == min(clips, MOST_PIXELS // (16 * SHORTEST**2))


def test_pictures_that_are_no_numbers_are_black():
    assert cells_of(film_sheet([Tile("edit", grey([float("nan")]))])) == 0


def test_a_mask_leaves_its_inside_and_darkens_the_rest():
    frames, mask = torch.rand(2, 4, 4, 3), torch.zeros(2, 4, 4)
    mask[:, :2] = 1
    shown = lit(frames, mask)
    torch.testing.assert_close(shown[:, :2], frames[:, :2])
    assert (shown[:, 2:] < frames[:, 2:].amax(dim=-1, keepdim=True)).all()
    assert (shown[:, 2:].amax(-1) == shown[:, 2:].amin(-1)).all()  # grey


def test_a_mask_over_large_frames_is_drawn_small():
    assert lit(torch.rand(1, 512, 1024, 3), torch.ones(1, 64, 128)).shape == (1, LONGEST // 2, LONGEST, 3)


def test_rough_frames_have_one_pixel_a_cell_and_are_grey_for_other_latents():
    latents = torch.randn(3, 4, 5, 6) * 3
    rough = LatentFormat().rough_frames(latents)
    assert rough.shape == (3, 5, 6, 3) and 0 <= rough.min() < rough.max() <= 1
    torch.testing.assert_close(LatentFormat().rough_frames(torch.zeros(1, 4, 2, 2)), torch.full((1, 2, 2, 3), 0.5))
    assert (LatentFormat().rough_frames(torch.randn(1, 16, 2, 2)) == 0.5).all()
