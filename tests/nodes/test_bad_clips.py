"""Clips, models and words as users bring them by mistake: a sentence before the work, or the right result."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import VideoError
from fatezero_ext.media.video import read_video, write_video

from ..odd_clips import ONE, write_display_matrix, write_edit_list, write_long_clip

SOURCE, EDIT = "a red circle on the grass", "a blue circle on the grass"
WORDS = {"source_prompt": SOURCE, "edit_prompt": EDIT, "kind": "auto", "strength": 1.0}
FRAMING = {
    "start": 0, "count": 0, "sampling_rate": 1, "crop_left": 0, "crop_right": 0, "crop_top": 0, "crop_bottom": 0,
    "short_side": 0, "centre_square": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    loaded = load_pack("nodes.method.load_unet").LoadPseudo3DUNet
    return loaded.execute("built-in toy model", "auto", "clip", "float32", 0).args


def opened(path):
    return load_pack("fatezero_ext.media.clip").opened_clip(path)


def whole_edit(parts, video, caplog, **asked):
    """The graph that the one node puts in its place, and what it says on itself."""
    io, edit = load_pack("nodes.api").io, load_pack("nodes.method.video_edit").VideoEdit
    links = {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "video": ["1", 0]}
    graph = SimpleNamespace(api_format=lambda: {"3": {"class_type": "FateZero_VideoEdit", "inputs": links}})
    running = load_pack("nodes.headless.run.execute")._Running(graph)
    edit = type("VideoEdit", (edit,), {"hidden": io.HiddenHolder(unique_id="3", dynprompt=running)})
    with caplog.at_level("INFO"):
        found = edit.execute(*parts, **{**WORDS, **asked}, video=video)
    return found.expand, caplog.text


def prepared(video, **widgets):
    return load_pack("nodes.clips.prepare_frames").PrepareFrames.execute(video=video, **{**FRAMING, **widgets}).args


def test_of_two_hours_no_more_is_decoded_than_is_edited(parts, tmp_path, caplog):
    """All behind the first tenth of the file is damaged, so that reading it through fails."""
    path = tmp_path / "long.mp4"
    write_long_clip(path, seconds=7200, fps=1, good=0.1)
    with pytest.raises(VideoError, match="damaged or cut off after frame"):
        read_video(path)
    graph, said = whole_edit(parts, opened(path), caplog)
    assert "8 of 7200 frames: each, 1 fps" in said
    widgets = {name: value for name, value in graph["frames"]["inputs"].items() if name in {*FRAMING, "multiple_of"}}
    frames, rate, sound = prepared(opened(path), **widgets)
    assert frames.shape == (8, 64, 64, 3) and rate == 1 and sound is None


def test_a_clip_of_one_frame_is_edited_and_remarked(parts, tmp_path, caplog):
    write_video(tmp_path / "one.mp4", torch.rand(1, 64, 64, 3), 8)
    graph, said = whole_edit(parts, opened(tmp_path / "one.mp4"), caplog)
    assert "1 of 1 frames: each, 8 fps" in said and "The clip is one frame, which has no motion to keep." in said
    assert graph["frames"]["inputs"]["count"] == 1


@pytest.mark.parametrize(
    "shown, line", [(12, "8 of 12 frames: each, 25 fps"), (30, "8 of 30 frames: every 3rd, 8.33 fps")]
)
def test_of_a_clip_cut_without_encoding_only_the_frames_that_it_shows_are_counted(parts, tmp_path, caplog, shown, line):
    path = tmp_path / "cut.mp4"
    write_video(path, torch.rand(72, 64, 64, 3), 25)
    write_edit_list(path, 72 - shown, shown)
    graph, said = whole_edit(parts, opened(path), caplog)
    assert line in said
    widgets = {name: value for name, value in graph["frames"]["inputs"].items() if name in {*FRAMING, "multiple_of"}}
    assert len(prepared(opened(path), **widgets)[0]) == 8


def test_a_file_without_pictures_is_refused_by_name(tmp_path):
    with av.open(str(tmp_path / "voice.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"voice.m4a has no video stream; one is needed. Choose another file"):
        opened(tmp_path / "voice.m4a")


@pytest.mark.parametrize(
    "matrix, turned, shown",
    [
        ((0, ONE, -ONE, 0), True, lambda frames: frames.rot90(-1, dims=(1, 2))),
        ((-ONE, 0, 0, ONE), False, lambda frames: frames.flip(2)),
    ],
    ids=["a quarter turn", "mirrored"],
)
def test_turned_and_mirrored_clips_are_edited_as_players_show_them(parts, tmp_path, caplog, matrix, turned, shown):
    frames = torch.rand(3, 64, 128, 3)
    write_video(tmp_path / "turned.mp4", frames, 8)
    plain = read_video(tmp_path / "turned.mp4").frames
    write_display_matrix(tmp_path / "turned.mp4", matrix)
    assert prepared(opened(tmp_path / "turned.mp4"))[0].equal(shown(plain))
    _, said = whole_edit(parts, opened(tmp_path / "turned.mp4"), caplog)
    assert ("64x128 pixels" if turned else "128x64 pixels") in said


def other_family(**changes):
    """A MODEL of ComfyUI as far as it is looked at, of the Stable Diffusion kind but for the changes."""
    attention = SimpleNamespace(transformer_blocks=[object()])
    net = SimpleNamespace(
        input_blocks=[[attention]], middle_block=[attention], output_blocks=[[attention]], in_channels=4, **changes
    )
    config = type("SDXL", (), {})()
    return SimpleNamespace(model=SimpleNamespace(model_config=config, diffusion_model=net, concat_keys=()))


def without_unet():
    return SimpleNamespace(
        model=SimpleNamespace(model_config=type("Flux", (), {})(), diffusion_model=SimpleNamespace(double_blocks=[]))
    )


@pytest.mark.parametrize(
    "model, told",
    [
        (other_family(num_classes="sequential"), r"this MODEL \(SDXL\) is not supported: it is conditioned on more"),
        (without_unet(), r"this MODEL \(Flux\) is not supported: it has no UNet"),
    ],
    ids=["SDXL", "Flux"],
)
def test_models_of_other_families_are_refused_by_name_before_the_clip_is_looked_at(parts, model, told):
    broken = load_pack("fatezero_ext.media.clip").VideoClip(torch.zeros(0), Fraction(8), None)
    edit = load_pack("nodes.method.video_edit").VideoEdit
    with pytest.raises(ValueError, match=told + ".*Stable Diffusion 1.x or 2.x"):
        edit.execute(model, *parts[1:], **WORDS, video=broken)
    with pytest.raises(ValueError, match=told):
        load_pack("nodes.method.control").RegisterAttentionControl.execute(model, True, 1024)


def test_prompts_without_a_word_in_common_are_remarked_and_edited(parts, tmp_path, caplog):
    write_video(tmp_path / "clip.mp4", torch.rand(8, 64, 64, 3), 8)
    graph, said = whole_edit(parts, opened(tmp_path / "clip.mp4"), caplog, edit_prompt="a yellow square on brick")
    assert "no word in common" in said and graph["edit"]["inputs"]["edit_prompt"] == "a yellow square on brick"


CLICKED = {
    "blend_words": "red circle", "subtract_words": "circle", "blend_edit_words": "blue circle", "equalizer": "blue: 2",
    "word_windows": "blue: 0.2-0.6",
}  # fmt: skip


@pytest.mark.parametrize("widget", CLICKED)
def test_words_that_are_edited_away_later_are_told_at_their_widget_before_anything_runs(widget):
    """As they are when words are clicked, and when their prompt no longer has them."""
    checks = load_pack("nodes.method.edit_checks").edit_mistakes
    chosen = {"kind": "custom", "mode": "refine", "blend_words": "grass", "blend_edit_words": "", "subtract_words": ""}
    switches = {"blend_threshold": 0.3, "blend_self_attention": True, "blend_latents": False}
    fixed = {"subtract_threshold": 0.3, "blend_resolution": "auto"}
    widgets = {**chosen, **switches, **fixed, widget: CLICKED[widget]}
    assert checks(widgets, [EDIT], SOURCE) == {}
    of_source = widget in ("blend_words", "subtract_words")
    source, edit = ("a dog on the grass", EDIT) if of_source else (SOURCE, "a dog on the grass")
    mistakes = checks(widgets, [edit], source)
    assert list(mistakes) == [widget]
    assert "blue" in mistakes[widget] or "circle" in mistakes[widget]


def test_words_of_heat_maps_that_are_edited_away_are_told_before_anything_runs():
    heat, verdicts = load_pack("nodes.look.word_heat_maps").WordHeatMaps, load_pack("nodes.checking.verdicts")
    heat = type("WordHeatMaps", (heat,), {"hidden": load_pack("nodes.api").io.HiddenHolder(unique_id="8")})
    for prompt, refused in ((SOURCE, False), ("a dog on the grass", True)):
        graph = {
            "7": {"class_type": "FateZero_DDIMInvert", "inputs": {"source_prompt": prompt}},
            "8": {"class_type": "FateZero_WordHeatMaps", "inputs": {"controller": ["7", 0], "words": "circle"}},
        }
        with verdicts.validating({"prompt": graph}):
            answer = heat.validate_inputs(0.0, 1.0)
        assert (answer is not True) == refused and (not refused or "'circle'" in answer)
