"""What Python callers give in place of another thing is named, with what to give, before the UNet is called."""

import copy
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Capture,
    Controller,
    EditSettings,
    Reading,
    Reconstruction,
    Storage,
    edit,
    invert,
    keep_source_pixels,
    load_model,
    load_unet,
    read_video,
    resolved_settings,
    write_video,
)
from fatezero_ext.attention.functional import explicit, plain
from fatezero_ext.editing.plan import compile_edit
from fatezero_ext.errors import FateZeroError, ModelError, SettingsError, VideoError
from fatezero_ext.media.framing import Framing, reframe
from fatezero_ext.media.video import Video, to_bytes
from fatezero_ext.metrics.edit_metrics import likeness, measure_edit
from fatezero_ext.pictures.comparison_grid import compare
from fatezero_ext.prompts.prompt import read_prompt

from ..conftest import GOLDEN
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, SOURCE, EDIT), "settings is None; EditSettings are needed"),
        (({"kind": "object"}, SOURCE, EDIT), "settings is a dict; EditSettings are needed"),
        ((EditSettings(), None, EDIT), "None came in place of the source prompt; one text"),
        ((EditSettings(), SOURCE, [EDIT]), "a list came in place of the edit prompt; one text"),
    ],
)
def test_settings_are_resolved_from_settings_and_texts(given, message):
    with pytest.raises(FateZeroError, match=message):
        resolved_settings(*given)


def test_words_that_are_still_auto_are_no_letters():
    blend = BlendSettings("auto", subtract_words=("+shadow",), spare_words="road")
    assert blend.looked_for == ("+shadow", "road")
    assert BlendSettings(("auto", "jeep")).looked_for == ("auto", "jeep")


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_of_numpy_are_numbers(number):
    assert named(self_replace=number).self_replace == (0.0, 0.5) and named(strength=number).strength == 0.5
    assert Storage(budget=np.int64(5)).budget == 5


@pytest.mark.parametrize("call", [lambda path: load_model(path), lambda path: load_unet(path)])
@pytest.mark.parametrize("path", [None, 3, b"model"])
def test_what_is_no_path_of_a_model_is_named(call, path):
    with pytest.raises(ModelError, match="came in place of a path; a text or a Path is needed"):
        call(path)


def test_a_bare_unet_takes_its_kernel_by_name_as_a_model_does():
    folder = GOLDEN / "model" / "unet"
    assert load_unet(folder, attention="sdpa").kernel is plain is load_unet(folder).kernel
    assert load_unet(folder, attention=explicit).kernel is explicit
    for load in (load_unet, load_model):
        with pytest.raises(SettingsError, match="the attention kernel is 'flash'; it must be one of"):
            load("no such folder", attention="flash")


WRONG_CLIPS = {
    "nothing": (None, "None; frames .*0..1 are needed.*read_video"),
    "numpy": (np.zeros((3, 32, 32, 3)), r"an array shaped \[3, 32, 32, 3\]; frames .*0..1 are needed"),
    "a picture": (torch.zeros(32, 32), r"has shape \[32, 32\]; needed is \[frames, height, width, 3"),
    "none": (torch.zeros(0, 32, 32, 3), "with at least one frame"),
    "grey": (torch.zeros(3, 32, 32, 1), r"has shape \[3, 32, 32, 1\]"),
    "bytes": (torch.zeros(3, 32, 32, 3, dtype=torch.uint8), r"torch.uint8; values 0..1 .*frames.float\(\) / 255"),
    "whole": (torch.zeros(3, 32, 32, 3, dtype=torch.int64), r"torch.int64; values 0..1 .*frames.float\(\) / 255"),
}
FITS = torch.zeros(3, 32, 32, 3)


@pytest.mark.parametrize("case", WRONG_CLIPS)
def test_what_are_no_frames_is_named_at_every_border(model, tmp_path, case):
    """Bytes were taken for white, or for equal clips."""
    wrong, message = WRONG_CLIPS[case]
    borders = (
        lambda: model.vae.encode(wrong),
        lambda: model.vae.encode_tiled(wrong),
        lambda: measure_edit(wrong, FITS),
        lambda: measure_edit(FITS, wrong),
        lambda: likeness(wrong, wrong),
        lambda: keep_source_pixels(FITS, wrong, torch.ones(1, 4, 4)),
        lambda: compare([FITS, wrong], ["source", "edited"]),
        lambda: write_video(tmp_path / "clip.mp4", wrong, 8),
        lambda: to_bytes(wrong),
    )
    for border in borders:
        with pytest.raises(VideoError, match=message.replace("has shape", "ha(s|ve) shape")):
            border()
    assert list(tmp_path.iterdir()) == []


def test_frames_as_bytes_are_not_framed():
    with pytest.raises(VideoError, match="torch.uint8; values 0..1 are needed"):
        reframe(WRONG_CLIPS["bytes"][0], Framing())


@pytest.mark.parametrize("mask", [[[1.0]], np.zeros((1, 32, 32)), "mask.png"])
def test_what_is_no_mask_of_a_measure_is_named(mask):
    with pytest.raises(VideoError, match="the mask is .*; a tensor .*or None, is needed"):
        measure_edit(FITS, FITS, mask=mask)


@pytest.mark.parametrize("wrong", [None, [1.0], np.zeros((1, 4, 8, 8))])
def test_what_are_no_latents_is_not_decoded(model, wrong):
    for call in (model.vae.decode, model.vae.decode_tiled):
        with pytest.raises(VideoError, match=r"came in place of latents; a tensor \[frames, 4, height, width\]"):
            call(wrong)


@pytest.mark.parametrize("fps", [0, -1, 1e-4, 1e12, float("nan"), float("inf"), "x", "8", None])
def test_what_is_no_rate_is_named(tmp_path, fps):
    with pytest.raises(VideoError, match="frames per second is no rate; a number from 1/1001 to 2147483647 is needed"):
        write_video(tmp_path / "clip.mp4", FITS, fps)


@pytest.mark.parametrize("fps", [8, 7.5, Fraction(30000, 1001), np.float32(7.5), np.int64(8), Fraction(1, 1001), 1000])
def test_every_kind_of_number_is_a_rate(tmp_path, fps):
    write_video(tmp_path / "clip.mp4", FITS, fps)
    assert read_video(tmp_path / "clip.mp4").fps == Fraction(float(fps)).limit_denominator(1001)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "x"}, "rounding is 'x'; it must be one of round, floor"),
        ({"rounding": None}, "rounding is None; it must be one of round, floor"),
        ({"crf": 17.5}, "crf 17.5 is no quality; x264 takes 0"),
        ({"crf": "17"}, "crf '17' is no quality"),
        ({"sound": 3}, "the sound is 3; the path of a file"),
        ({"path": None}, "None came in place of a path"),
    ],
)
def test_what_is_no_choice_of_an_encoding_is_named(tmp_path, options, message):
    with pytest.raises(VideoError, match=message):
        write_video(**{"path": tmp_path / "clip.mp4", "frames": FITS, "fps": 8, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_sound_file_may_be_named_by_a_text(tmp_path):
    write_video(tmp_path / "clip.mp4", FITS, 8)
    reasons = [write_video(tmp_path / "out.mp4", FITS, 8, sound=kind(tmp_path / "clip.mp4")) for kind in (str, Path)]
    assert reasons[0] == reasons[1] and "without its sound" in reasons[0]


@pytest.mark.parametrize("options", [{"start": "1"}, {"start": 1.5}, {"stride": 2.0}, {"count": "3"}, {"start": True}])
def test_numbers_that_select_no_frames_are_named(tmp_path, options):
    with pytest.raises(VideoError, match="select no frames of absent.mp4; whole numbers are needed"):
        read_video(tmp_path / "absent.mp4", **options)
    with pytest.raises(VideoError, match="None came in place of a path"):
        read_video(None)


def test_whole_numbers_of_numpy_select_frames(tmp_path):
    write_video(tmp_path / "clip.mp4", FITS, 8)
    assert len(read_video(tmp_path / "clip.mp4", start=np.int64(1), count=np.int32(1), stride=np.int64(1)).frames) == 1
    grown = keep_source_pixels(FITS, FITS + 1, torch.zeros(1, 4, 4), grow=np.int64(3), feather=np.int64(8))
    assert grown.equal(FITS + 1)


@pytest.mark.parametrize("options", [{"start": "1"}, {"count": 1.5}, {"short_side": "512"}, {"left": 0.5}])
def test_what_is_no_number_of_a_framing_is_named(options):
    with pytest.raises(SettingsError, match=rf"{next(iter(options))} is .*; at least \d, a whole number, is needed"):
        Framing(**options)
