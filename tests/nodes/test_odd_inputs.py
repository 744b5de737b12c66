"""What other nodes may hand over, told by name."""

import re

import pytest
import torch

from fatezero_ext import Controller, Storage, load_toy
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.inversion.footprint import ClipShape
from fatezero_ext.inversion.storage_plan import check_room
from fatezero_ext.media.video import read_video

from ..small_runs import SOURCE, clip, inverted


@pytest.fixture
def controlled(model):
    return Controller(model.unet)


def refused(controller, text, latent):
    with pytest.raises(ValueError) as caught:
        load_pack("nodes.method.invert").DDIMInvert.execute(controller, text, latent, SOURCE, 2)
    return str(caught.value)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({"samples": clip()[None]}, r"shaped \[1, 3, 4, 16, 16\]; \[frames, channels, height, width\]"),
        ({"samples": clip()[:0]}, "at least one frame"),
        ({"samples": clip(), "noise_mask": torch.zeros(3, 64, 64)}, "noise mask.*the mask to Prompt-to-Prompt Edit"),
        ({"samples": torch.zeros(3, 16, 16, 16)}, "16 channels"),
        ({"samples": None}, "holds NoneType; one tensor"),
        ({}, "holds NoneType; one tensor"),
        (None, "holds NoneType; one tensor"),
        ({"samples": clip() * float("nan")}, "not finite"),
    ],
)
def test_a_latent_that_is_no_plain_clip_is_refused(controlled, model, latent, message):
    assert re.search(message, refused(controlled, model.text_encoder, latent))


def test_order_numbers_of_a_batch_and_a_mask_that_spares_nothing_change_nothing(controlled, model):
    invert = load_pack("nodes.method.invert").DDIMInvert.execute
    with_numbers = {"samples": clip(), "batch_index": [4, 2, 0], "noise_mask": torch.ones(3, 1, 64, 64)}
    first, second = (
        invert(controlled, model.text_encoder, latent, SOURCE, 2).result[0]
        for latent in (with_numbers, {"samples": clip()})
    )
    assert first.trace.noise.equal(second.trace.noise)


def test_a_graph_from_before_there_were_passes_inverts_as_it_did(controlled, model):
    """New nodes have one pass; a graph that says nothing of passes has none. Widgets that came later stand
    behind it in a saved list."""
    node = load_pack("nodes.headless.schemas.registry").pack_node_types()["FateZero_DDIMInvert"]
    assert [(each.id, each.default) for each in node.widgets[-2:]] == [("inversion_passes", 1), ("frames_at_once", 0)]

    def noise(**given):
        found = node.node_class.execute(controlled, model.text_encoder, {"samples": clip()}, SOURCE, 2, **given)
        return found.result[0].trace.noise

    for given, passes in (({}, 0), ({"inversion_passes": 2}, 2)):
        assert noise(**given).equal(inverted(model, Storage(), steps=2, inversion_passes=passes).trace.noise)


def test_a_checkpoint_without_text_encoder_is_told_where_its_clip_is_read(controlled):
    assert "no text encoder is connected for the source prompt" in refused(controlled, None, {"samples": clip()})


def test_a_missing_model_is_told_in_words():
    with pytest.raises(ValueError, match="nothing is connected to unet.*a UNet or a MODEL is needed"):
        load_pack("nodes.method.control").RegisterAttentionControl.execute(None, True, 1024)


def test_a_clip_that_no_call_can_hold_is_refused_with_what_would_fit(model):
    with pytest.raises(ValueError, match="9000 frames of 2048x2048 cells need more than .* GiB at once") as caught:
        check_room(model.unet, ClipShape(9_000, 2048, 2048, 77))
    most = int(re.search(r"(\d+) would be the most", str(caught.value))[1])
    check_room(model.unet, ClipShape(max(1, most // 2), 2048, 2048, 77))


def test_the_sample_clip_is_that_of_the_examples():
    frames = load_pack("nodes.clips.sample_clip")
    read = read_video(frames.EXAMPLES / "red_circle_on_grass.mp4")
    video = frames.SampleClip.execute().result[0]
    frames = video.frames.all()
    assert frames.equal(read.frames) and video.frame_rate == read.fps and len(frames) == 8


@pytest.mark.parametrize(("side", "remark"), [(16, False), (24, False), (48, True)])
def test_a_clip_far_from_the_size_a_model_was_trained_on_gets_a_remark(side, remark, caplog):
    toy = load_toy()
    controller = Controller(toy.unet)
    with caplog.at_level("INFO"):
        latent = {"samples": clip(frames=2, height=side, width=side)}
        load_pack("nodes.method.invert").DDIMInvert.execute(controller, toy.text_encoder, latent, "a red circle", 1)
    (said,) = [line for line in caplog.messages if "Inversion of 2 frames in 1 steps: attention as" in line]
    wanted = f"The frames' shorter side has {4 * side} pixels, built-in toy model was trained on 64: scale it"
    assert said.startswith(wanted if remark else "Inversion")  # first: the page shows two lines


def test_norm_has_an_older_name_that_files_still_say_and_no_other():
    """It stays the same model, by which saved inversions are found again."""
    node = load_pack("nodes.method.load_unet").LoadPseudo3DUNet
    (widget,) = [each for each in node.define_schema().inputs if each.id == "norm"]
    assert (widget.options, widget.default) == (["video", "frame"], "video")
    now, older = (node.execute("built-in toy model", "auto", name, "float32", 0).args[0] for name in ("video", "clip"))
    assert now.settings == older.settings and now.settings.norm == "clip"
    assert node.validate_inputs(model="built-in toy model", norm="clip") is True
    assert "norm is 'group'; it is one of video, frame" in node.validate_inputs(norm="group")
