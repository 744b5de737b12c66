from dataclasses import replace

import numpy as np
import pytest

from fatezero_ext.toy.world.captions import (
    BACKGROUND,
    OBJECT,
    TEMPLATES,
    Wording,
    caption,
    caption_words,
    sample_wording,
)
from fatezero_ext.toy.world.clips import sample_clip
from fatezero_ext.toy.world.render import background, object_mask, render, shape_mask
from fatezero_ext.toy.world.world import BACKGROUNDS, COLOURS, SHAPES, SIZE, STYLES, Scene, is_visible, scene_at

SCENES = [scene_at(11, index) for index in range(120)]


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.95**2),
        ("square", (2 * 0.84) ** 2),
        ("triangle", 2.1 * 1.85 / 2),
        ("cross", 4 * 0.34 * 2 - 4 * 0.34**2),
    ],
)
def test_masks_cover_the_area_that_geometry_gives(shape, area):
    assert shape_mask(shape, 31.3, 30.8, 14.0).sum() == pytest.approx(area * 14.0**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_an_object_by_whole_pixels_moves_its_mask_by_as_many(shape):
    here, there = shape_mask(shape, 28.25, 30.5, 12.0), shape_mask(shape, 33.25, 27.5, 12.0)
    np.testing.assert_array_equal(np.roll(here, (-3, 5), axis=(0, 1)), there)


def test_every_object_lies_inside_its_frame():
    for scene in SCENES:
        mask = object_mask(scene)
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) < 1
        assert mask.sum() > 80


def test_drawing_a_scene_again_gives_the_same_picture():
    for index, scene in enumerate(SCENES[:20]):
        np.testing.assert_array_equal(render(scene), render(scene_at(11, index)))


def test_pictures_are_floats_between_0_and_1():
    for scene in SCENES:
        picture = render(scene)
        assert picture.dtype == np.float32
        assert picture.shape == (SIZE, SIZE, 3)
        assert 0 <= picture.min() <= picture.max() <= 1


def test_objects_that_cannot_be_seen_are_never_drawn():
    assert all(is_visible(scene.colour, scene.background) for scene in SCENES)


def test_every_attribute_occurs_among_a_few_hundred_scenes():
    many = [scene_at(12, index) for index in range(600)]
    assert {scene.shape for scene in many} == set(SHAPES)
    assert {scene.colour for scene in many} == set(COLOURS)
    assert {scene.background for scene in many} == set(BACKGROUNDS)
    assert 0.3 < np.mean([scene.style in STYLES for scene in many]) < 0.42


def test_outside_the_object_a_plain_picture_is_its_background():
    for scene in SCENES:
        plain = replace(scene, style="none")
        outside = object_mask(plain) == 0
        np.testing.assert_array_equal(render(plain)[outside], background(plain)[outside])


@pytest.mark.parametrize("style", ["sketch", "monochrome"])
def test_colourless_styles_have_equal_channels(style):
    picture = render(Scene("heart", "red", "grass", style))
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


def test_the_pixel_style_is_even_inside_each_block():
    picture = render(Scene("star", "yellow", "water", "pixel"))
    blocks = picture.reshape(16, 4, 16, 4, 3)[:, :3, :, :3]
    assert np.ptp(blocks, axis=(1, 3)).max() < 1e-6


def test_an_unknown_colour_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="colour is 'pink'.*red, orange"):
        Scene("circle", "pink", "grass")


def test_the_plainest_captions_read_as_documented():
    assert caption(Scene("circle", "red", "grass")) == "a red circle on the grass"
    assert caption(Scene("circle", "orange", "white")) == "an orange circle on plain white"
    assert caption(Scene("star", "blue", "brick", "watercolor")) == "a watercolor painting of a blue star on the bricks"


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@pytest.mark.parametrize("change", [{"colour": "orange"}, {"shape": "heart"}, {"background": "white"}])
def test_a_changed_attribute_keeps_the_number_of_words(template, change):
    source = Scene("circle", "red", "grass", radius=10.0)
    before, after = caption(source, template).split(), caption(replace(source, **change), template).split()
    assert len(before) == len(after)
    assert 1 <= sum(one != other for one, other in zip(before, after, strict=True)) <= 2


def test_words_with_a_role_name_the_object_and_the_background():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        words = caption_words(scene, sample_wording(rng))
        assert {word for word, role in words if role == OBJECT} == {scene.colour, scene.shape}
        assert any(role == BACKGROUND for _, role in words)


def test_the_style_can_stand_behind_the_scene():
    scene = Scene("circle", "red", "grass", "watercolor")
    words = [word for word, _ in caption_words(scene, Wording(style=-1))]
    assert " ".join(words) == "a red circle on the grass in watercolor style"


def test_a_colour_edit_changes_the_object_and_nothing_else():
    clip = sample_clip(5, colour="red")
    edit = clip.edited(colour="blue")
    changed = np.abs(edit.frames - clip.frames).max(axis=-1) > 0
    np.testing.assert_array_equal(changed, clip.masks > 0)


def test_a_background_edit_keeps_the_inside_of_the_object():
    clip = sample_clip(6, colour="red", background="grass")
    edit = clip.edited(background="water")
    inside = clip.masks >= 1
    np.testing.assert_allclose(edit.frames[inside], clip.frames[inside], atol=1e-6)
    assert np.abs(edit.frames - clip.frames)[clip.masks == 0].mean() > 0.1


def test_the_object_of_a_clip_moves_smoothly_over_a_background_that_stands_still():
    clip = sample_clip(7, frames=8)
    centres = np.array([(scene.x, scene.y) for scene in clip.scenes])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert 0.5 < steps.min() <= steps.max() < 6
    never = clip.masks.max(axis=0) == 0
    assert np.ptp(clip.frames[:, never], axis=0).max() == 0


def test_an_edit_that_hides_the_object_is_refused():
    with pytest.raises(ValueError, match="blue object cannot be seen on 'water'"):
        sample_clip(1, colour="red", background="water").edited(colour="blue")
