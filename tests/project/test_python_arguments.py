"""What Python callers give in place of another thing is named, with what to give, before the UNet is called."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Capture,
    Controller,
    Reading,
    Reconstruction,
    Storage,
    edit,
    invert,
)
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.errors import FateZeroError, SettingsError
from fatezero_ext.media.video import Video
from fatezero_ext.prompts.prompt import read_prompt

from ..small_runs import EDIT, SOURCE, calls_of, clip, inverted, named

FRAMES = torch.rand(3, 64, 64, 3)
RAW = r"\[frames, channels, height, width\] with at least one frame, raw latents of a VAE"
LATENTS = {
    "channels first": (
        clip(frames=3).transpose(0, 1),
        rf"\[4, 3, 16, 16\], with 3 channels; {RAW}.*give latents.transpose\(0, 1\)",
    ),
    "with a batch axis": (clip().transpose(0, 1)[None], rf"\[1, 4, 3, 16, 16\]; {RAW}.*latents\[0\].transpose\(0, 1\)"),
    "five axes": (clip()[None], rf"\[1, 3, 4, 16, 16\]; {RAW}.*Encode the frames of one clip"),
    "frames": (
        FRAMES,
        rf"\[3, 64, 64, 3\], with 64 channels; {RAW}.*look like frames: give model.vae.encode\(frames\)",
    ),
    "frames, channels first": (FRAMES.permute(0, 3, 1, 2), rf"{RAW}.*encode\(frames.permute\(0, 2, 3, 1\)\)"),
    "frames as bytes": ((FRAMES * 255).byte(), rf"{RAW}.*look like frames.*of values 0..1"),
    "whole numbers": (
        torch.zeros(3, 4, 16, 16, dtype=torch.int64),
        r"torch.int64; numbers with a fraction.*latents.float\(\)",
    ),
    "none": (clip()[:0], rf"\[0, 4, 16, 16\]; {RAW}"),
    "a picture": (FRAMES[0], rf"\[64, 64, 3\]; {RAW}"),
    "numpy": (clip().numpy(), rf"array shaped \[3, 4, 16, 16\] came.*{RAW}.*torch.from_numpy"),
    "a path": ("clip.mp4", rf"'clip.mp4' came.*{RAW}.*encode\(read_video\(path\).frames\)"),
    "a Path": (Path("clip.mp4"), rf"clip.mp4'\) came.*{RAW}.*encode\(read_video\(path\).frames\)"),
    "a video": (Video(FRAMES, 8), rf"a Video came.*{RAW}.*encode\(video.frames\)"),
    "a LATENT": ({"samples": clip()}, rf"a dict came.*{RAW}.*latents\['samples'\]"),
    "a list": ([clip()], rf"a list came.*{RAW}.*Encode the frames"),
    "nothing": (None, rf"None came.*{RAW}"),
}


@pytest.mark.parametrize("case", LATENTS)
def test_what_is_no_raw_latents_is_named(model, case):
    latents, message = LATENTS[case]
    with calls_of(model.unet.net) as calls, pytest.raises(FateZeroError, match=message):
        invert(Controller(model.unet), model.text_encoder, latents, SOURCE, steps=2)
    assert calls == []


@pytest.fixture(scope="module")
def recorded(model):
    return inverted(model, Storage("recompute"), steps=2)


def given(model, recorded, name):
    """Wrong things in the place of a text encoder, with what the message says."""
    return {
        "model": (model, r"a VideoModel came in place of the text encoder.*give model.text_encoder"),
        "tokenizer": (model.text_encoder.tokenizer, r"came in place of the text encoder.*load_model"),
        "network": (model.text_encoder.net, r"CLIPTextModel came in place of the text encoder.*a CLIP of ComfyUI"),
        "VAE": (model.vae, "a VideoVAE came in place of the text encoder"),
        "text": (SOURCE, "driving down a curvy road' came in place of the text encoder"),
        "embedding": (recorded.trace.text, r"a tensor shaped \[1, 77, 32\] came in place of the text encoder"),
    }[name]


@pytest.mark.parametrize("name", ["model", "tokenizer", "network", "VAE", "text", "embedding"])
def test_what_is_no_text_encoder_is_named(model, recorded, name):
    wrong, message = given(model, recorded, name)
    with calls_of(model.unet.net) as calls:
        with pytest.raises(FateZeroError, match=message):
            edit(recorded, wrong, EDIT)
        with pytest.raises(FateZeroError, match=message):
            invert(Controller(model.unet), wrong, clip(), SOURCE, steps=2)
    assert calls == []


@pytest.mark.parametrize("wrong", [[EDIT, EDIT], None, 3])
def test_a_prompt_is_one_text(model, recorded, wrong):
    for call in (
        lambda: edit(recorded, model.text_encoder, wrong),
        lambda: edit(recorded, model.text_encoder, EDIT, negative_prompt=wrong),
        lambda: invert(Controller(model.unet), model.text_encoder, clip(), wrong),
    ):
        with pytest.raises(FateZeroError, match="came in place of the (edit|negative|source) prompt; one text"):
            call()


def test_what_is_no_controller_is_named(model):
    for wrong in (model, model.unet, None):
        with pytest.raises(FateZeroError, match=r"came in place of the controller.*Controller\(model.unet\)"):
            edit(wrong, model.text_encoder, EDIT)
        with pytest.raises(FateZeroError, match=r"came in place of the controller.*Controller\(model.unet\)"):
            invert(wrong, model.text_encoder, clip(), SOURCE)


def test_what_a_controller_is_made_of_is_checked(model):
    with pytest.raises(FateZeroError, match="a VideoModel came in place of the UNet.*give model.unet"):
        Controller(model)
    with pytest.raises(FateZeroError, match=r"'folder' came in place of the UNet.*load_model\(path\).unet"):
        Controller("folder")
    with pytest.raises(FateZeroError, match="UNet2DConditionModel came in place of the UNet"):
        Controller(model.unet.net)
    with pytest.raises(FateZeroError, match=r"capture is a Storage; .*storage=Storage\("):
        Controller(model.unet, Storage())
    with pytest.raises(FateZeroError, match="storage is 'features'; a Storage is needed"):
        Controller(model.unet, Capture(), "features")


def test_settings_are_of_their_own_kind(model, recorded):
    with pytest.raises(FateZeroError, match="settings is a dict; EditSettings, or None, is needed"):
        edit(recorded, model.text_encoder, EDIT, {"cross_replace": 0.8})
    with pytest.raises(FateZeroError, match="blend is .*BlendSettings, 'auto' or None is needed"):
        named(blend=("jeep",))
    with pytest.raises(FateZeroError, match=r"reconstruct is True; a Reconstruction, or None, is needed"):
        invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=2, reconstruct=True)
    assert Reconstruction().guidance == 7.5


AUTHORS = {"default_": 0.8, "car": 0.5, "road": (0.2, 0.6)}


def test_the_authors_windows_are_ours_of_another_spelling(model):
    theirs = named(cross_replace=AUTHORS)
    ours = named(cross_replace=0.8, cross_replace_words={"car": 0.5, "road": (0.2, 0.6)})
    assert theirs == ours and theirs.cross_replace == (0.0, 0.8)
    source, target = (read_prompt(model.text_encoder, text) for text in (SOURCE, EDIT))
    for got, wanted in zip(*(compile_edit(each, source, target, 10).steps for each in (theirs, ours)), strict=True):
        assert got.mix.equal(wanted.mix) and got.gain.equal(wanted.gain)


def test_the_authors_windows_without_a_default_leave_other_words_to_the_source_at_all_steps():
    assert named(cross_replace={"car": [0.1, 0.5]}).cross_replace == (0.0, 1.0)
    assert named(cross_replace={"car": [0.1, 0.5]}).cross_replace_words == {"car": (0.1, 0.5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_replace": {"car": 0.5}, "cross_replace_words": {"car": 0.4}}, "'car' has a window in cross_replace"),
        ({"cross_replace": {"default_": "all"}}, "cross_replace is 'all'; a finite number"),
        ({"cross_replace": {"car": (0.1, 0.5, 0.9)}}, r"cross_replace of 'car' is \(0.1, 0.5, 0.9\); one bound or two"),
        ({"cross_replace": {"car": (0.9, 0.5)}}, "cross_replace of 'car' is 0.9 to 0.5"),
        ({"cross_replace": {3: 0.5}}, "words of the edit prompt with a value each"),
        ({"self_replace": (0.1,)}, r"self_replace is \(0.1,\); one bound or two"),
        ({"cross_replace_words": 0.5}, "cross_replace_words is 0.5; words of the edit prompt with a value each"),
        ({"equalizer": ["car", 2.0]}, "equalizer is .*words of the edit prompt with a value each"),
        ({"equalizer": {"words": ["car"], "values": [2.0]}}, r"equalizer of 'words' is \['car'\]; a finite number"),
    ],
)
def test_windows_that_cannot_be_read_are_named(options, message):
    with pytest.raises(SettingsError, match=message):
        named(**options)


def test_a_word_of_the_authors_windows_must_be_in_the_edit_prompt(model, recorded):
    with pytest.raises(FateZeroError, match="'Porsche' is not in the prompt"):
        edit(recorded, model.text_encoder, EDIT, named(cross_replace={"default_": 0.8, "Porsche": 0.5}))


@pytest.mark.parametrize("mask", [np.ones((3, 128, 128)), "mask.png"])
def test_what_is_no_mask_is_named(model, recorded, mask):
    with pytest.raises(FateZeroError, match="the mask is a (ndarray|str); a torch tensor is needed"):
        edit(recorded, model.text_encoder, EDIT, named(blend=BlendSettings(("jeep",))), mask=mask)


@pytest.mark.parametrize("words", [5, [5], None, ("jeep", None), {"jeep": 1}.values()])
@pytest.mark.parametrize("name", ["source_words", "edit_words", "subtract_words"])
def test_words_that_are_no_texts_are_refused(name, words):
    with pytest.raises(SettingsError, match=rf"{name} has (5|None|1); words of the prompt are needed.*Write \("):
        BlendSettings(**{"source_words": ("jeep",), name: words})


def test_words_are_kept_as_a_tuple():
    assert BlendSettings(["jeep", "road"]) == BlendSettings(("jeep", "road"))


@pytest.mark.parametrize("window", [0.5, ("a", 1), None, (0.5,), (0.0, 0.5, 1.0), "ab"])
def test_windows_that_are_no_two_numbers_are_refused(window):
    with pytest.raises(SettingsError, match="the steps to read are .*; two fractions, a start and an end, are needed"):
        Reading(window=window)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_settings_can_be_copied_and_pickled(copied):
    settings = named(
        "refine",
        {"default_": 0.8, "car": (0.2, 0.5)},
        equalizer={"car": 2.0},
        blend=BlendSettings("jeep", latents=True),
        guidance=3.0,
    )
    again = copied(settings)
    assert again == settings and again is not settings
    with pytest.raises(TypeError):
        again.equalizer["car"] = 1.0
