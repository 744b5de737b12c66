"""Videos, pictures and sound through the runner's core nodes: what is read, what is decoded, and what is refused."""

import ast
import json
import shutil
import subprocess
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from rich.console import Console

from fatezero_ext.cli.main import main
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.media import frame_files, video
from fatezero_ext.media.video import read_video, write_video

from ..sounding_clips import BEEP, FPS, heard, write_clip

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases"
COPY = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "CLIP"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "audio": ["2", 1], "fps": ["2", 2]}},
    "4": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["3", 0], "filename_prefix": "v", "format": "auto", "codec": "auto"},
    },
}
ALL_AS_IT_IS = {
    "start": 0,
    "count": 0,
    "sampling_rate": 1,
    "crop_left": 0,
    "crop_right": 0,
    "crop_top": 0,
    "crop_bottom": 0,
    "short_side": 0,
    "centre_square": False,
}


def picture_graph(name):
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def collected(folder, document):
    (folder / "graph.json").write_text(json.dumps(document))
    command = load_pack("nodes.headless.command")
    call = command.Command(folder / "graph.json", output=folder / "out", inputs=folder)
    return command.collect(call, Console(quiet=True))[0]


def checked(folder, document, capsys):
    """Exit code and message of `run --check`."""
    (folder / "graph.json").write_text(json.dumps(document))
    code = main(["run", str(folder / "graph.json"), "--check", "--input", str(folder), "--output", str(folder / "out")])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sound", "settings"),
    [("a.ts", "aac", {"output_ts_offset": "1.4"}), ("a.avi", "pcm_s16le", {"video": "mpeg4"})],
)
def test_sound_goes_through_the_nodes(tmp_path, capsys, name, sound, settings):
    write_clip(tmp_path / name, sound, **settings)
    (tmp_path / "copy.json").write_text(json.dumps(COPY))
    assert main(["run", str(tmp_path / "copy.json"), "--output", str(tmp_path), "--set", f"1.file={name}"]) == 0
    beep, seconds = heard(capsys.readouterr().out.strip())
    assert beep == pytest.approx(BEEP, abs=0.04) and seconds == pytest.approx(4, abs=0.05)


def test_a_sound_that_cannot_be_stored_is_told_on_save_video_and_the_clip_is_there(tmp_path):
    core = load_pack("nodes.headless.core_nodes.videos")
    host, headless = load_pack("nodes.host"), load_pack("nodes.headless.host")
    with host.installed(headless.RunnerHost(headless.Folders((tmp_path,), tmp_path), None)):
        video = core.CreateVideo.execute(torch.zeros(8, 16, 16, 3), 8.0, {"sample_rate": 8000}).args[0]
        shown = core.SaveVideo.execute(video, "clip", "auto", "auto").ui
    assert "saved without its sound" in shown["text"][0]
    assert len(read_video(shown["saved"][0]).frames) == 8


def save_animation(path, colours, **settings):
    pictures = [Image.new("RGBA" if len(colour) == 4 else "RGB", (6, 4), colour) for colour in colours]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, **settings)


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png", "a.tiff"])
def test_load_image_gives_all_pictures_of_an_animation(tmp_path, name):
    save_animation(tmp_path / name, [(30 * number,) * 3 for number in range(8)])
    images, masks = collected(tmp_path, picture_graph(name))["LoadImage"].outputs
    assert (255 * images.mean((1, 2, 3))).tolist() == pytest.approx([30 * number for number in range(8)], abs=2)
    assert masks.shape == (8, 64, 64) and not masks.any()


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_load_image_gives_the_transparency_of_each_picture(tmp_path, name):
    save_animation(tmp_path / name, [(255, 0, 0, 255), (0, 255, 0, 0), (0, 0, 255, 255)])
    masks = collected(tmp_path, picture_graph(name))["LoadImage"].outputs[1]
    assert masks.shape == (3, 4, 6) and masks.mean((1, 2)).tolist() == [0, 1, 0]


def test_pages_of_another_size_are_left_out_as_in_comfyui(tmp_path):
    pages = [Image.new("RGB", size, "white") for size in ((6, 4), (3, 3), (6, 4))]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    assert collected(tmp_path, picture_graph("pages.tiff"))["LoadImage"].outputs[0].shape == (2, 4, 6, 3)


def long_clip(path, frames=60, size=64):
    write_video(path, torch.linspace(0, 1, frames)[:, None, None, None].expand(-1, size, size, 3), 8)


class Decoded:
    """Counts the pictures that are made of a video's frames."""

    def __init__(self, monkeypatch):
        self.count = 0
        convert = video._upright

        def counting(frame):
            self.count += 1
            return convert(frame)

        monkeypatch.setattr(video, "_upright", counting)


def taking(node, **inputs):
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": node, "inputs": inputs},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }


def test_prepare_frames_decodes_what_it_takes_and_nothing_behind(tmp_path, monkeypatch):
    long_clip(tmp_path / "clip.mp4")
    decoded = Decoded(monkeypatch)
    framing = ALL_AS_IT_IS | {"start": 4, "count": 3, "sampling_rate": 2}
    taken = collected(tmp_path, taking("FateZero_PrepareFrames", images=["2", 0], **framing))
    assert decoded.count <= 3 + 2  # the first frame is looked at before the run, and by Load Video
    assert taken["FateZero_PrepareFrames"].outputs[0].equal(read_video(tmp_path / "clip.mp4").frames[4:9:2])


@pytest.mark.parametrize(("first", "length"), [(0, 1), (3, 5), (58, 9), (99, 2)])
def test_a_part_of_a_files_frames_is_that_of_all(tmp_path, first, length):
    long_clip(tmp_path / "clip.mp4")
    taken = collected(tmp_path, taking("ImageFromBatch", image=["2", 0], batch_index=first, length=length))
    part = load_pack("nodes.headless.core_nodes.images").ImageFromBatch.execute(
        read_video(tmp_path / "clip.mp4").frames, first, length
    )
    assert taken["ImageFromBatch"].outputs[0].equal(part.args[0])


def test_other_nodes_get_all_frames(tmp_path):
    long_clip(tmp_path / "clip.mp4", frames=5)
    inputs = {"image": ["2", 0], "amount": 2}
    taken = collected(tmp_path, taking("RepeatImageBatch", **inputs))
    assert taken["RepeatImageBatch"].outputs[0].equal(read_video(tmp_path / "clip.mp4").frames.repeat(2, 1, 1, 1))
    assert taken["GetVideoComponents"].outputs[0].shape == (5, 64, 64, 3)


def test_memory_does_not_grow_with_the_part_of_a_clip_that_nobody_takes(tmp_path):
    framing = ALL_AS_IT_IS | {"count": 4}
    peaks = {}
    for frames in (4, 120):
        long_clip(tmp_path / "clip.mp4", frames=frames, size=128)
        tracemalloc.start()
        collected(tmp_path, taking("FateZero_PrepareFrames", images=["2", 0], **framing))
        peaks[frames] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    whole = 120 * 128 * 128 * 3  # bytes: pictures are arrays of numpy, whose memory is traced
    assert peaks[120] - peaks[4] < whole / 10


def test_a_damaged_end_does_not_matter_where_nobody_looks(tmp_path):
    noise = torch.rand(40, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "clip.mp4", noise, 8)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[: len(content) * 2 // 3])
    framing = ALL_AS_IT_IS | {"count": 4}
    taken = collected(tmp_path, taking("FateZero_PrepareFrames", images=["2", 0], **framing))
    assert len(taken["FateZero_PrepareFrames"].outputs[0]) == 4
    with pytest.raises(load_pack("nodes.headless.problems").NodeFailed, match=r"cut off after frame"):
        collected(tmp_path, taking("RepeatImageBatch", image=["2", 0], amount=1))


def test_rate_and_sound_go_through_prepare_frames(tmp_path):
    write_clip(tmp_path / "clip.mp4", "aac")
    graph = COPY | {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["5", 0], "fps": ["5", 1], "audio": ["5", 2]}},
        "5": {
            "class_type": "FateZero_PrepareFrames",
            "inputs": ALL_AS_IT_IS
            | {"images": ["2", 0], "fps": ["2", 2], "audio": ["2", 1], "start": FPS, "sampling_rate": 3},
        },
    }
    results = collected(tmp_path, graph)
    assert results["FateZero_PrepareFrames"].outputs[1] == pytest.approx(FPS / 3)
    (saved,) = results["SaveVideo"].shown["saved"]
    video = read_video(saved)
    assert video.fps == Fraction(FPS, 3) and len(video.frames) == FPS
    beep, seconds = heard(saved)
    assert beep == pytest.approx(BEEP - 1, abs=0.04) and seconds == pytest.approx(3, abs=0.05)


def test_postscript_named_as_a_picture_starts_no_program(tmp_path, capsys, monkeypatch):
    shutil.copy(CASES / "eps_named.png", tmp_path)
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    code, said = checked(tmp_path, picture_graph("eps_named.png"), capsys)
    assert code == 2 and "eps_named.png is not a readable picture" in said and "Traceback" not in said


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path, capsys):
    shutil.copy(CASES / "huge_header.png", tmp_path)
    code, said = checked(tmp_path, picture_graph("huge_header.png"), capsys)
    assert code == 2 and "huge_header.png is not a readable picture" in said and "Traceback" not in said


def test_many_large_pictures_in_a_small_file_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(frame_files, "MOST_PIXELS", 100)
    save_animation(tmp_path / "a.webp", [(30 * number,) * 3 for number in range(8)])
    code, said = checked(tmp_path, picture_graph("a.webp"), capsys)
    assert code == 2 and "holds 8 pictures of 6x4, 192 pixels together; at most 100" in said


def video_graph(name):
    return COPY | {"1": {"class_type": "LoadVideo", "inputs": {"file": name}}}


def test_a_damaged_video_with_a_title_of_no_encoding_is_told_in_a_sentence(tmp_path, capsys):
    shutil.copy(CASES / "unicode_error.mp4", tmp_path)
    code, said = checked(tmp_path, video_graph("unicode_error.mp4"), capsys)
    assert code == 2 and "unicode_error.mp4 has no video stream" in said and "Traceback" not in said


def test_titles_in_another_encoding_are_read_over(tmp_path):
    write_clip(tmp_path / "plain.mp4", "aac", seconds=1)
    with av.open(str(tmp_path / "plain.mp4")) as source, av.open(str(tmp_path / "titled.mp4"), "w") as titled:
        titled.metadata["title"] = "holiday"
        streams = {stream.index: titled.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                titled.mux(packet)
    content = (tmp_path / "titled.mp4").read_bytes()
    (tmp_path / "titled.mp4").write_bytes(content.replace(b"holiday", b"h\xf6l\xefday"))
    (saved,) = collected(tmp_path, video_graph("titled.mp4"))["SaveVideo"].shown["saved"]
    assert len(read_video(saved).frames) == FPS and heard(saved)[1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("graph", [video_graph, picture_graph])
@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "loop", "a\0b", "into_loop/clip.mp4"])
def test_names_that_lead_nowhere_are_refused_in_a_sentence(tmp_path, capsys, graph, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "into_loop").symlink_to("loop")
    code, said = checked(tmp_path, graph(name), capsys)
    assert code == 2 and "Traceback" not in said and len(said) < 500
    assert "is no file name" in said or "there is no file" in said


def test_a_video_of_impossible_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    long_clip(tmp_path / "clip.mp4", frames=1)
    monkeypatch.setattr(video, "LONGEST_SIDE", 32)
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="64x64 pixels; at most 32 a side"):
        collected(tmp_path, video_graph("clip.mp4"))


def test_pillow_is_told_the_formats_wherever_a_picture_is_opened():
    """Without them it looks at the content, and starts Ghostscript for PostScript whatever the file is called."""
    folders = ("fatezero_ext", "nodes", "docs", "benchmarks", "tests")
    texts = {str(path): path.read_text("utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")}
    calls = [
        (name, call)
        for name, text in texts.items()
        if "Image.open(" in text
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Image.open"
    ]
    assert calls
    assert [name for name, call in calls if "formats" not in {keyword.arg for keyword in call.keywords}] == []
