"""Work folders of a training: whose results they hold, what is refused in them, and what goes on."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.models.folder.detect import TOY_FOLDER
from fatezero_ext.toy.training import train
from fatezero_ext.toy.training.autoencoder import AutoencoderTraining, build_autoencoder, train_autoencoder
from fatezero_ext.toy.training.denoiser import build_text_encoder, build_unet
from fatezero_ext.toy.training.diffusion_training import (
    CHECKPOINT,
    DenoiserTraining,
    averaged_models,
    train_denoiser,
)
from fatezero_ext.toy.training.sizes import LARGE, SMALL
from fatezero_ext.toy.training.tokenizer import build_tokenizer
from fatezero_ext.toy.training.train import main

TWO_LEVELS = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture
def stages(monkeypatch):
    """Stages that do nothing, so that the command's own checks are left; the list says which were run."""
    done = []
    monkeypatch.setattr(train, "_STAGES", {name: lambda _, name=name: done.append(name) for name in train.STAGES})
    return done


def trained(folder, *options):
    main(["--output", str(folder / "model"), "--work", str(folder / "work"), *options])


def refused(capsys, folder, *options):
    with pytest.raises(SystemExit):
        trained(folder, *options)
    return " ".join(capsys.readouterr().err.split())


def test_a_work_folder_keeps_the_recipe_it_was_begun_with(tmp_path, capsys, stages):
    begun = ["--objects", "3", "--scenes", "24", "--seed", "5"]
    trained(tmp_path, *begun)
    kept = (tmp_path / "work" / "recipe.json").read_text()
    assert {"objects": 3, "scenes": 24, "seed": 5, "vae_steps": 8500, "start": None}.items() <= json.loads(kept).items()
    for name in ("objects", "scenes", "seed", "vae-steps", "vae-batch", "decoder-steps", "batch", "rate"):
        said = refused(capsys, tmp_path, *begun, f"--{name}", "2")
        assert f"--{name} is 2" in said and "was made with --" in said and "another --work folder" in said
    assert stages == list(train.STAGES) and (tmp_path / "work" / "recipe.json").read_text() == kept
    said = refused(capsys, tmp_path, *begun, "--vae-channels", "16", "32", "64")
    assert "--vae-channels is 16 32 64" in said and "was made without --vae-channels" in said and "out to go on" in said
    free = ["--steps", "7", "--workers", "1", "--loaders", "0", "--probe-every", "0", "--bfloat16"]
    trained(tmp_path, *begun, *free)
    assert stages == 2 * [*train.STAGES]


def test_channels_of_a_vae_widen_that_of_the_model_gone_on_from(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "train_autoencoder", lambda folder, training, *_: asked.append(training))
    begin = ["--stage", "vae", "--start", str(TOY_FOLDER)]
    for name, options in (("usual", []), ("wide", ["--vae-channels", "32", "64", "64"])):
        trained(tmp_path / name, *begin, *options)
    assert [(one.start, one.channels) for one in asked] == [
        (TOY_FOLDER / "vae", (16, 32, 32)),
        (TOY_FOLDER / "vae", (32, 64, 64)),
    ]
    for channels in (("24", "48", "48"), ("16", "64", "64"), ("8", "16", "16")):
        said = refused(capsys, tmp_path / "other", *begin, "--vae-channels", *channels)
        assert "has 16 32 32" in said and "such as 32 64 64" in said
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("built", "words"),
    [
        ({"norm_num_groups": 4}, "norm_num_groups is 4"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention is False"),
        ({"layers_per_block": 2}, "layers_per_block is 2"),
        ({"scaling_factor": 0.5}, "scaling_factor is 0.5"),
        (TWO_LEVELS, "vae is nothing that a training can go on from"),
    ],
)
def test_a_vae_of_another_layout_is_refused_in_words(tmp_path, capsys, stages, built, words):
    shutil.copytree(TOY_FOLDER, tmp_path / "start")
    shutil.rmtree(tmp_path / "start" / "vae")
    AutoencoderKL(**{**build_autoencoder().config, **built}).save_pretrained(tmp_path / "start" / "vae")
    said = refused(capsys, tmp_path, "--start", str(tmp_path / "start"), "--vae-channels", "32", "64", "64")
    assert words in said and not stages


def test_options_of_stages_that_have_not_begun_are_free(tmp_path, capsys, stages, monkeypatch):
    def stopped(_options):
        raise KeyboardInterrupt

    begun = dict(train._STAGES)
    monkeypatch.setitem(train._STAGES, "vae", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "--rate", "0.002", "--scenes", "24", "--vae-steps", "30")
    assert "--vae-steps is 20" in refused(capsys, tmp_path, "--vae-steps", "20")
    monkeypatch.setitem(train._STAGES, "vae", begun["vae"])
    trained(tmp_path, "--rate", "0.001", "--scenes", "48", "--vae-steps", "30")
    assert stages == list(train.STAGES)
    assert "--rate is 0.002" in refused(capsys, tmp_path, "--rate", "0.002", "--scenes", "48", "--vae-steps", "30")


def test_a_stage_is_refused_for_options_that_decide_its_own_results_alone(tmp_path, capsys, stages):
    trained(tmp_path, "--stage", "vae", "--vae-steps", "3")
    (tmp_path / "work" / "vae").mkdir()
    trained(tmp_path, "--stage", "pool", "--scenes", "24")
    assert "--scenes is 48000" in refused(capsys, tmp_path, "--vae-steps", "3")
    assert "--vae-steps is 8500" in refused(capsys, tmp_path, "--scenes", "24")
    assert "--objects is 0" in refused(capsys, tmp_path, "--stage", "pool", "--scenes", "24", "--objects", "0")
    assert stages == ["vae", "pool"]


def test_a_work_folder_from_before_there_were_recipes_goes_on_and_gets_one(tmp_path, stages):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "vae.pt").write_bytes(b"a checkpoint")
    trained(tmp_path, "--start", str(TOY_FOLDER), "--objects", "28", "--vae-steps", "4000")
    assert stages == list(train.STAGES)
    assert json.loads((tmp_path / "work" / "recipe.json").read_text())["vae_steps"] == 4000


def test_a_run_goes_on_from_a_copy_of_its_first_model_and_from_no_other(tmp_path, capsys, stages):
    for name in ("start", "copy", "other"):
        shutil.copytree(TOY_FOLDER, tmp_path / name)
    weights = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(weights).items()}, weights)
    trained(tmp_path, "--start", str(tmp_path / "start"))
    trained(tmp_path, "--start", str(tmp_path / "copy"))
    assert "was begun from another model" in refused(capsys, tmp_path, "--start", str(tmp_path / "other"))
    assert "there is no --start" in refused(capsys, tmp_path)
    trained(tmp_path / "fresh")
    assert "was begun from no model" in refused(capsys, tmp_path / "fresh", "--start", str(tmp_path / "copy"))


def test_attention_alone_is_part_of_the_recipe(tmp_path, capsys, stages):
    begun = ["--start", str(TOY_FOLDER), "--objects", "0"]
    trained(tmp_path, *begun)
    said = refused(capsys, tmp_path, *begun, "--attention-alone")
    assert "--attention-alone is given; what is in" in said and "was made without --attention-alone" in said
    trained(tmp_path / "alone", *begun, "--attention-alone")
    said = refused(capsys, tmp_path / "alone", *begun)
    assert "--attention-alone is not given" in said and "Give --attention-alone to go on" in said


def test_a_model_to_start_from_that_lacks_a_part_is_refused_in_words(tmp_path, capsys, stages):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "model_index.json").write_text("{}")
    said = refused(capsys, tmp_path, "--start", str(tmp_path / "start"))
    assert "start/unet/config.json cannot be read" in said and not stages


@pytest.mark.parametrize(
    "gone",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder",
        "text_encoder/model.safetensors",
        "tokenizer",
        "tokenizer/vocab.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_model_to_start_from_is_read_whole_before_the_first_stage(tmp_path, capsys, stages, gone):
    model, part = tmp_path / "start", (tmp_path / "start" / gone)
    shutil.copytree(TOY_FOLDER, model)
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    said = refused(capsys, tmp_path, "--start", str(model))
    assert f"{model / gone.split('/')[0]} is nothing that a training can go on from" in said and not stages
    assert not (tmp_path / "work" / "recipe.json").exists()


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_model_to_start_from_of_another_width_is_refused_in_words(tmp_path, capsys, stages, part):
    model = tmp_path / "start"
    shutil.copytree(TOY_FOLDER, model)
    config = json.loads((model / part / "config.json").read_text())
    if part == "unet":
        UNet2DConditionModel.from_config({**config, "cross_attention_dim": 32}).save_pretrained(model / part)
    else:
        CLIPTextModel(CLIPTextConfig(**{**config, "hidden_size": 32})).save_pretrained(model / part)
    said = refused(capsys, tmp_path, "--start", str(model))
    assert f"{model / part} is nothing that a training can go on from" in said and not stages


def test_a_vae_of_other_sizes_is_not_taken_over(tmp_path, capsys, stages):
    build_autoencoder().save_config(tmp_path / "work" / "vae")
    assert "[16, 32, 32] channels; these options make one of [32, 64, 64]" in refused(capsys, tmp_path)
    assert not (tmp_path / "work" / "recipe.json").exists() and not stages
    trained(tmp_path, "--objects", "0")


@pytest.mark.parametrize("stage", ["pool", "denoiser", "decoder", "export"])
def test_a_stage_alone_names_the_one_that_must_come_first(tmp_path, capsys, stage):
    said = refused(capsys, tmp_path, "--stage", stage)
    assert f"--stage {stage} reads" in said and "Run --stage vae first" in said
    build_autoencoder().save_config(tmp_path / "work" / "vae")
    second = {"denoiser": "pool", "export": "denoiser"}.get(stage)
    if second:
        assert f"Run --stage {second} first" in refused(capsys, tmp_path, "--stage", stage, "--objects", "0")


def test_a_checkpoint_of_another_model_or_of_more_steps_is_refused_in_words(tmp_path):
    folder = tmp_path / "run"
    tokenizer = build_tokenizer(folder / "tokenizer")
    weights = [*build_unet().parameters(), *build_text_encoder(tokenizer).parameters()]
    state = {"step": 9, "parameters": weights, "average": weights}
    torch.save(state, folder / CHECKPOINT)

    def goes_on(steps=4, channels=SMALL.unet):
        train_denoiser(folder, [], DenoiserTraining(steps, channels=channels), 1, lambda line: None)

    with pytest.raises(SettingsError, match="4 steps are asked for; .*denoiser.pt has done 9. Ask for more"):
        goes_on()
    with pytest.raises(ModelError, match="another size, or knows other words. Give the options it was made with"):
        goes_on(9, LARGE.unet)
    rich = build_tokenizer(folder / "tokenizer", objects=True)
    with pytest.raises(ModelError, match="knows other words"):
        goes_on(9)
    with pytest.raises(ModelError, match="knows other words"):
        averaged_models(folder, rich)
    torch.save(state | {"parameters": weights[:-1]}, folder / CHECKPOINT)
    with pytest.raises(ModelError, match=f"has {len(weights) - 1} weights; the model has {len(weights)}"):
        goes_on(9)
    (folder / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ModelError, match="no checkpoint that can be read"):
        goes_on(9)


def test_a_checkpoint_of_another_vae_is_refused_in_words(tmp_path):
    training = AutoencoderTraining(2, 1e-3, batch=2, stop_at=1, measured=4)
    train_autoencoder(tmp_path / "vae", training, 1, lambda line: None)
    with pytest.raises(ModelError, match="vae.pt has a weight of shape .* another size"):
        train_autoencoder(tmp_path / "vae", replace(training, channels=LARGE.vae), 1, lambda line: None)
    with pytest.raises(SettingsError, match="0 steps are asked for; .* has done 1"):
        train_autoencoder(tmp_path / "vae", replace(training, steps=0), 1, lambda line: None)
