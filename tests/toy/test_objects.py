"""The richer half of the toy world: objects, and scenes of two things."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fatezero_ext.toy.world import clips
from fatezero_ext.toy.world.captions import BACKGROUND, OBJECT, SECOND, TEMPLATES, Wording, caption, caption_words
from fatezero_ext.toy.world.clips import sample_clip, sample_object_clip
from fatezero_ext.toy.world.objects import CELL, MARGIN, SHEET, draw_object, shadow, sprite
from fatezero_ext.toy.world.render import background, object_mask, render, thing_masks
from fatezero_ext.toy.world.rich import can_be_seen, rich_scene_at
from fatezero_ext.toy.world.world import BACKGROUNDS, NO_OBJECT, OBJECTS, SIZE, STYLES, Scene, Thing, scene_at

SCENES = [rich_scene_at(11, index) for index in range(150)]
PAIR = Scene("cat", "own", "grass", x=20.0, y=30.0, radius=11.0, second=Thing("circle", "red", 45.0, 34.0, 10.0))
EARLIER = (
    (0, "square", "white", "blue", "pixel", (0.4596, 0.4297, 0.1348, 0.7984, 0.309, 0.1222)),
    (1, "heart", "orange", "night", "none", (0.1608, 0.1071, 0.1509, 0.1575, 0.1682, 0.0795)),
    (2, "cross", "orange", "gray", "none", (0.5271, 0.5267, 0.52, 0.4842, 0.0881, 0.0581)),
    (10, "circle", "orange", "stripes", "none", (0.7165, 0.7428, 0.7553, 0.7631, 0.174, 0.0667)),
    (12, "circle", "black", "stripes", "sketch", (0.7879, 0.8088, 0.8099, 0.7868, 0.0941, 0.0545)),
    (18, "cross", "green", "white", "monochrome", (0.7394, 0.7102, 0.7158, 0.7338, 0.1203, 0.0421)),
    (20, "triangle", "yellow", "grass", "watercolor", (0.5939, 0.6469, 0.6491, 0.4883, 0.1488, 0.0966)),
    (21, "star", "orange", "water", "none", (0.458, 0.435, 0.2867, 0.7094, 0.253, 0.0775)),
)
"""Scenes as they were before there were objects; of their pictures: means of halves, spread, covered share."""


@pytest.mark.parametrize(("index", "shape", "colour", "ground", "style", "figures"), EARLIER)
def test_scenes_without_objects_are_drawn_as_they_were(index, shape, colour, ground, style, figures):
    scene = scene_at(21, index)
    assert (scene.shape, scene.colour, scene.background, scene.style) == (shape, colour, ground, style)
    picture = render(scene)
    halves = picture[:32].mean(), picture[32:].mean(), picture[:, :32, 0].mean(), picture[:, 32:, 2].mean()
    np.testing.assert_allclose((*halves, picture.std(), object_mask(scene).mean()), figures, atol=1e-4)


def test_the_sheet_is_small_and_has_its_licence_beside_it():
    assert SHEET.stat().st_size < 500_000
    assert "Copyright (c) Microsoft Corporation" in (SHEET.parent / "LICENSE").read_text()
    assert len(set(OBJECTS)) == len(OBJECTS) >= 20


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_the_sheet_are_as_large_as_documented_and_stand_on_the_same_line(name):
    left, top, right, bottom = sprite(name).getchannel("A").point(lambda alpha: 255 * (alpha > 32)).getbbox()
    assert abs(max(right - left, bottom - top) - (CELL - 2 * MARGIN)) <= 3
    assert CELL - MARGIN - bottom <= 2


def test_all_objects_differ_from_each_other():
    cells = np.stack([np.asarray(sprite(name).convert("RGBa").resize((12, 12)), np.float32) / 255 for name in OBJECTS])
    apart = np.abs(cells[:, None] - cells[None]).mean(axis=(2, 3, 4)) + np.eye(len(OBJECTS))
    assert apart.min() > 0.04


def test_an_upright_object_of_the_sheets_size_is_the_sheets_picture_reduced():
    radius = (CELL - 2 * MARGIN) / 2 / 3  # a third of the sheet's size
    light, cover = draw_object("cat", 32.0, 32.0, radius)
    expected = np.asarray(sprite("cat").convert("RGBa").reduce(3), np.float32) / 255
    side = CELL // 3
    window = slice(32 - side // 2, 32 + side // 2)
    np.testing.assert_allclose(cover[window, window], expected[..., 3], atol=0.06)
    np.testing.assert_allclose(light[window, window], expected[..., :3], atol=0.06)


def test_moving_an_object_by_whole_pixels_moves_its_picture_by_as_many():
    here, there = draw_object("fox", 28.25, 30.5, 12.0, 7.0), draw_object("fox", 33.25, 27.5, 12.0, 7.0)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(np.roll(one, (-3, 5), axis=(0, 1)), other, atol=0.01)


def test_a_mirrored_object_is_the_picture_the_other_way_round():
    plain, mirrored = draw_object("duck", 32.0, 32.0, 14.0), draw_object("duck", 32.0, 32.0, 14.0, mirror=True)
    for one, other in zip(plain, mirrored, strict=True):
        np.testing.assert_allclose(one[:, ::-1], other, atol=0.02)


def test_a_positive_angle_turns_clockwise():
    _, cover = draw_object("rocket", 32.0, 32.0, 16.0, 15.0)
    upright = Image.fromarray(np.uint8(255 * draw_object("rocket", 32.0, 32.0, 16.0)[1]))
    turned = np.asarray(upright.rotate(-15, Image.Resampling.BICUBIC), np.float32) / 255
    assert np.abs(cover - turned).mean() < 0.5 * np.abs(cover - np.asarray(upright, np.float32) / 255).mean()


def test_outside_an_object_the_picture_is_its_background_in_its_shadow():
    scene = Scene("cat", "own", "grass", texture=3)
    outside = object_mask(scene) == 0
    ground = background(scene) * shadow(scene.x, scene.y, scene.radius)[..., None]
    np.testing.assert_allclose(render(scene)[outside], ground[outside], atol=1e-6)
    assert shadow(32, 32, 12).min() < 0.7 and shadow(32, 32, 12)[:30].min() == 1


def test_masks_of_two_things_add_up_to_what_covers_the_background():
    near = replace(PAIR, second=replace(PAIR.second, x=27.0))
    first, second = thing_masks(near)
    np.testing.assert_allclose(first + second, object_mask(near), atol=1e-6)
    assert (first + second).max() <= 1
    np.testing.assert_array_equal(second, object_mask(Scene("circle", "red", "grass", x=27.0, y=34.0, radius=10.0)))


def test_rich_scenes_have_shapes_objects_and_pairs_in_their_shares():
    many = [rich_scene_at(12, index) for index in range(800)]
    pairs = np.mean([scene.second is not None for scene in many])
    single = np.mean([scene.second is None and scene.things[0].is_object for scene in many])
    assert abs(pairs - 0.20) < 0.06 and abs(single - 0.60) < 0.07
    assert {thing.shape for scene in many for thing in scene.things} >= set(OBJECTS)
    assert {scene.background for scene in many} == set(BACKGROUNDS)
    assert 0.3 < np.mean([scene.style in STYLES for scene in many]) < 0.42


def test_everything_of_a_rich_scene_can_be_seen_and_lies_inside_the_frame():
    for scene in SCENES:
        assert all(can_be_seen(thing.shape, thing.colour, scene.background) for thing in scene.things)
        masks = thing_masks(scene)
        assert all(mask.sum() > 60 for mask in masks)
        assert all(8 <= thing.x <= SIZE - 8 and 8 <= thing.y <= SIZE - 8 for thing in scene.things)


def test_few_objects_are_the_first_of_all_and_none_is_the_world_of_shapes():
    few = [rich_scene_at(12, index, OBJECTS[:3]) for index in range(200)]
    assert {thing.shape for scene in few for thing in scene.things if thing.is_object} == set(OBJECTS[:3])
    assert [rich_scene_at(12, index, ()) for index in range(30)] == [scene_at(12, index) for index in range(30)]


def test_captions_of_objects_and_pairs_read_as_documented():
    assert caption(Scene("cat", "own", "grass")) == "a cat on the grass"
    assert caption(Scene("apple", "own", "sky", "sketch")) == "a pencil sketch of an apple on the sky"
    assert caption(PAIR) == "a cat and a red circle on the grass"


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@pytest.mark.parametrize("change", [{"shape": "owl"}, {"background": "white"}, {"second": Thing("heart", "blue")}])
def test_a_changed_attribute_of_a_pair_keeps_the_number_of_words(template, change):
    before, after = caption(PAIR, template).split(), caption(replace(PAIR, **change), template).split()
    assert len(before) == len(after)
    assert 1 <= sum(one != other for one, other in zip(before, after, strict=True)) <= 2


def test_each_word_has_the_role_of_its_thing():
    roles = {role: word for word, role in caption_words(PAIR, Wording()) if role}
    assert roles == {OBJECT: "cat", SECOND: "circle", BACKGROUND: "grass"}


def test_an_object_in_a_colour_is_refused():
    with pytest.raises(ValueError, match=r"a red cat came.*own colours.*circle"):
        Scene("cat", "red", "grass")


def test_one_animal_in_place_of_another_changes_nothing_but_the_animals():
    clip = sample_object_clip(1, shape="cat", background="grass")
    edit = clip.edited(shape="dog")
    assert edit.prompt == "a dog on the grass"
    outside = (clip.masks <= 0) & (edit.masks <= 0)
    np.testing.assert_array_equal(edit.frames[outside], clip.frames[outside])
    places = [[(s.x, s.y, s.radius, s.angle, s.mirror, s.texture) for s in one.scenes] for one in (clip, edit)]
    assert places[0] == places[1]


def test_the_second_thing_changes_and_the_first_does_not():
    clip = sample_object_clip(2, shape="cat", background="sand", second=Thing("circle", "red"))
    edit = clip.edited(second_shape="heart", second_colour="blue")
    assert edit.prompt == "a cat and a blue heart on the sand"
    first = clip.thing_masks[:, 0] >= 1
    np.testing.assert_array_equal(edit.frames[first], clip.frames[first])
    assert sample_clip(1, shape="circle", background="sand").edited(shape="cat").scenes[0].colour == "own"


def test_a_thing_that_is_taken_away_leaves_the_ground_without_its_shadow():
    clip = sample_object_clip(2, shape="cat", background="sand", second=Thing("circle", "red"))
    for change, prompt in (
        ({"shape": NO_OBJECT}, "a red circle on the sand"),
        ({"second_shape": NO_OBJECT}, "a cat on the sand"),
    ):
        edit = clip.edited(**change)
        left = [replace(scene, second=None) for scene in clip.scenes] if "second_shape" in change else edit.scenes
        assert edit.prompt == prompt
        np.testing.assert_array_equal(edit.frames, np.stack([render(scene) for scene in left]))
    alone = sample_object_clip(2, shape="cat", background="sand").edited(shape=NO_OBJECT)
    assert alone.prompt == "the sand" and alone.masks.max() == 0
    np.testing.assert_array_equal(alone.frames[0], background(alone.scenes[0]))


@pytest.mark.parametrize("seed", range(6))
def test_two_things_of_a_clip_stay_apart_and_inside(seed):
    clip = sample_object_clip(seed, frames=5, second=Thing("pig"))
    one, other = clip.thing_masks[:, 0] > 0, clip.thing_masks[:, 1] > 0
    assert (one & other).sum() < 0.02 * one.sum()
    cover = clip.masks
    assert max(cover[:, edge].max() for edge in (0, -1)) < 1 and max(cover[:, :, edge].max() for edge in (0, -1)) < 1
    assert np.ptp([scene.y for scene in clip.scenes]) > 2


def test_edits_that_cannot_be_are_refused_with_what_to_do(monkeypatch):
    clip = sample_object_clip(1, shape="cat", background="sky")
    with pytest.raises(ValueError, match=r"a snowman cannot be seen on 'sky'.*another object or background"):
        clip.edited(shape="snowman")
    for second in (Thing("circle", "red"), Thing("dog", "own"), None):
        with pytest.raises(ValueError, match=r"a snowman cannot be seen on 'sky'.*another object or background"):
            sample_object_clip(1, shape="snowman", background="sky", second=second)
    with pytest.raises(ValueError, match=r"a white object cannot be seen on 'sky'.*another colour or background"):
        sample_object_clip(1, shape="cat", background="sky", second=Thing("circle", "white"))
    with pytest.raises(ValueError, match=r"a snowman cannot be seen on 'sky'"):
        sample_object_clip(1, background="sky", second=Thing("snowman", "own"))
    monkeypatch.setattr(clips, "can_be_seen", lambda shape, colour, ground: (shape == "cat") == (ground == "grass"))
    for ground, said in (("night", "a cat cannot be seen on 'night'"), (None, "a cat and .* both be seen on any")):
        with pytest.raises(ValueError, match=said):
            sample_object_clip(1, shape="cat", background=ground, second=Thing("circle", "red"))
    with pytest.raises(ValueError, match=r"a cat is to become a circle.*colour='red'"):
        clip.edited(shape="circle")
    with pytest.raises(ValueError, match=r"one thing; changing the second needs two"):
        clip.edited(second_shape="dog")


def test_the_sheet_is_made_by_the_script_that_is_named():
    script = Path(__file__).parents[2] / "docs" / "make_sprites.py"
    listed = script.read_text()
    assert all(f'"{name}": "' in listed for name in OBJECTS)
