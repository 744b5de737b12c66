"""The command: exit codes, what it prints, and what it refuses before anything runs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fatezero_ext.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def batch(place, plan, capsys):
    """Run the command on a plan of pictures; returns exit code, output and errors."""

    def run(text, *more, workflow="picture.json", output="out"):
        arguments = [str(plan(text)), "--workflow", str(place / workflow), "--output", str(place / output), *more]
        code = main(["batch", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_check_says_what_is_wrong_and_writes_nothing(batch, place):
    code, _, said = batch("image,width\nred.png,4\nnone.png,x\n", "--check")
    assert code == 2 and "row 2 (line 3), column 'width'" in said and "column 'image'" in said
    assert not (place / "out").exists()
    code, _, said = batch("image,width\nred.png,4|5\nblue.png,5\n", "--check")
    assert code == 0 and "3 rows with 2 different clips" in said and not (place / "out").exists()


def test_the_command_imports_no_model_library_before_it_runs():
    code = "import sys; from fatezero_ext.cli.node_pack import load_pack; load_pack('nodes.batches.command'); "
    code += "print([name for name in ('torch', 'diffusers', 'transformers', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dry_run_shows_units_and_writes_nothing(batch, place):
    code, _, said = batch("image,width\nred.png,4|5\nblue.png,5\nnone.png,1\n", "--dry-run")
    assert code == 0 and "on one worker (2)" in said and "on one worker (1)" in said and "Not valid" in said
    assert not (place / "out").exists()


def test_a_plan_without_a_valid_row_runs_nothing(batch, place):
    code, _, said = batch("image,width\nnone.png,4\n")
    assert code == 2 and "no file 'none.png'" in said and not (place / "out").exists()


def test_the_exit_code_counts_failed_rows_and_a_second_run_does_nothing(batch, place):
    table = "image,width\nred.png,4\nblue.png,5\nnone.png,6\n"
    code, out, said = batch(table, "--workers", "1")
    assert code == 11 and "Not valid, and left out: row 3" in said and "2 of 3 rows done, 1 failed, 0 left" in said
    assert out.splitlines() == [str(place / "out" / name) for name in ("report.html", "report.csv")]
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "rows").rglob("*")}
    assert len([path for path in before if path.suffix == ".png"]) == 2
    code, _, said = batch(table, "--measure")
    assert "not for 2 rows that ran before" in said and "2 of 3 rows done, 1 failed, 0 left" in said
    assert code == 11 and {path: path.stat().st_mtime_ns for path in (place / "out" / "rows").rglob("*")} == before
    assert main(["batch", "status", str(place / "out")]) == main(["batch", "report", str(place / "out")]) == 0


def test_a_folder_of_clips_that_is_none_is_said_once(batch, place):
    for option, of in (("--input", "clips"), ("--models", "models")):
        code, _, said = batch("image\nred.png\nblue.png\n", option, str(place / "none"))
        said = "".join(said.splitlines())
        assert code == 2 and f"may not be looked at; the folder of the {of} is needed" in said and "row" not in said
        assert "red.png is a file; " in batch("image\nred.png\n", option, str(place / "red.png"))[2]


def test_one_row_is_counted_as_one(batch, batches):
    code, _, said = batch("image\nred.png\n", "--check")
    assert code == 0 and "1 row with 1 clip and inversion\n" in said
    assert batches.progress.summary(1, 1, 0, None) == "1 of 1 row done, 0 failed, 0 left"


def test_a_full_disk_is_said_wherever_it_shows(batch, batches, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batches.drivers, "create_once", full)
    code, _, said = batch("image\nred.png\n")
    assert code == 1 and "Stopped: no space is left" in said and "run the same command again" in said


def test_a_stopped_driver_counts_no_death_and_leaves_no_drafts_of_dead_ones(batch, batches, place, monkeypatch):
    folder = batches.folder.BatchFolder(place / "out")

    class Stopped:
        def free(self):
            return ["worker-1"]

        def submit(self, _worker, rows):
            (row,) = rows
            folder.begin(row, next((folder.own / "drivers").glob("*.json")).stem)
            for driver in ("dead", "living"):
                (folder.own / "drafts" / f"{driver}.worker-1.{row.key}").mkdir()
            batches.folder.write_json(folder.own / "drivers" / "living.json", {"machine": "another", "beat": 1})

        def results(self, _seconds):
            assert len(folder.running()) == 1
            raise KeyboardInterrupt  # as of Ctrl-C, of SIGTERM and of SIGHUP

        def cancel(self):
            pass

    monkeypatch.setattr(batches.local, "LocalEngine", lambda *_arguments: Stopped())
    code, _, said = batch("image\nred.png\n")
    assert code == 130 and "run the same command again to go on" in said
    assert folder.running() == {} and list((folder.own / "deaths").iterdir()) == []
    drafts = [path.name.partition(".")[0] for path in (folder.own / "drafts").iterdir()]
    assert drafts == ["living"]  # those of a driver that died while this one worked are gone


def test_reports_say_where_a_run_began_and_where_it_was_stopped(batch, batches, place, monkeypatch):
    folder = batches.folder.BatchFolder(place / "out")
    given, statuses = [], []

    def table():
        path = folder.path / "report.csv"
        statuses.append([row["status"] for row in csv.DictReader(path.open(newline=""))] if path.exists() else None)

    class Stopped:
        def free(self):
            return [] if given else ["worker-1"]

        def submit(self, _worker, rows):
            given.extend(rows)

        def results(self, _seconds):
            table()
            if len(statuses) % 2:
                return []
            folder.result(given[0]).mkdir(parents=True)
            batches.folder.write_json(folder.result(given[0]) / "result.json", {"said": []})
            raise KeyboardInterrupt

        def cancel(self):
            pass

    monkeypatch.setattr(batches.local, "LocalEngine", lambda *_arguments: Stopped())
    assert batch("image,width\nred.png,4|5\n")[0] == 130
    table()
    assert statuses == [None, ["waiting"] * 2, ["done", "waiting"]]


def test_the_output_of_others_is_refused(batch, place):
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").touch()
    code, _, said = batch("image\nred.png\n", output="notes")
    assert code == 2 and "a batch needs a folder of its own" in said
    code, _, said = batch("image\nred.png\n", output="red.png")
    assert code == 2 and "is not a folder" in said


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_shards_are_numbers(batch, shard):
    with pytest.raises(SystemExit):
        batch("image\nred.png\n", "--shard", shard)


@pytest.mark.parametrize(
    "options, said",
    [
        (["--workers", "0"], "no number of workers"),
        (["--address", "here:1"], "add --engine ray"),
    ],
)
def test_options_that_do_not_fit_are_refused(batch, capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        batch("image\nred.png\n", *options)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_second_name_is_for_status_and_report(place, plan, capsys):
    with pytest.raises(SystemExit):
        main(["batch", str(plan("image\nred.png\n")), str(place)])
    assert "a second name" in capsys.readouterr().err


def test_ray_that_is_not_installed_is_named_with_its_pip_line(batch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, said = batch("image\nred.png\n", "--engine", "ray")
    assert code == 2 and "fatezero-video[cluster]" in said


def test_the_wrong_workflow_is_named(batch, place):
    (place / "odd.json").write_text(json.dumps({"1": {"class_type": "KSampler", "inputs": {}}}))
    code, _, said = batch("image\nred.png\n", workflow="odd.json")
    assert code == 2 and "column 'image': no node of the workflow has such a widget" in said
    code, _, said = batch("image\nred.png\n", workflow="none.json")
    assert code == 2 and "cannot read the workflow" in said
