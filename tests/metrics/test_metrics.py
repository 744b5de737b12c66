"""PSNR, SSIM and the CLIP figures against direct computations and hand-made cases."""

import math

import numpy as np
import pytest
import torch

from fatezero_ext.errors import VideoError
from fatezero_ext.metrics.clip_scores import Embeddings
from fatezero_ext.metrics.edit_metrics import (
    EditMetrics,
    Similarity,
    as_json,
    frame_accuracy,
    likeness,
    measure_edit,
    report,
    rows,
    temporal_consistency,
)


@pytest.fixture
def clips():
    """A clip of ten frames and one that differs from it in the left half only."""
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(10, 20, 24, 3, generator=generator)
    edited = source.clone()
    edited[:, :, :12] = torch.rand(10, 20, 12, 3, generator=generator)
    return source, edited


def left(frames, height, width):
    mask = torch.zeros(frames, height, width)
    mask[..., : width // 2] = 1
    return mask


def ssim_by_definition(x, y, row, column):
    """SSIM of one channel at one pixel, with the Gaussian window of 11 pixels written out."""
    offsets = np.arange(-5, 6)
    weight = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    x, y = (image[row - 5 : row + 6, column - 5 : column + 6].astype(np.float64) for image in (x, y))
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    var_x, var_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
    cov = (weight * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def test_psnr_equals_its_definition(clips):
    source, edited = clips
    error = np.mean((source.numpy().astype(np.float64) - edited.numpy()) ** 2)
    assert likeness(source, edited).psnr == pytest.approx(10 * np.log10(1 / error))


def test_a_uniform_difference_of_a_tenth_is_20_db():
    source = torch.full((2, 16, 16, 3), 0.5)
    assert likeness(source, source + 0.1).psnr == pytest.approx(20, abs=1e-4)


def test_ssim_at_one_pixel_equals_its_definition(clips):
    source, edited = clips
    mask = torch.ones(10, 20, 24)
    mask[3, 9, 11] = 0
    wanted = [ssim_by_definition(source[3, ..., c].numpy(), edited[3, ..., c].numpy(), 9, 11) for c in range(3)]
    found = likeness(source, edited, mask)
    assert found.ssim == pytest.approx(np.mean(wanted), abs=1e-5)
    assert found.share == pytest.approx(1 / mask.numel())


def test_ssim_of_even_pictures_compares_their_brightness():
    source, edited = torch.full((1, 16, 16, 3), 0.4), torch.full((1, 16, 16, 3), 0.6)
    wanted = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert likeness(source, edited).ssim == pytest.approx(wanted, abs=1e-6)


def test_ssim_is_the_mean_over_frames_however_many_there_are(clips):
    single = [likeness(source[None], edited[None]).ssim for source, edited in zip(*clips, strict=True)]
    assert likeness(*clips).ssim == pytest.approx(np.mean(single), abs=1e-6)


def test_identical_clips_have_infinite_psnr_and_say_so(clips):
    measures = measure_edit(clips[0], clips[0])
    assert math.isinf(measures.likeness.psnr) and measures.likeness.ssim == pytest.approx(1)
    assert "PSNR: infinite, the pixels are identical" in report(measures)
    assert as_json(measures)["psnr"] is None and as_json(measures)["identical"] is True


def test_masked_pixels_do_not_count(clips):
    masked = likeness(*clips, left(10, 20, 24))
    assert math.isinf(masked.psnr) and masked.share == 0.5
    assert masked.ssim > likeness(*clips).ssim


def test_a_masks_single_frame_holds_for_all_and_is_scaled_without_smoothing(clips):
    wanted = likeness(*clips, left(10, 20, 24))
    assert likeness(*clips, left(1, 5, 6)) == wanted
    assert likeness(*clips, left(1, 5, 6)[0]) == wanted
    assert likeness(*clips, left(10, 40, 48)) == wanted


def test_each_frame_has_its_own_mask(clips):
    mask = torch.ones(10, 20, 24)
    mask[4] = 0
    assert likeness(*clips, mask).psnr == pytest.approx(likeness(clips[0][4:5], clips[1][4:5]).psnr)


def test_values_outside_0_to_1_are_compared_as_they_are_shown():
    white = torch.ones(1, 16, 16, 3)
    assert math.isinf(likeness(white, white * 1.5).psnr)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 20, 24, 3), "10 frames of 24x20 and 9 frames of 24x20"),
        ((10, 20, 28, 3), "10 frames of 24x20 and 10 frames of 28x20"),
        ((20, 24, 3), r"the edited clip has shape \[20, 24, 3\]"),
        ((10, 20, 24, 1), r"the edited clip has shape \[10, 20, 24, 1\]"),
        ((0, 20, 24, 3), "the edited clip has shape"),
    ],
)
def test_clips_that_differ_are_refused_with_both_sizes(clips, shape, message):
    with pytest.raises(VideoError, match=message):
        measure_edit(clips[0], torch.zeros(shape))


def test_values_that_are_not_numbers_are_refused(clips):
    clips[1][2, 3, 4, 0] = float("nan")
    with pytest.raises(VideoError, match="the edited clip holds values that are not numbers"):
        likeness(*clips)


def test_frames_smaller_than_the_window_are_refused():
    small = torch.zeros(1, 10, 40, 3)
    with pytest.raises(VideoError, match="40x10; structural similarity needs sides of at least 11"):
        likeness(small, small)


def test_a_mask_that_keeps_nothing_leaves_the_likeness_out_and_says_so(clips):
    measures = measure_edit(*clips, mask=torch.ones(1, 20, 24))
    assert measures.likeness is None and "PSNR and SSIM: not measured, the mask is white" in report(measures)
    assert as_json(measures)["psnr"] is None and as_json(measures)["ssim"] is None


def test_a_mask_with_values_that_are_not_numbers_is_refused(clips):
    with pytest.raises(VideoError, match="mask holds values that are not numbers"):
        likeness(*clips, torch.full((1, 20, 24), float("nan")))


@pytest.mark.parametrize("shape", [(3, 20, 24), (0, 20, 24), (1, 20, 24, 3)])
def test_masks_of_other_clips_are_refused(clips, shape):
    with pytest.raises(VideoError, match="with 1 frame or 10"):
        likeness(*clips, torch.zeros(shape))


def test_a_mask_of_other_proportions_is_not_stretched(clips):
    with pytest.raises(VideoError, match=r"mask is 24x10, the clips are 24x20.*Crop or scale"):
        likeness(*clips, torch.zeros(1, 10, 24))


def unit(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_frame_accuracy_counts_frames_closer_to_the_edit_prompt():
    source, edit = unit(0, 90)
    assert frame_accuracy(unit(10, 50, 80, 30), source, edit) == 0.5


def test_a_tie_counts_for_the_edit_as_published():
    assert frame_accuracy(unit(45, 10), *torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)) == 1.0


def test_temporal_consistency_is_the_mean_cosine_of_neighbours():
    wanted = (math.cos(math.radians(10)) + math.cos(math.radians(40))) / 2
    assert temporal_consistency(unit(0, 10, 50)) == pytest.approx(wanted)


def test_a_single_frame_has_no_temporal_consistency():
    assert temporal_consistency(unit(10)) is None


def still(frame, other):
    """The flow of clips in which nothing moves."""
    return torch.zeros(*frame.shape[:2], 2)


class Angles:
    """A CLIP model that reads the angle of a picture's vector off its first pixel, and sees prompts at 0 and 90."""

    def embeddings(self, frames, prompts, on_picture=None):
        return Embeddings(unit(*(frames[:, 0, 0, 0] * 90).tolist()), unit(0, 90))


@pytest.fixture
def turning():
    """Three frames whose angles are 0, 30 and 60 degrees."""
    frames = torch.zeros(3, 12, 12, 3)
    frames[:, 0, 0, 0] = torch.tensor([0, 1 / 3, 2 / 3])
    return frames


def test_all_figures_are_measured_where_everything_is_given(turning):
    measures = measure_edit(turning, turning, clip=Angles(), source_prompt="a", edit_prompt="b", flow=still)
    assert measures.frame_accuracy == pytest.approx(1 / 3)
    assert measures.temporal_consistency == pytest.approx(math.cos(math.radians(30)))
    assert measures.remarks == () and (measures.frames, measures.height, measures.width) == (3, 12, 12)


@pytest.mark.parametrize(
    ("frames", "settings", "remarks"),
    [
        (3, {}, ["no CLIP model was given"]),
        (3, {"clip": Angles()}, ["needs a source prompt and an edit prompt"]),
        (3, {"clip": Angles(), "source_prompt": "a", "edit_prompt": " "}, ["needs a source prompt and an edit"]),
        (
            1,
            {"clip": Angles(), "source_prompt": "a", "edit_prompt": "b"},
            ["flicker: not measured", "warp error: not measured, it needs at least two", "consistency: not measured"],
        ),
    ],
)
def test_what_was_not_measured_is_said_with_its_reason(turning, frames, settings, remarks):
    measures = measure_edit(turning[:frames], turning[:frames], flow=still, **settings)
    assert len(measures.remarks) == len(remarks)
    for remark, words in zip(measures.remarks, remarks, strict=True):
        assert words in remark and remark in report(measures)


def test_the_report_names_every_figure():
    likely = Similarity(psnr=28.756, ssim=0.91234, share=0.8)
    measures = EditMetrics(8, 64, 96, likely, frame_accuracy=0.875, temporal_consistency=0.97654)
    assert dict(rows(measures)) == {
        "clips": "8 frames of 96x64",
        "frame accuracy": "0.875 (7 of 8 frames)",
        "temporal consistency": "0.9765",
        "PSNR over the 80.0% of pixels that the mask keeps": "28.76 dB",
        "SSIM over the 80.0% of pixels that the mask keeps": "0.9123",
    }
