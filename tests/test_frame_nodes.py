"""Load Frames and Prepare Frames as the headless runner runs them."""

import json
import os

import pytest
import torch
from PIL import Image
from rich.console import Console

from fatezero_ext.framing import Framing, read_folder, read_frames, reframe
from fatezero_ext.pack import load_pack
from fatezero_ext.video import write_video

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
WIDGETS = [*FRAMING]


@pytest.fixture
def folder(tmp_path):
    """A folder with a clip as eight pictures and as a video."""
    frames = torch.rand(8, 24, 40, 3, generator=torch.Generator().manual_seed(0))
    (tmp_path / "clip").mkdir()
    for number, picture in enumerate(frames.mul(255).byte().numpy()):
        Image.fromarray(picture).save(tmp_path / "clip" / f"{number}.png")
    write_video(tmp_path / "clip.mp4", frames, 12, lossless=True)
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
    assert outcome["FateZero_PrepareFrames"].outputs[0].equal(wanted)


def test_the_widgets_are_in_the_published_order():
    types = load_pack("nodes.headless.registry").pack_node_types()
    assert [widget.id for widget in types["FateZero_LoadFrames"].widgets] == ["source", *WIDGETS, "fps"]
    prepare = types["FateZero_PrepareFrames"]
    assert [widget.id for widget in prepare.widgets] == WIDGETS and prepare.schema.inputs[0].id == "images"
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
    load = load_pack("nodes.frames").LoadFrames
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
    images, fps = load_pack("nodes.frames").LoadFrames.execute(source="clip", fps=3.0, **FRAMING).args
    assert images.equal(read_folder("clip", SAME)) and fps == 3.0
