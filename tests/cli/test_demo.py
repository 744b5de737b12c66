"""The example workflows on the built-in model, against the exact truth."""

import json
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch

from fatezero_ext import Controller, InflationSettings, edit, invert, load_toy
from fatezero_ext.cli import demo
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.cli.examples import CAT, CIRCLE, EXAMPLE_EDITS, EXAMPLES
from fatezero_ext.cli.main import main
from fatezero_ext.media.video import read_video
from fatezero_ext.toy.evaluation.edits import measure
from fatezero_ext.toy.evaluation.scores import psnr

from ..conftest import relative
from ..small_runs import named

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo of every example: its exit code, what it printed, its folder, and each figure that it measured."""
    figures, printed, folder = [], StringIO(), tmp_path_factory.mktemp("output")

    def measured(*given):
        figures.append(measure(*given))
        return figures[-1]

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(demo, "measure", measured)
        code = main(["demo", "all", "--output", str(folder)])
    torch.set_num_threads(threads)
    return code, printed.getvalue(), folder, figures


@pytest.fixture(scope="module")
def outcomes(shown):
    """Each example's figures with and without attention control, as the demo prints them."""
    figures = shown[-1]
    return dict(zip(EXAMPLE_EDITS, zip(figures[::2], figures[1::2], strict=True), strict=True))


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
    back = edit(controller, model.text_encoder, clip.prompt, named(guidance=1.0)).latents
    other = edit(
        controller, model.text_encoder, "a blue heart on the sand", named(guidance=1.0, self_replace=0.0)
    ).latents
    assert relative(back, latents) < 0.2 < relative(other, latents)


def test_the_animal_changes_and_the_rest_stays(outcomes):
    edited, uncontrolled = outcomes["animal"]
    assert edited.edited >= 7 and edited.kept >= 7
    assert edited.stays_psnr > uncontrolled.stays_psnr + 4


@pytest.mark.parametrize("name", [CIRCLE, CAT])
def test_the_shipped_clips_are_what_the_generator_draws(name):
    shipped = read_video(EXAMPLES / f"{name}.mp4")
    assert shipped.frames.shape == (8, 64, 64, 3) and shipped.fps == 8
    assert psnr(shipped.frames.numpy(), example_clip(name).frames) > 30


@pytest.mark.parametrize("example", EXAMPLE_EDITS.values(), ids=EXAMPLE_EDITS)
def test_each_workflow_has_its_thumbnail_and_only_known_words(example):
    assert (EXAMPLES / f"{example.file}.jpg").stat().st_size > 1000
    document = json.loads((EXAMPLES / f"{example.file}.json").read_text())
    assert document["version"] == 0.4
    assert {"SaveVideo", "MarkdownNote", "FateZero_P2PEdit"} <= {node["type"] for node in document["nodes"]}


def test_the_demo_leaves_videos_a_sheet_and_a_table_of_each_example(shown):
    code, printed, folder, _ = shown
    assert code == 0
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for example in EXAMPLE_EDITS.values():
        assert {f"video/{example.file}_00001_.mp4", f"video/{example.file}_no_control_00001_.mp4"} <= written
        assert f"{example.file}.png" in written
    assert len([name for name in written if name.endswith(".mp4")]) == 2 * len(EXAMPLE_EDITS)
    assert "8 of 8" in printed


def test_without_a_name_the_animal_is_edited(monkeypatch):
    ran = []
    monkeypatch.setattr(demo, "run_demo", lambda names, output: ran.extend(names))
    assert main(["demo"]) == 0
    assert ran == ["animal"]


def test_an_unknown_example_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "colours"])
    assert "no example 'colours'; there are colour, shape, background, style, animal" in capsys.readouterr().err


def test_the_measure_calls_the_truth_perfect_and_the_source_unedited():
    clip = example_clip()
    perfect = measure(clip.edited(colour="blue").frames, clip, {"colour": "blue"})
    unedited = measure(clip.frames, clip, {"colour": "blue"})
    assert perfect.edited == perfect.kept == 8 and perfect.stays_psnr > 90 and perfect.object_iou > 0.95
    assert unedited.edited == 0 and unedited.kept == 8 and unedited.flicker > perfect.flicker
