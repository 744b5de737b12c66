"""The example workflows on the built-in model, against the exact truth."""

import json

import pytest
import torch
from rich.console import Console

from fatezero_ext import Controller, EditSettings, InflationSettings, edit, invert, load_toy
from fatezero_ext.cli.demo import example_clip, run_example
from fatezero_ext.cli.examples import EXAMPLE_EDITS, EXAMPLES
from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.video import read_video
from fatezero_ext.toy.evaluation.edits import measure
from fatezero_ext.toy.evaluation.scores import psnr

from .conftest import relative

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Each example's figures with and without attention control; one thread, as the demo runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    command, folder = load_pack("nodes.headless.command"), tmp_path_factory.mktemp("output")
    clip, found = example_clip(), {}
    for name, example in EXAMPLE_EDITS.items():
        outcome = run_example(example, folder, command, Console(quiet=True))
        found[name] = tuple(
            measure(frames.numpy(), clip, example.changes) for frames in (outcome.edited, outcome.uncontrolled)
        )
    torch.set_num_threads(threads)
    return found


def test_the_colour_changes_and_the_rest_stays(outcomes):
    edited, uncontrolled = outcomes["colour"]
    assert edited.edited == edited.kept == 8
    assert edited.stays_psnr > uncontrolled.stays_psnr + 4
    assert edited.object_iou > 0.7 > uncontrolled.object_iou


def test_the_shape_changes_and_the_rest_stays(outcomes):
    edited, uncontrolled = outcomes["shape"]
    assert edited.edited >= 7 and edited.kept >= 7
    assert edited.stays_psnr > uncontrolled.stays_psnr + 6


def test_the_background_changes_and_the_object_stays(outcomes):
    edited, uncontrolled = outcomes["background"]
    assert edited.edited >= 7 and edited.kept >= 7
    assert edited.stays_psnr > uncontrolled.stays_psnr + 6
    assert edited.object_iou > 0.85


def test_the_style_changes_and_the_object_stays_readable(outcomes):
    edited, uncontrolled = outcomes["style"]
    assert edited.edited >= 6 and edited.kept >= 6
    assert edited.stays_psnr > uncontrolled.stays_psnr + 1
    assert edited.object_iou > uncontrolled.object_iou + 0.1


def test_inversion_and_back_returns_the_clip():
    model, clip = load_toy(InflationSettings(key_frames=())), example_clip()
    latents = model.vae.encode(torch.as_tensor(clip.frames[:3]))
    controller = invert(Controller(model.unet), model.text_encoder, latents, clip.prompt, steps=30)
    back = edit(controller, model.text_encoder, clip.prompt, EditSettings(guidance=1.0)).latents
    other = edit(
        controller, model.text_encoder, "a blue heart on the sand", EditSettings(guidance=1.0, self_replace=0.0)
    ).latents
    assert relative(back, latents) < 0.2 < relative(other, latents)


def test_the_shipped_clip_is_what_the_generator_draws():
    shipped = read_video(EXAMPLES / "red_circle_on_grass.mp4")
    assert shipped.frames.shape == (8, 64, 64, 3) and shipped.fps == 8
    assert psnr(shipped.frames.numpy(), example_clip().frames) > 30


@pytest.mark.parametrize("example", EXAMPLE_EDITS.values(), ids=EXAMPLE_EDITS)
def test_each_workflow_has_its_thumbnail_and_only_known_words(example):
    assert (EXAMPLES / f"{example.file}.jpg").stat().st_size > 1000
    document = json.loads((EXAMPLES / f"{example.file}.json").read_text())
    assert document["version"] == 0.4
    assert {"SaveVideo", "MarkdownNote", "FateZero_P2PEdit"} <= {node["type"] for node in document["nodes"]}


def test_the_demo_leaves_videos_a_sheet_and_a_table(tmp_path, capsys):
    threads = torch.get_num_threads()
    assert main(["demo", "colour", "--output", str(tmp_path)]) == 0
    torch.set_num_threads(threads)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in written if name.endswith(".mp4")] == [
        "video/1_colour_edit_with_mask_00001_.mp4",
        "video/1_colour_edit_with_mask_no_control_00001_.mp4",
    ]
    assert "1_colour_edit_with_mask.png" in written
    assert "8 of 8" in capsys.readouterr().out


def test_an_unknown_example_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "colours"])
    assert "no example 'colours'; there are colour, shape, background, style" in capsys.readouterr().err


def test_the_measure_calls_the_truth_perfect_and_the_source_unedited():
    clip = example_clip()
    perfect = measure(clip.edited(colour="blue").frames, clip, {"colour": "blue"})
    unedited = measure(clip.frames, clip, {"colour": "blue"})
    assert perfect.edited == perfect.kept == 8 and perfect.stays_psnr > 90 and perfect.object_iou > 0.95
    assert unedited.edited == 0 and unedited.kept == 8 and unedited.flicker > perfect.flicker
