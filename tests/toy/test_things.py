"""The oracle of objects and of two things in a frame."""

import numpy as np
import pytest

from fatezero_ext.models.folder.detect import TOY_FOLDER
from fatezero_ext.toy.evaluation import objects, progress
from fatezero_ext.toy.evaluation.oracle import read_style
from fatezero_ext.toy.evaluation.progress import COLUMNS, draw_and_read, prompt_scenes, words_right
from fatezero_ext.toy.evaluation.things import read_ground, read_scene
from fatezero_ext.toy.training.autoencoder import build_autoencoder
from fatezero_ext.toy.training.denoiser import build_text_encoder, build_unet
from fatezero_ext.toy.training.tokenizer import build_tokenizer
from fatezero_ext.toy.world.clips import sample_object_clip
from fatezero_ext.toy.world.outline import overlap
from fatezero_ext.toy.world.render import background, object_mask, render, thing_masks
from fatezero_ext.toy.world.rich import rich_scene_at
from fatezero_ext.toy.world.world import BACKGROUNDS, OBJECTS, STYLES, Scene, Thing

FEW = OBJECTS[:4]
PAIR = Scene("cat", "own", "grass", x=19.0, y=30.0, radius=11.0, second=Thing("circle", "red", 45.0, 36.0, 10.0))


def read_pair(scene, things=2):
    return read_scene(render(scene), things=things, objects=FEW)


def test_a_watercolor_that_is_white_and_grey_but_for_a_mouth_is_no_sketch():
    picture = render(Scene("ghost", "own", "checker", "watercolor", x=31.0, y=32.0, radius=16.0))
    assert read_style(picture) == "sketch"  # by the share of colour that shapes have
    assert read_scene(picture).style == "watercolor"


@pytest.mark.parametrize("name", FEW)
def test_an_object_is_found_where_it_was_drawn(name):
    scene = Scene(name, "own", "grass", x=27.0, y=35.0, radius=13.0, angle=9.0, mirror=True)
    reading = read_pair(scene, 1)
    found = reading.things[0]
    assert (found.shape, found.colour, reading.background, reading.style) == (name, None, "grass", "none")
    assert np.hypot(found.x - 27.0, found.y - 35.0) < 1.0 and abs(found.radius - 13.0) < 1.0
    assert overlap(found.mask, object_mask(scene)) > 0.85


def test_a_coloured_shape_is_told_from_an_object():
    found = read_pair(Scene("heart", "yellow", "water"), 1).things[0]
    assert (found.shape, found.colour) == ("heart", "yellow")


def test_both_of_two_things_are_found():
    reading = read_pair(PAIR)
    assert {thing.shape for thing in reading.things} == {"cat", "circle"}
    for thing in reading.things:
        true = thing_masks(PAIR)[0 if thing.shape == "cat" else 1]
        assert overlap(thing.mask, true) > 0.8


def test_a_second_thing_is_not_made_up():
    assert len(read_pair(Scene("dog", "own", "water", radius=14.0)).things) == 1


def empty(ground):
    return background(Scene("circle", "black" if ground == "yellow" else "yellow", ground, texture=5))


@pytest.mark.parametrize("ground", BACKGROUNDS)
def test_the_background_is_read_without_a_thing_on_it(ground):
    assert read_ground(empty(ground)) == ground


@pytest.mark.parametrize("ground", ["sky", "brick", "gray"])
def test_nothing_is_found_in_an_empty_scene(ground):
    assert read_scene(empty(ground), objects=FEW).things == ()


def test_flat_grey_is_no_checkerboard():
    assert read_ground(np.full((64, 64, 3), 0.48, np.float32)) == "gray"


@pytest.mark.parametrize("light", [0.64, 0.7])
def test_a_wash_of_watercolor_on_grey_has_no_stripes(light):
    y, x = np.mgrid[:64, :64] / 64
    wave = 0.06 * np.sin(3 * np.pi * x) * np.cos(2 * np.pi * y)
    assert read_ground((light + wave[..., None] + np.array([-0.03, 0, 0.03])).astype(np.float32)) == "gray"


@pytest.mark.parametrize("seed", [1149, 5017])  # a big elephant, and an apple on a sky with hardly a cloud at its edge
def test_a_sky_is_read_that_shows_little_of_its_clouds(seed):
    clip = sample_object_clip(seed, frames=1)
    assert (clip.scenes[0].background, read_ground(clip.frames[0])) == ("sky", "sky")


@pytest.mark.parametrize("style", STYLES)
def test_an_object_is_read_in_every_style(style):
    reading = read_scene(render(Scene("cat", "own", "grass", style, radius=15.0, angle=5.0)), objects=FEW)
    assert (reading.things[0].shape, reading.style) == ("cat", style)


def test_words_are_right_or_wrong_as_the_caption_says():
    assert words_right(PAIR, read_pair(PAIR)) == {"background": 1.0, "pair": 1.0}
    cat = Scene("cat", "own", "grass")
    assert words_right(cat, read_pair(Scene("dog", "own", "sand", radius=14.0), 1)) == {
        "background": 0.0,
        "object": 0.0,
    }
    circle, square = Scene("circle", "red", "sky"), Scene("square", "red", "sky")
    assert words_right(circle, read_pair(square, 1)) == {"background": 1.0, "shape": 0.0, "colour": 1.0}


def test_an_unfinished_model_is_tested_and_its_pictures_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "STEPS", 2)
    tokenizer = build_tokenizer(tmp_path / "tokenizer", objects=True)
    build_autoencoder().save_pretrained(tmp_path / "vae")
    figures = draw_and_read(tmp_path, FEW, build_unet().eval(), build_text_encoder(tokenizer).eval(), 7, prompts=4)
    assert set(figures) == {"background", "colour", "object", "pair", "shape"}
    assert all(0 <= value <= 1 for value in figures.values())
    assert (tmp_path / "drawn000007.png").stat().st_size > 1000 and COLUMNS == 8


def test_tested_prompts_are_the_same_every_time_and_of_all_kinds():
    scenes = prompt_scenes(FEW)
    assert scenes == prompt_scenes(FEW)
    assert [sum(scene.second is not None for scene in scenes), len(scenes)] == [6, 24]


@pytest.mark.slow
def test_rich_scenes_are_read_right():
    right = {}
    for index in range(60):
        scene = rich_scene_at(31, index)
        if scene.style == "none":
            for name, value in words_right(scene, read_scene(render(scene), things=len(scene.things))).items():
                right.setdefault(name, []).append(value)
    assert {name: float(np.mean(values)) >= 0.9 for name, values in right.items()} == dict.fromkeys(right, True)


@pytest.mark.slow
def test_the_objects_of_a_model_are_measured_beside_its_shapes(tmp_path, monkeypatch):
    seeds = []
    made = objects.prompt_scenes
    monkeypatch.setattr(objects, "prompt_scenes", lambda of, count, seed: seeds.append(seed) or made(of, count, seed))
    monkeypatch.setattr(objects, "STEPS", 2)
    amounts = objects.Amounts(prompts=4, styled=1, held=4, seed=77)
    figures = {}
    objects.evaluate(TOY_FOLDER, FEW, amounts, figures, tmp_path / "sheet.png")
    assert {"object", "pair", "shape", "colour", "background", "style sketch"} <= figures.keys()
    shares = [value for name, value in figures.items() if "PSNR" not in name]
    assert all(0 <= value <= 1 for value in shares)
    # The shipped VAE was trained on even shapes: it carries the backgrounds well and objects roughly.
    assert 15 < figures["VAE PSNR of the objects alone"] < figures["VAE PSNR"] < 40
    assert (tmp_path / "sheet.png").exists()
    assert seeds == [77]
