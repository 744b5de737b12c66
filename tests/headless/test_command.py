import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fatezero_ext.cli.main import main
from fatezero_ext.cli.stop_signals import stop_signals
from fatezero_ext.media.video import read_video, write_video

ROOT = Path(__file__).parents[2]
COPY = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {"class_type": "ImageFromBatch", "inputs": {"image": ["2", 0], "batch_index": 1, "length": 2}},
    "4": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "fps": ["2", 2]}},
    "5": {
        "class_type": "SaveVideo",
        "inputs": {"video": ["4", 0], "filename_prefix": "video/copy", "format": "auto", "codec": "auto"},
    },
}


@pytest.fixture
def folder(tmp_path, ramp):
    """A folder with a video and a workflow that saves its second and third frame."""
    write_video(tmp_path / "clip.mp4", ramp, 8)
    (tmp_path / "copy.json").write_text(json.dumps(COPY))
    return tmp_path


@pytest.fixture(scope="module")
def ramp():
    return torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 16, 16, 3)


@pytest.mark.slow
def test_run_as_a_program_saves_the_video_and_prints_its_path(folder, ramp):
    command = [sys.executable, "-m", "fatezero_ext", "run", str(folder / "copy.json"), "--output", str(folder / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved = folder / "out" / "video" / "copy_00001_.mp4"
    assert done.stdout.splitlines() == [str(saved)]
    frames, fps = read_video(saved)
    assert fps == 8 and (frames - ramp[1:3]).abs().max() < 0.02


def test_setting_replaces_a_link_by_a_value(folder, capsys):
    out = ["--output", str(folder / "out")]
    assert main(["run", str(folder / "copy.json"), *out, "--set", "CreateVideo.fps=4"]) == 0
    assert read_video(capsys.readouterr().out.strip()).fps == 4


def test_each_variant_saves_its_own_file(folder, capsys):
    variants = ["--variant", "3.length=1", "--variant", "3.length=3"]
    code = main(["run", str(folder / "copy.json"), "--output", str(folder / "out"), *variants])
    printed = capsys.readouterr()
    assert code == 0
    assert [len(read_video(line).frames) for line in printed.out.splitlines()] == [1, 3]
    assert "#1 Load Video  unchanged" in printed.err and "variant 2 of 2: 3.length=3" in printed.err


def test_bad_last_variant_is_told_before_the_first_one_runs(folder, capsys):
    variants = ["--variant", "3.length=1", "--variant", "3.length=0"]
    assert main(["run", str(folder / "copy.json"), "--output", str(folder / "out"), *variants]) == 2
    assert "0 is out of range" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_check_validates_and_runs_nothing(folder, capsys):
    assert main(["run", str(folder / "copy.json"), "--check", "--output", str(folder / "out")]) == 0
    assert "is valid" in capsys.readouterr().err and not (folder / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "is not JSON"), (b"\xff\xfe\x00", "is not text"), (b"{}", "no nodes to run"), (None, "cannot read")],
)
def test_file_that_is_no_workflow_exits_with_2(tmp_path, capsys, content, words):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["run", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_missing_video_is_told_before_anything_runs(folder, capsys):
    (folder / "clip.mp4").rename(folder / "clips.mp4")
    assert main(["run", str(folder / "copy.json"), "--output", str(folder / "out")]) == 2
    told = capsys.readouterr().err
    assert "#1 Load Video input 'file': there is no file 'clip.mp4'" in told and "Did you mean clips.mp4?" in told


def test_input_folder_can_be_given(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy.json"
    elsewhere.write_text(json.dumps(COPY))
    assert main(["run", str(elsewhere), "--check"]) == 2
    assert main(["run", str(elsewhere), "--check", "--input", str(folder)]) == 0


@pytest.mark.parametrize("option", ["--input", "--models"])
def test_a_folder_to_read_from_that_is_none_is_named(folder, option, capsys):
    file = folder / "clip.mp4"
    for given, reason in ((folder / "none", "does not exist"), (file, "is a file"), ("x" * 300, "does not exist")):
        assert main(["run", str(folder / "copy.json"), "--check", option, str(given)]) == 2
        told = "".join(capsys.readouterr().err.splitlines())
        assert f"{option} {given}"[:200] in told and f" {reason}" in told


@pytest.mark.parametrize(
    "given, usage",
    [
        (["run", "edit.json", "--frames", "3"], "--set NODE.INPUT=VALUE"),
        (["run", "edit.json", "--model", "folder"], "--set NODE.INPUT=VALUE"),
        (["batch", "plan.csv", "--frames", "3"], "--retry-failed"),
        (["cache", "prune", "--al"], "--limit-gb"),
    ],
)
def test_an_unknown_or_shortened_option_is_answered_with_those_of_the_command(given, usage, capsys):
    with pytest.raises(SystemExit) as caught:
        main(given)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and usage in told and f"unrecognized arguments: {' '.join(given[2:])}" in told


def test_bad_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2 and "WORKFLOW.json" in capsys.readouterr().err


def failing(class_type):
    return {
        "1": {"class_type": "Number", "inputs": {"value": 0, "mode": "plain"}},
        "2": {"class_type": class_type, "inputs": {"a": ["1", 0]}, "_meta": {"title": "Middle"}},
        "3": {"class_type": "Show", "inputs": {"source": ["2", 0]}},
    }


def run_document(headless, types, folder, document, **options):
    path = folder / "workflow.json"
    path.write_text(json.dumps(document))
    return headless.command.run_command(headless.command.Command(path, **options), types)


def test_failing_node_exits_with_1_and_one_line(headless, types, tmp_path, capsys):
    assert run_document(headless, types, tmp_path, failing("Fail")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "Error: #2 Middle: ZeroDivisionError: cannot divide by 0"


def test_verbose_shows_the_traceback(headless, types, tmp_path, capsys):
    assert run_document(headless, types, tmp_path, failing("Fail"), verbose=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_exits_with_130(headless, types, tmp_path, capsys):
    assert run_document(headless, types, tmp_path, failing("Interrupt")) == 130
    assert "Stopped" in capsys.readouterr().err


SLOW_SAVE = """
import signal, sys, time
from pathlib import Path
from fatezero_ext import __main__ as program
from fatezero_ext import atomic_files as files
from fatezero_ext.cli.node_pack import load_pack

signal.signal(signal.SIGINT, signal.default_int_handler)
io = load_pack("nodes.api").io
host = load_pack("nodes.host")
registry = load_pack("nodes.headless.schemas.registry")
command = load_pack("nodes.headless.command")

class SlowSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="SlowSave", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        bar = host.current().progress(1000)
        with files.whole_file(host.current().output_directory() / "result.txt") as partial:
            partial.write_text("half")
            for step in range(1000):
                bar.update(step)
                time.sleep(0.02)

folder = Path(sys.argv[1])
program.stop_on_terminate()
slow = command.Command(folder / "slow.json", output=folder / "out")
sys.exit(command.run_command(slow, registry.node_types([SlowSave])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, *stop_signals()])
def test_stopped_program_leaves_no_half_written_file(tmp_path, number):
    (tmp_path / "slow.json").write_text(json.dumps({"1": {"class_type": "SlowSave", "inputs": {}}}))
    program = subprocess.Popen(
        [sys.executable, "-c", SLOW_SAVE, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    out = tmp_path / "out"
    until = time.monotonic() + 120
    while not (out.is_dir() and any(out.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    assert [entry.name.startswith(".result") for entry in out.iterdir()] == [True]
    os.kill(program.pid, number)
    _, told = program.communicate(timeout=120)
    assert program.returncode == 130 and "Stopped" in told and "Traceback" not in told
    assert list(out.iterdir()) == []
