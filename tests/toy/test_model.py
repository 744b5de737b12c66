import json

import numpy as np
import pytest
import torch

from fatezero_ext import Controller, EditSettings, InflationSettings, invert, load_toy
from fatezero_ext.editing.edit import plan_edit
from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.models.folder.detect import BUILT_IN_FOLDERS, TOY_FOLDER
from fatezero_ext.toy.evaluation import edit_runs, evaluate
from fatezero_ext.toy.evaluation.edit_runs import Runs
from fatezero_ext.toy.evaluation.evaluate import (
    Settings,
    attention_found,
    decode,
    draw,
    edits_made,
    encode,
    plain_scenes,
    words_drawn,
)
from fatezero_ext.toy.evaluation.fresh_clips import KINDS
from fatezero_ext.toy.evaluation.oracle import read
from fatezero_ext.toy.evaluation.scores import psnr
from fatezero_ext.toy.training.export import load_model
from fatezero_ext.toy.training.tokenizer import build_tokenizer
from fatezero_ext.toy.world.clips import sample_clip
from fatezero_ext.toy.world.render import render
from fatezero_ext.toy.world.world import OBJECTS, sample_scene


@pytest.fixture(scope="module")
def pipeline():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_model(TOY_FOLDER)
    torch.set_num_threads(threads)


BOTH = pytest.mark.parametrize("world", BUILT_IN_FOLDERS)


@BOTH
def test_the_models_are_small_enough_to_ship(world):
    assert sum(path.stat().st_size for path in BUILT_IN_FOLDERS[world].rglob("*") if path.is_file()) < 15e6


@BOTH
def test_the_configuration_names_no_folder_of_the_machine_it_was_trained_on(world):
    folder = BUILT_IN_FOLDERS[world]
    for path in folder.rglob("*.json"):
        assert "/tmp" not in path.read_text() and "/work" not in path.read_text()
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_a_missing_model_is_reported_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ModelError, match="no model_index.json.*fatezero_ext.toy.training.train --output"):
        load_model(tmp_path)


@BOTH
def test_the_shipped_tokenizers_are_those_that_the_code_builds(world, tmp_path):
    build_tokenizer(tmp_path, objects=world == "objects")
    shipped = BUILT_IN_FOLDERS[world] / "tokenizer"
    vocabulary = [json.loads((folder / "vocab.json").read_text()) for folder in (tmp_path, shipped)]
    assert vocabulary[0] == vocabulary[1]


def test_each_model_says_what_it_knows_and_bears_the_name_of_the_list():
    names = {"shapes": "built-in toy model", "objects": "built-in objects model"}
    for world, name in names.items():
        unet = load_toy(world=world).unet
        assert (unet.built_in, unet.name) == (True, name)
        assert unet.objects == (OBJECTS if world == "objects" else ())
    assert load_toy().unet.name == names["shapes"]


@BOTH
def test_new_objects_have_the_guidance_that_suits_the_model(world):
    model = load_toy(world=world)
    latents = torch.zeros(1, 4, 16, 16)
    source = invert(Controller(model.unet), model.text_encoder, latents, "a red circle on the grass", steps=2)
    planned = plan_edit(model.unet, source.inverted(), model.text_encoder, "a red square on the grass", EditSettings())
    assert planned.settings.guidance == {"shapes": 4.0, "objects": 7.0}[world]


@pytest.mark.parametrize("world", ["animals", ["objects"], None])
def test_a_world_that_no_model_draws_is_refused(world):
    with pytest.raises(SettingsError, match="it is shapes or objects"):
        load_toy(world=world)


def test_latents_of_drawn_frames_have_unit_variance(pipeline):
    latents = encode(pipeline, np.stack([render(scene) for scene in plain_scenes(48)]))
    assert ((0.7 < latents.std(dim=(0, 2, 3))) & (latents.std(dim=(0, 2, 3)) < 1.3)).all()


@pytest.mark.slow
def test_the_vae_keeps_frames_well_enough_to_read_them(pipeline):
    scenes = [sample_scene(np.random.default_rng((5, index)), styled_share=0) for index in range(60)]
    frames = np.stack([render(scene) for scene in scenes])
    back = decode(pipeline, encode(pipeline, frames))
    assert psnr(back, frames) > 27
    found = [read(frame) for frame in back]
    for name, level in (("colour", 0.97), ("background", 0.97), ("style", 0.97), ("shape", 0.9)):
        assert (
            np.mean([getattr(one, name) == getattr(scene, name) for one, scene in zip(found, scenes, strict=True)])
            >= level
        )


@pytest.mark.slow
def test_the_model_draws_what_the_prompt_says(pipeline):
    figures = words_drawn(pipeline, Settings(steps=20, prompts=12))
    assert figures["colour"] >= 0.9
    assert figures["background"] >= 0.8
    assert figures["shape"] >= 0.7


def test_the_attention_of_the_shape_word_lies_on_the_object(pipeline):
    figures = attention_found(pipeline, Settings(prompts=16))
    assert figures["attention IoU, best threshold"] > 0.8
    assert figures["attention IoU, threshold 0.3"] > 0.5


@pytest.mark.slow
def test_edits_are_measured_as_edit_quality_does(pipeline, monkeypatch):
    monkeypatch.setattr(evaluate, "EDITED_FRAMES", 1)
    monkeypatch.setattr(edit_runs, "STEPS", 5)
    figures = edits_made(pipeline, Settings(edits=1))
    assert {name.split(" edits, ")[0] for name in figures} == set(KINDS["shapes"]) and None not in figures.values()
    models = {}

    def model(keys):
        return models.setdefault(keys, load_toy(InflationSettings(key_frames=keys)))

    wanted = next(Runs(model, evaluate._SEED, 1).of_clip(0, ("colour",))).figures
    assert figures["colour edits, stays_psnr"] == pytest.approx(wanted.stays_psnr, abs=0.01)
    assert figures["colour edits, right"] == wanted.right


def test_a_style_in_the_prompt_changes_the_style(pipeline):
    clips = [sample_clip(seed, frames=1, style="sketch") for seed in range(2)]
    assert [read(picture).style for picture in draw(pipeline, [clip.prompt for clip in clips], 20)] == ["sketch"] * 2
