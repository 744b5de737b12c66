"""Load Frames and Prepare Frames as the headless runner runs them."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media.frame_sources import read_folder, read_frames
from fatezero_ext.media.framing import Framing, reframe
from fatezero_ext.media.video import write_video

from ..sounding_clips import write_clip

FRAMING = {
    "start": 1,
    "count": 3,
    "sampling_rate": 2,
    "crop_left": 2,
    "crop_right": 0,
    "crop_top": 1,
    "crop_bottom": 3,
    "short_side": 16,
    "centre_square": True,
}
SAME = Framing(start=1, count=3, sampling_rate=2, left=2, top=1, bottom=3, short_side=16)
SAME_UNSCALED = Framing(
    start=1, count=3, sampling_rate=2, left=2, top=1, bottom=3, short_side=None, centre_square=False
)
WIDGETS = [*FRAMING]


@pytest.fixture
def folder(tmp_path):
    """A folder with a clip as eight pictures, as a video and as an animated picture."""
    frames = torch.rand(8, 24, 40, 3, generator=torch.Generator().manual_seed(0))
    (tmp_path / "clip").mkdir()
    for number, picture in enumerate(frames.mul(255).byte().numpy()):
        Image.fromarray(picture).save(tmp_path / "clip" / f"{number}.png")
    write_video(tmp_path / "clip.mp4", frames, 12, lossless=True)
    pictures = [Image.fromarray(picture) for picture in frames.mul(255).byte().numpy()]
    pictures[0].save(tmp_path / "moving.webp", save_all=True, append_images=pictures[1:], duration=125)
    return tmp_path


def graph(source, **changes):
    return {
        "1": {"class_type": "FateZero_LoadFrames", "inputs": {"source": source, **FRAMING, "fps": 5.0, **changes}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "frames"}},
    }


def run(folder, document, *variants):
    (folder / "frames.json").write_text(json.dumps(document))
    command = load_pack("nodes.headless.command")
    call = command.Command(folder / "frames.json", variants=variants, output=folder / "output", inputs=folder)
    return command.collect(call, Console(quiet=True))


def refusal(folder, document):
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow) as caught:
        run(folder, document)
    return str(caught.value)


def test_a_folder_of_pictures_has_the_widgets_rate(folder):
    (outcome,) = run(folder, graph("clip"))
    images, fps = outcome["FateZero_LoadFrames"].outputs
    assert images.equal(read_folder(folder / "clip", SAME)) and images.shape == (3, 16, 16, 3)
    assert fps == 5.0


def test_a_videos_own_rate_is_divided_by_the_sampling_rate(folder):
    (outcome,) = run(folder, graph("clip.mp4"))
    images, fps = outcome["FateZero_LoadFrames"].outputs
    assert images.equal(read_frames(folder / "clip.mp4", SAME)[0]) and fps == 6.0


def test_zeros_mean_all_frames_at_their_own_size(folder):
    (outcome,) = run(folder, graph("clip", start=0, count=0, sampling_rate=1, short_side=0, centre_square=False))
    assert outcome["FateZero_LoadFrames"].outputs[0].shape == (8, 20, 38, 3)


def test_clips_of_core_nodes_are_prepared_alike(folder):
    document = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "FateZero_PrepareFrames", "inputs": {"images": ["2", 0], **FRAMING}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "frames"}},
    }
    (outcome,) = run(folder, document)
    wanted = reframe(outcome["GetVideoComponents"].outputs[0], SAME)
    # Scaled one by one there and together here, which may round differently.
    torch.testing.assert_close(outcome["FateZero_PrepareFrames"].outputs[0], wanted, rtol=0, atol=1e-6)


def prepare(**inputs):
    """What Prepare Frames gives."""
    inputs = {"images": torch.zeros(12, 24, 40, 3), **FRAMING, **inputs}
    return load_pack("nodes.clips.prepare_frames").PrepareFrames.execute(**inputs).args


@pytest.mark.parametrize(("fps", "sampling_rate", "given"), [(24.0, 3, 8.0), (29.97, 1, 29.97), (12, 4, 3.0)])
def test_prepared_frames_have_the_clips_rate_over_the_sampling_rate(fps, sampling_rate, given):
    assert prepare(fps=fps, sampling_rate=sampling_rate)[1] == pytest.approx(given)


def test_prepared_frames_have_the_sound_from_their_first_frame_on():
    sound = {"waveform": torch.arange(1000.0).reshape(1, 2, 500), "sample_rate": 100}
    given = prepare(fps=4.0, start=2, audio=sound)[2]
    assert given["waveform"].equal(sound["waveform"][..., 50:]) and given["sample_rate"] == 100
    assert prepare(fps=4.0, start=2)[2] is None


def test_prepare_frames_says_that_the_place_of_its_sound_is_told_by_the_rate():
    """An unconnected rate is a number like any other: a node cannot tell it from one that was meant."""
    said = {
        each.id: each.tooltip for each in load_pack("nodes.clips.prepare_frames").PrepareFrames.define_schema().inputs
    }
    assert "start / fps" in said["audio"] and "with audio" in said["fps"]


def test_sound_that_ends_before_the_first_frame_is_none():
    """Core's Save Video runs out of memory over a sound without samples."""
    short = {"waveform": torch.zeros(1, 2, 50), "sample_rate": 100}
    assert prepare(fps=4.0, start=2, audio=short)[2] is None


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(ValueError, match="a positive rate is needed"):
        prepare(fps=fps)


def test_graphs_from_before_prepare_frames_had_a_rate_still_run(folder):
    """Its widgets' values are positional in one format, and may be missing in the other."""
    node = {"id": 3, "type": "FateZero_PrepareFrames", "widgets_values": [*FRAMING.values()]}
    document = {
        "version": 0.4,
        "nodes": [
            {"id": 1, "type": "LoadVideo", "widgets_values": ["clip.mp4", "image"]},
            {"id": 2, "type": "GetVideoComponents", "inputs": [{"name": "video", "link": 1}]},
            {**node, "inputs": [{"name": "images", "link": 2}]},
            {"id": 4, "type": "SaveImage", "inputs": [{"name": "images", "link": 3}], "widgets_values": ["frames"]},
        ],
        "links": [[1, 1, 0, 2, 0, "VIDEO"], [2, 2, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]],
    }
    (outcome,) = run(folder, document)
    frames, fps, audio = outcome["FateZero_PrepareFrames"].outputs
    assert frames.shape == (3, 16, 16, 3) and fps == 4.0 and audio is None


EXAMPLES = Path(__file__).parents[2] / "example_workflows"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[0-9]_*.json")), ids=lambda path: path.stem)
def test_rate_and_sound_of_each_template_pass_through_prepare_frames(path):
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    graph = load_pack("nodes.headless.formats.read").read_workflow(path, types).api_format()
    made = [node for node in graph.values() if node["class_type"] == "CreateVideo"]
    assert made
    for node in made:
        (rate, rate_slot), (sound, sound_slot) = node["inputs"]["fps"], node["inputs"]["audio"]
        assert graph[rate]["class_type"] == graph[sound]["class_type"] == "FateZero_PrepareFrames"
        assert (rate, rate_slot, sound_slot) == (sound, 1, 2)
        source, slot = graph[rate]["inputs"]["fps"]
        assert graph[source]["class_type"] == "GetVideoComponents" and slot == 2
        assert graph[rate]["inputs"]["audio"] == [source, 1]


def test_an_animated_picture_is_loaded_with_its_own_rate(folder):
    (outcome,) = run(folder, graph("moving.webp", start=0, count=4, sampling_rate=2))
    images, fps = outcome["FateZero_LoadFrames"].outputs
    assert images.shape == (4, 16, 16, 3) and fps == 4.0


def test_too_few_pictures_of_an_animation_are_told_before_anything_runs(folder):
    assert "moving.webp has 8 frames, of which 4" in refusal(folder, graph("moving.webp", count=5))


def test_the_widgets_are_in_the_published_order():
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    assert [widget.id for widget in types["FateZero_LoadFrames"].widgets] == ["source", *WIDGETS, "fps"]
    prepare = types["FateZero_PrepareFrames"]
    assert [widget.id for widget in prepare.widgets] == [*WIDGETS, "fps", "multiple_of"]
    assert prepare.schema.inputs[0].id == "images"
    defaults = {widget.id: widget.default for widget in types["FateZero_LoadFrames"].widgets}
    assert defaults["count"] == 8 and defaults["short_side"] == 512 and defaults["fps"] == 8.0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "source is empty;.*Write its name"),
        (" \n", "source is empty;.*Write its name"),
        ("absent", "there is no folder and no file 'absent'"),
        ("../elsewhere", "is outside the input folder"),
        ("/", "is outside the input folder"),
        ("link", "is outside the input folder"),
        ("linked_picture", "is outside the input folder"),
        ("a\0b", "is no name of a file or folder"),
        ("x" * 5000, "is no name of a file or folder|there is no folder and no file"),
        ("empty", "no picture; at least one of the kinds"),
        ("frames.json", "is not a readable video"),
    ],
)
def test_sources_that_cannot_be_read_are_refused_before_anything_runs(tmp_path_factory, folder, source, message):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (8, 8)).save(outside / "secret.png")
    (folder / "empty").mkdir()
    (folder / "linked_picture").mkdir()
    os.symlink(outside, folder / "link")
    os.symlink(outside / "secret.png", folder / "linked_picture" / "0.png")
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match=message):
        run(folder, graph(source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 9}, "has 8 frames, of which 4 from frame 1 on at sampling rate 2; 9 needed"),
        ({"start": -1}, "start is -1; at least 0"),
        ({"sampling_rate": 0}, "sampling_rate is 0; at least 1"),
        ({"crop_left": -1}, "-1 is out of range"),
        ({"short_side": 99999}, "99999 is out of range"),
        ({"fps": 0.0}, "0.0 is out of range"),
    ],
)
def test_selections_are_checked_before_anything_runs(folder, change, message):
    assert message in refusal(folder, graph("clip", **change))


def test_a_changed_picture_is_read_anew_and_nothing_else_is(folder):
    load = load_pack("nodes.clips.load_frames").LoadFrames
    host = load_pack("nodes.host")

    class Here(host.PythonHost):
        def input_folders(self):
            return (folder,)

    with host.installed(Here()):
        first = load.fingerprint_inputs(source="clip", start=0, count=8)
        assert load.fingerprint_inputs(source="clip", start=2, count=3) == first
        os.utime(folder / "clip" / "3.png", ns=(1, 1))
        second = load.fingerprint_inputs(source="clip", start=0, count=8)
        (folder / "clip" / "8.png").write_bytes((folder / "clip" / "7.png").read_bytes())
        third = load.fingerprint_inputs(source="clip", start=0, count=8)
    assert len({first, second, third}) == 3


def test_a_plain_python_session_reads_below_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    images, fps = load_pack("nodes.clips.load_frames").LoadFrames.execute(source="clip", fps=3.0, **FRAMING).args
    assert images.equal(read_folder("clip", SAME)) and fps == 3.0


def prepared(clip, **inputs):
    """What Prepare Frames gives for a video, or for its parts."""
    framing = {**FRAMING, **inputs}
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "FateZero_PrepareFrames", "inputs": {**framing, **clip}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def test_a_video_gives_the_frames_rate_and_sound_that_its_parts_give(folder):
    write_clip(folder / "clip.mp4", "aac")
    whole = prepared({"video": ["1", 0]})
    parts = prepared({"images": ["2", 0], "audio": ["2", 1], "fps": ["2", 2]})
    (found,), (wanted,) = run(folder, whole), run(folder, parts)
    (mine, rate, sound), (theirs, *others) = (each["FateZero_PrepareFrames"].outputs for each in (found, wanted))
    assert mine.equal(theirs) and [rate, sound] == others and rate == 12.0 and sound.start > 0


def test_both_sides_are_cut_evenly_to_a_multiple(folder):
    whole = prepared({"video": ["1", 0]}, short_side=0, centre_square=False, multiple_of=8)
    (outcome,) = run(folder, whole)
    frames = read_frames(folder / "clip.mp4", SAME_UNSCALED)[0]
    assert frames.shape[1:3] == (20, 38)
    assert outcome["FateZero_PrepareFrames"].outputs[0].equal(frames[:, 2:18, 3:35])


@pytest.mark.parametrize(
    "clip, told",
    [
        ({}, "neither video nor images is connected"),
        ({"video": ["1", 0], "images": ["2", 0]}, "both video and images are connected"),
    ],
)
def test_one_clip_is_needed_and_this_is_seen_before_anything_runs(folder, clip, told):
    assert told in refusal(folder, prepared(clip))


def test_a_multiple_that_the_picture_does_not_hold_is_an_error(folder):
    document = prepared({"video": ["1", 0]}, multiple_of=64)
    with pytest.raises(load_pack("nodes.headless.problems").NodeFailed, match="hold no 64 pixels a side"):
        run(folder, document)
