"""Long clips in the runner: frames are read, encoded, decoded and written as they come, to the same results."""

import json

import pytest
import torch
from rich.console import Console

from fatezero_ext import read_video, write_video
from fatezero_ext.cli.node_pack import load_pack

FRAMES = 11  # more than a part of 8
WORDS = {"source_prompt": "a red circle on the grass", "edit_prompt": "a blue circle on the grass"}
MODEL = {
    "model": "built-in toy model", "key_frames": "auto", "norm": "frame", "precision": "auto", "least_sc_channel": 0,
}  # fmt: skip


def graph(**edit):
    """A file's video, edited whole and saved."""
    links = {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2], "video": ["1", 0]}
    numbers = {"kind": "auto", "strength": 1.0, "frames": FRAMES, "steps": 2, "frames_at_once": 4}
    save = {"video": ["3", 0], "filename_prefix": "edited", "format": "auto", "codec": "auto"}
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "FateZero_LoadPseudo3DUNet", "inputs": MODEL},
        "3": {"class_type": "FateZero_VideoEdit", "inputs": {**links, **WORDS, **numbers, **edit}},
        "4": {"class_type": "SaveVideo", "inputs": save},
    }


WITH_THE_REST = {
    "5": {"class_type": "SaveImage", "inputs": {"images": ["3", 1], "filename_prefix": "frame"}},
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["3", 3]}},
    "7": {"class_type": "ImageFromBatch", "inputs": {"image": ["3", 3], "batch_index": 9, "length": 5}},
    "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
    "9": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 2]}},
    "10": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    frames = torch.rand(1, 72, 100, 3, generator=torch.Generator().manual_seed(0)).repeat(3 * FRAMES, 1, 1, 1)
    write_video(tmp_path / "clip.mp4", frames.roll(1, 0), 8)
    videos = load_pack("nodes.headless.core_nodes.videos")
    write = videos.write_video  # of ComfyUI's settings a file in a hundred differs
    monkeypatch.setattr(videos, "write_video", lambda *args, **named: write(*args, **{**named, "repeatable": True}))
    return tmp_path


def run(folder, document, output, held=None):
    """The results by the nodes' ids; held: bytes above which frames are streamed, None: the runner's own."""
    (folder / "graph.json").write_text(json.dumps(document))
    command, runs = load_pack("nodes.headless.command"), load_pack("nodes.headless.run.execute")
    call = command.Command(folder / "graph.json", variants=([],), output=folder / output, inputs=folder)
    host = load_pack("nodes.headless.host").RunnerHost
    kind = host if held is None else type("Streams", (host,), {"most_held_bytes": lambda _self: held})
    with (folder / "shown.txt").open("w") as file:
        with load_pack("nodes.headless.run.progress").Reporter(Console(width=200, file=file)) as reporter:
            with load_pack("nodes.host").installed(kind(call.folders, reporter)):
                types = load_pack("nodes.headless.schemas.registry").pack_node_types()
                (results,) = runs.run_graphs(command._graphs(call, types), types, reporter)
                return results


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_streamed_edit_and_its_files_are_those_of_one_that_is_held(folder):
    document = graph() | WITH_THE_REST
    held, streamed = run(folder, document, "held"), run(folder, document, "streamed", held=0)
    kind = load_pack("fatezero_ext.media.streamed").StreamedFrames
    for slot in (1, 2, 3):
        assert isinstance(streamed["3"].lists[slot][0], kind) and not isinstance(held["3"].lists[slot][0], kind)
        assert streamed["3"].outputs[slot].equal(held["3"].outputs[slot])
    assert streamed["7"].outputs[0].equal(held["7"].outputs[0]) and len(held["7"].outputs[0]) == 2
    assert files(folder / "streamed") == files(folder / "held") and len(files(folder / "held")) == FRAMES + 1
    assert len(read_video(folder / "held" / "edited_00001_.mp4").frames) == FRAMES


@pytest.mark.parametrize("prompt", [WORDS["edit_prompt"], "a watercolor painting of a red circle on the grass"])
def test_nothing_of_a_video_that_is_edited_and_saved_is_ever_held_whole(folder, monkeypatch, prompt):
    def never(_frames):
        raise AssertionError("a clip is made whole")

    media = load_pack("fatezero_ext.media.streamed").StreamedFrames, load_pack("fatezero_ext.media.clip").FileFrames
    for kind in media:
        monkeypatch.setattr(kind, "all", never)
    run(folder, graph(edit_prompt=prompt), "out", held=0)
    assert len(files(folder / "out")) == 1


def test_an_edit_of_an_edit_is_streamed_too(folder):
    again = graph()["3"]["inputs"] | {"video": ["3", 0], "frames": 0, "edit_prompt": "a green circle on the grass"}
    document = graph() | {
        "11": {"class_type": "FateZero_VideoEdit", "inputs": again},
        "12": {"class_type": "PreviewImage", "inputs": {"images": ["11", 1]}},
    }
    held, streamed = run(folder, document, "held"), run(folder, document, "streamed", held=0)
    torch.testing.assert_close(streamed["11"].outputs[1], held["11"].outputs[1], atol=1e-4, rtol=0)


def test_a_video_that_is_only_copied_is_streamed(folder):
    document = {"1": graph()["1"], "4": graph()["4"]}
    document["4"]["inputs"]["video"] = ["1", 0]
    run(folder, document, "held")
    run(folder, document, "streamed", held=0)
    assert files(folder / "streamed") == files(folder / "held")


def test_a_long_clip_is_decoded_once_whatever_reads_it_and_its_end_without_the_rest(monkeypatch):
    latents, decoded = load_pack("nodes.headless.core_nodes.latents"), []
    monkeypatch.setattr(latents, "held", lambda frames: frames)

    class Decoder:
        pixels_per_cell = 2

        def decode(self, samples):
            decoded.append(len(samples))
            return samples.movedim(1, -1).repeat_interleave(2, 1).repeat_interleave(2, 2)

    samples = torch.rand(FRAMES, 3, 4, 6)
    (frames,) = latents.VAEDecode.execute({"samples": samples}, Decoder()).args
    assert frames.part(FRAMES - 1, 1).shape == (1, 8, 12, 3) and decoded == [FRAMES % 8]
    assert frames.all().equal(frames.all()) and sum(decoded) == FRAMES
    assert frames.all()[:, ::2, ::2].equal(samples.movedim(1, -1))
