from dataclasses import replace

import numpy as np
import pytest

from fatezero_ext.toy.evaluation.oracle import read, read_style
from fatezero_ext.toy.evaluation.scores import accuracy, flicker, object_iou, psnr
from fatezero_ext.toy.world.clips import sample_clip
from fatezero_ext.toy.world.outline import fit_outline, grown, largest_part, overlap
from fatezero_ext.toy.world.render import GLOW, object_mask, render, shape_mask, without_grid
from fatezero_ext.toy.world.world import (
    BACKGROUNDS,
    COLOURS,
    PALETTE,
    PLAINS,
    SHAPES,
    TEXTURE_TONES,
    TEXTURES,
    Scene,
    is_visible,
    scene_at,
)

SCENES = [scene_at(21, index) for index in range(150)]


@pytest.fixture(scope="module")
def readings():
    return [read(render(scene)) for scene in SCENES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attribute", "level"), [("style", 0.97), ("colour", 0.97), ("background", 0.97), ("shape", 0.93)]
)
def test_drawn_frames_are_read_right(readings, attribute, level):
    right = [
        getattr(found, attribute) == getattr(scene, attribute)
        for found, scene in zip(readings, SCENES, strict=True)
        if getattr(found, attribute) is not None
    ]
    assert np.mean(right) >= level


@pytest.mark.slow
def test_plain_frames_are_read_without_a_mistake(readings):
    for found, scene in zip(readings, SCENES, strict=True):
        if scene.style == "none":
            assert (found.shape, found.colour, found.background) == (scene.shape, scene.colour, scene.background)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "level"), [("sketch", 0.9), ("watercolor", 0.85), ("pixel", 0.9), ("monochrome", 0.9)]
)
def test_shapes_are_read_right_in_every_style(style, level):
    scenes = [replace(scene, style=style) for scene in SCENES[:40]]
    assert np.mean([read(render(scene)).shape == scene.shape for scene in scenes]) >= level


@pytest.mark.slow
def test_found_masks_lie_on_the_object(readings):
    ious = [overlap(found.mask, object_mask(scene)) for found, scene in zip(readings, SCENES, strict=True)]
    assert np.mean(ious) > 0.85


@pytest.mark.slow
def test_found_outlines_lie_where_the_object_is(readings):
    off = [
        np.hypot(found.outline.x - scene.x, found.outline.y - scene.y)
        for found, scene in zip(readings, SCENES, strict=True)
        if scene.style == "none"
    ]
    assert np.median(off) < 0.6


def test_bytes_and_floats_read_alike():
    frame = render(SCENES[0])
    one, other = read(frame), read(np.round(frame * 255).astype(np.uint8))
    assert (one.shape, one.colour, one.background, one.style) == (
        other.shape,
        other.colour,
        other.background,
        other.style,
    )


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_are_told_apart(background):
    colour = next(colour for colour in ("yellow", "red", "blue") if is_visible(colour, background))
    assert read(render(Scene("circle", colour, background, texture=4))).background == background


def _with_a_circle(tone, texture):
    """Draw a red or blue circle on one flat tone."""
    colour = next(colour for colour in ("red", "blue") if is_visible(colour, texture))
    mask = object_mask(Scene("circle", colour, texture))[..., None]
    return (1 - mask) * np.asarray(tone, np.float32) + mask * np.asarray(PALETTE[colour], np.float32)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("texture", TEXTURES)
def test_a_flat_frame_between_the_tones_of_a_texture_is_not_that_texture(texture, share):
    dark, light = np.array(TEXTURE_TONES[texture])
    assert read(_with_a_circle(dark + share * (light - dark), texture)).background not in TEXTURES


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_sand_whose_grid_has_blurred_into_it_is_sand(seed):
    frame = render(Scene("heart", "blue", "sand", "pixel", texture=seed))
    assert read(frame * 0.93).background == "sand"


@pytest.mark.parametrize("style", ["pixel", "none"])
def test_pixel_art_is_read_from_a_thing_alone_where_the_ground_is_too_dark_to_show_a_grid(style):
    scene = Scene("square", "orange", "black", style)
    frame = render(scene)
    thing = grown(grown(object_mask(scene) > 0))
    frame[~thing] = np.median(frame[~thing], axis=0)
    assert read_style(frame) == style


def test_a_flat_grey_green_frame_is_no_checkerboard():
    assert read(_with_a_circle((0.45, 0.52, 0.46), "checker")).background not in TEXTURES


@pytest.mark.parametrize("texture", TEXTURES)
def test_a_texture_that_has_faded_to_a_third_is_not_read(texture):
    colour = next(colour for colour in COLOURS if is_visible(colour, texture))
    scene = Scene("circle", colour, texture, texture=5)
    drawn, mask = render(scene), object_mask(scene)
    mean = drawn[mask <= 0].mean(axis=0)
    faded = np.where(mask[..., None] > 0, drawn, mean + (drawn - mean) / 3)
    assert (read(drawn).background, read(faded).background == texture) == (texture, False)


@pytest.mark.parametrize("plain", PLAINS)
def test_paper_grain_on_an_even_background_is_no_texture(plain):
    colour = next(colour for colour in COLOURS if is_visible(colour, plain))
    for grain in range(4):
        assert read(render(Scene("circle", colour, plain, "watercolor", texture=grain))).background == plain


@pytest.mark.parametrize(
    ("shape", "colour", "background"),
    [("circle", "yellow", "checker"), ("square", "orange", "sky"), ("heart", "orange", "stripes")],
)
def test_black_and_white_objects_are_found_on_backgrounds_of_like_greys(shape, colour, background):
    scene = Scene(shape, colour, background, "monochrome", radius=12.0, texture=3)
    found = read(render(scene))
    assert (found.style, found.shape) == ("monochrome", shape)
    assert overlap(found.mask, object_mask(scene)) > 0.7


def _pixel_art(background, grid):
    """Draw pixel art; grid: share of the grid's strength that is left, 0..1."""
    colour = next(colour for colour in COLOURS if is_visible(colour, background))
    drawn = render(Scene("circle", colour, background, "pixel", texture=2))
    blocks = GLOW + (1 - GLOW) * without_grid(drawn)
    return blocks + grid * (drawn - blocks)


@pytest.mark.parametrize("plain", PLAINS)
def test_a_grid_of_a_sixteenth_of_its_strength_is_seen(plain):
    assert read_style(_pixel_art(plain, 1 / 16)) == "pixel"


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_blocks_without_a_grid_are_no_pixel_art(background):
    assert read_style(_pixel_art(background, 0)) != "pixel"


def test_a_frame_without_an_object_has_an_empty_mask():
    assert read(np.full((64, 64, 3), 0.97, np.float32)).mask.sum() == 0


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape \[32, 32, 3\].*reads \[64, 64, 3\]"):
        read(np.zeros((32, 32, 3), np.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_is_recovered_from_its_own_mask(shape):
    found = fit_outline(shape_mask(shape, 27.0, 35.0, 12.0))
    assert (found.shape, found.iou > 0.95) == (shape, True)


def test_the_largest_part_is_kept_whole():
    mask = np.zeros((64, 64), bool)
    mask[5:9, 5:9] = True
    mask[20:40, 20:22] = mask[38:40, 20:50] = True
    kept = largest_part(mask)
    assert not kept[:10].any()
    np.testing.assert_array_equal(kept[10:], mask[10:])


def test_psnr_of_a_known_error():
    black, grey = np.zeros((1, 64, 64, 3), np.float32), np.full((1, 64, 64, 3), 0.1, np.float32)
    assert psnr(grey, black) == pytest.approx(20.0, abs=1e-3)


def test_psnr_counts_only_pixels_of_weight():
    clip = sample_clip(3, colour="red")
    edited = clip.edited(colour="blue").frames
    assert psnr(edited, clip.frames, (clip.masks <= 0).astype(np.float32)) == 99.0
    assert psnr(edited, clip.frames, (clip.masks >= 1).astype(np.float32)) < 15


def test_the_truth_overlaps_itself():
    clip = sample_clip(3)
    assert object_iou(clip.frames, clip.masks) > 0.9


def test_accuracy_asks_for_all_attributes_at_once():
    clip = sample_clip(4, colour="red", shape="circle")
    assert accuracy(clip.frames, colour="red", shape="circle") == 1.0
    assert accuracy(clip.frames, colour="red", shape="heart") == 0.0


def test_flicker_is_what_the_reference_does_not_do():
    clip = sample_clip(2)
    assert flicker(clip.frames, clip.frames) == 0
    blinking = clip.frames.copy()
    blinking[::2] += 1 / 255
    assert flicker(blinking, clip.frames) == pytest.approx(1.0, rel=1e-3)
