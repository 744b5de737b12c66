"""Figures of edits whose faults are known: truths that were spoiled by hand."""

import numpy as np
import pytest

from fatezero_ext.toy.evaluation.edits import FAR, measure
from fatezero_ext.toy.evaluation.fresh_clips import fresh_clip
from fatezero_ext.toy.world.clips import Clip, sample_clip, sample_object_clip
from fatezero_ext.toy.world.world import Scene

SOURCE = sample_clip(3, frames=4, shape="circle", colour="red", background="grass")
LEVEL = 1 / 255


def flattened(frames, masks):
    """The frames with each background replaced by its mean."""
    share = masks[..., None]
    mean = (frames * (1 - share)).sum((1, 2), keepdims=True) / (1 - share).sum((1, 2), keepdims=True)
    return (frames * share + mean * (1 - share)).astype(np.float32)


@pytest.fixture(scope="module")
def truth():
    return SOURCE.edited(background="checker")


@pytest.fixture(scope="module")
def perfect(truth):
    return measure(truth.frames, SOURCE, {"background": "checker"})


def test_the_truth_itself_has_no_fault(perfect):
    assert perfect.right == perfect.edited == perfect.kept == perfect.textured == perfect.frames == 4
    assert perfect.stays_psnr == perfect.truth_psnr == perfect.object_psnr == 99
    assert perfect.area == pytest.approx(1, abs=0.08) and perfect.distance < 0.5 and perfect.object_iou > 0.9
    assert perfect.steady == perfect.truth_steady == perfect.flicker == 0 and perfect.left is None


def test_a_background_without_its_texture_does_not_count_though_the_oracle_reads_it(truth):
    frames = truth.frames
    frames[1:3] = flattened(frames, truth.masks)[1:3]
    found = measure(frames, SOURCE, {"background": "checker"})
    assert (found.textured, found.edited, found.kept, found.right) == (2, 2, 4, 2)


def test_a_background_that_was_to_stay_needs_its_texture_as_well():
    clip = sample_clip(3, frames=2, shape="circle", colour="red", background="checker")
    edited = clip.edited(colour="blue")
    changes = {"colour": "blue"}
    assert measure(edited.frames, clip, changes).right == 2
    found = measure(flattened(edited.frames, edited.masks), clip, changes)
    assert (found.edited, found.kept, found.right) == (2, 0, 0)


def test_plain_backgrounds_have_no_texture_to_lose():
    clip = sample_clip(3, frames=2, shape="circle", colour="red", background="gray")
    found = measure(clip.edited(background="white").frames, clip, {"background": "white"})
    assert found.textured == found.right == 2


def test_half_the_contrast_is_the_least_texture(truth):
    frames = truth.frames
    flat = flattened(frames, truth.masks)
    kept = {share: measure(flat + share * (frames - flat), SOURCE, {"background": "checker"}) for share in (0.45, 0.55)}
    assert kept[0.45].textured == 0 and kept[0.55].textured == 4


def test_a_background_that_brightens_by_three_levels_a_frame_is_unsteady_by_three(truth):
    brighter = truth.frames * 0.9 + 3 * LEVEL * np.arange(4, dtype=np.float32)[:, None, None, None]
    found = measure(brighter, SOURCE, {"background": "checker"})
    assert found.steady == pytest.approx(3, abs=1e-3) and found.truth_steady == 0
    assert found.flicker > found.steady  # of the object as well, which moves over it and is 0.9 as bright


def test_what_moves_with_the_object_does_not_make_the_background_unsteady(truth):
    frames, near = truth.frames, truth.masks > 0
    rng = np.random.default_rng(0)
    frames[near] = rng.random((int(near.sum()), 3), np.float32)
    found = measure(frames, SOURCE, {"background": "checker"})
    assert found.steady == 0 and found.flicker > 1


def test_far_begins_a_cell_away_from_the_object():
    scene = Scene("square", "red", "gray", x=32, y=32, radius=10)
    clip = Clip((scene, scene))
    edge = int(np.flatnonzero(clip.masks[0, 32] > 0).max())
    for away, steady in ((FAR, False), (FAR + 1, True)):
        frames = clip.frames
        frames[1, 32, edge + away] += 0.2
        assert (measure(frames, clip, {"colour": "red"}).steady > 0) == steady


def test_an_object_in_the_wrong_place_and_size_is_measured():
    shifted = Clip(
        tuple(
            Scene("circle", "blue", "grass", x=s.x + 3, y=s.y, radius=s.radius, texture=s.texture)
            for s in SOURCE.scenes
        )
    )
    found = measure(shifted.frames, SOURCE, {"colour": "blue"})
    assert found.distance == pytest.approx(3, abs=0.4) and found.area == pytest.approx(1, abs=0.1)
    assert found.right == 4 and found.object_iou < 0.85
    smaller = Clip(
        tuple(
            Scene("circle", "blue", "grass", x=s.x, y=s.y, radius=s.radius * 0.7, texture=s.texture)
            for s in SOURCE.scenes
        )
    )
    assert measure(smaller.frames, SOURCE, {"colour": "blue"}).area == pytest.approx(0.49, abs=0.08)


def test_an_object_that_is_not_there_has_no_area_and_no_place():
    empty = SOURCE.edited(shape="none").frames
    found = measure(empty, SOURCE, {"colour": "blue"})
    assert (found.area, found.distance, found.edited, found.right) == (0, None, 0, 0)


def test_the_truth_of_a_removal_is_the_background_alone():
    empty = SOURCE.edited(shape="none")
    assert empty.masks.max() == 0 and empty.prompt == "the grass"
    outside = SOURCE.masks == 0
    np.testing.assert_array_equal(empty.frames[outside], SOURCE.frames[outside])
    found = measure(empty.frames, SOURCE, {"shape": "none"})
    assert (found.right, found.left, found.object_psnr, found.area) == (4, 0, 99, None)


def test_an_object_that_stayed_or_was_replaced_was_not_taken_away():
    stayed = measure(SOURCE.frames, SOURCE, {"shape": "none"})
    assert (stayed.edited, stayed.left) == (0, 1) and stayed.kept == 4 and stayed.object_psnr < 15
    other = measure(SOURCE.edited(colour="blue").frames, SOURCE, {"shape": "none"})
    assert other.edited == 0


def test_a_single_frame_has_nothing_to_compare_in_time():
    clip = Clip(SOURCE.scenes[:1])
    found = measure(clip.edited(colour="blue").frames, clip, {"colour": "blue"})
    assert found.steady == found.flicker == 0 and found.right == 1


CAT = sample_object_clip(1, frames=3, shape="cat", background="grass")


def test_edits_of_objects_are_read_by_their_pictures():
    to_dog = {"shape": "dog"}
    perfect, unedited = (measure(frames, CAT, to_dog) for frames in (CAT.edited(**to_dog).frames, CAT.frames))
    assert (perfect.right, perfect.stays_psnr, perfect.object_psnr) == (3, 99, 99) and perfect.object_iou > 0.85
    assert (unedited.edited, unedited.kept, unedited.stays_psnr) == (0, 3, 99)
    moved = {"background": "water"}
    found = measure(CAT.edited(**moved).frames, CAT, moved)
    assert (found.right, found.stays_psnr) == (3, 99)
    restyled = {"style": "watercolor"}
    assert measure(CAT.edited(**restyled).frames, CAT, restyled).right == 3


def test_an_object_taken_away_takes_its_shadow_with_it():
    gone = {"shape": "none"}
    truth, masks = CAT.edited(**gone).frames, CAT.masks[..., None] > 0
    perfect, shadow_left = (measure(frames, CAT, gone) for frames in (truth, np.where(masks, truth, CAT.frames)))
    assert (perfect.right, perfect.left, perfect.stays_psnr) == (3, 0, 99)
    assert (shadow_left.edited, shadow_left.kept, shadow_left.left) == (0, 3, 0) and shadow_left.stays_psnr > 60


def test_where_shadows_move_nothing_counts_as_still():
    for index in range(8):
        clip = fresh_clip(5, index, frames=4, world="objects")
        assert measure(clip.frames, clip, {"background": clip.scenes[0].background}).truth_steady < 0.05
