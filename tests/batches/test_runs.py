"""Batches that run: what workers compute, and what the driver does when rows fail and workers die."""

import json
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console

from fatezero_ext.cli.main import main
from fatezero_ext.media.streamed import StreamedFrames

CLIP = "red_circle_on_grass.mp4"
EDITS = ("a blue circle on the grass", "a green circle on the grass")
COLUMNS = "clip,source_prompt,edit_prompt,steps,frames,size"
FEW = "2,2,32"


def numbers(count):
    return "value\n" + "\n".join(map(str, range(count))) + "\n"


def results(folder):
    """The results of a folder by the names of rows' folders."""
    found = sorted((folder.path / "rows").glob("*/result.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def test_rows_of_a_unit_share_the_inversion_and_units_share_the_model(run, plan):
    done = run(
        plan(f"{COLUMNS}\n{CLIP},a red circle on the grass,{'|'.join(EDITS)},{FEW}\n{CLIP},a circle,a ball,{FEW}\n")
    )
    nodes = [node for result in results(done.folder).values() for node in result["nodes"]]
    made = Counter(node["node"].rpartition("> ")[2] for node in nodes if not node["reused"])
    assert done.counts.done == 3 and [len(unit) for unit in done.engine.units] == [2, 1]
    assert made["DDIM Inversion"] == 2 and made["Prompt-to-Prompt Edit"] == 3
    assert sum(count for name, count in made.items() if "Load Stable Diffusion" in name) == 1


def test_a_row_has_the_bits_of_a_single_run(run, plan, place, batches):
    done = run(plan(f"{COLUMNS}\n{CLIP},a red circle on the grass,{'|'.join(EDITS)},{FEW}\n"))
    (place / "one.json").write_text(json.dumps(batches.workflow.VIDEO_EDIT))
    for number, edit in enumerate(EDITS):
        widgets = {
            "source_prompt": "a red circle on the grass",
            "edit_prompt": edit,
            "steps": 2,
            "frames": 2,
            "size": 32,
        }
        settings = [f"--set=VideoEdit.{name}={value}" for name, value in widgets.items()]
        settings.append(f"--set=LoadVideo.file={CLIP}")
        assert main(["run", str(place / "one.json"), *settings, "--output", str(place / f"single{number}")]) == 0
    for number, row in enumerate(done.rows):
        single = (place / f"single{number}" / "edit_00001_.mp4").read_bytes()
        assert (done.folder.result(row) / "edit_00001_.mp4").read_bytes() == single
        preview = done.folder.result(row) / "preview.webp"
        assert batches.preview.PREVIEW == preview.name and preview.read_bytes()[8:12] == b"WEBP"


def test_figures_are_those_of_the_saved_clip_and_the_source(batches, run, plan):
    done = run(plan(f"{COLUMNS}\n{CLIP},a red circle on the grass,{EDITS[0]},{FEW}\n"))
    seen = done.engine.worker.seen
    assert seen.before.shape == seen.after.shape and seen.mask.shape == seen.before.shape[:3]
    figures = batches.preview.measured(seen)
    from fatezero_ext.metrics.edit_metrics import likeness

    assert figures["psnr"] == pytest.approx(likeness(seen.before, seen.after, seen.mask).psnr)


def streamed(frames):
    return StreamedFrames(tuple(frames.shape), lambda: iter(frames.split(3)))


def test_a_clip_that_is_made_part_by_part_has_the_preview_of_one_in_memory(batches, tmp_path):
    before, after = torch.rand(2, 70, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    for length in (1, 32, 33, 64, 65, 70):
        (some, count), (whole, _) = map(batches.preview._some, (streamed(before[:length]), before[:length]))
        assert count == length and len(some) <= batches.preview.MOST_HELD and torch.equal(some, whole)
    seen = batches.preview.Seen()
    node = SimpleNamespace(class_type="VAEEncode", id="1")
    seen(node, {"pixels": [streamed(before)]}, None)
    node = SimpleNamespace(class_type="SaveImage", id="2")
    seen(node, {"images": [after]}, SimpleNamespace(shown={}))
    assert batches.preview.write_preview(tmp_path, seen) == batches.preview.PREVIEW
    with Image.open(tmp_path / batches.preview.PREVIEW, formats=["WEBP"]) as picture:
        assert picture.width == 2 * picture.height
    assert "too long" in batches.preview.measured(seen)["remark"]


def test_several_clips_are_not_measured_against_each_other(batches):
    clip = torch.zeros(2, 16, 16, 3)
    seen = batches.preview.Seen(clip, clip, sources={"1"}, saved={"2", "3"})
    assert "several clips" in batches.preview.measured(seen)["remark"]


def test_remarks_belong_to_rows_also_where_their_nodes_are_not_run_again(batches):
    kept = {}

    def row(edit, *, reused):
        reporter = batches.worker.RowReporter(kept)
        reporter.keys = {"#3 Edit": edit}
        host = batches.worker.RowHost(batches.runner.Folders((), None), reporter)
        reporter.started("#3 Edit", 1, 1)
        if not reused:
            host.say([f"{edit} is not known: do this.\nKnown: a"], ["Edit of 8 frames."], "3")
            reporter.started("#3 Edit > Invert", 1, 1)
            if not kept:
                host.say(["few frames."], [], "3.1")
                host.say([f"{edit} is not known: do that."], [], "3.1")
            reporter.ended("#3 Edit > Invert", 0.0, reused=bool(kept))
        reporter.ended("#3 Edit", 0.0, reused=reused)
        return reporter.remarks

    known = {edit: f"{edit} is not known: do this.\nKnown: a" for edit in ("jeep", "ox")}
    assert row("jeep", reused=False) == [known["jeep"], "few frames."]
    assert row("ox", reused=False) == [known["ox"], "few frames."]
    assert row("jeep", reused=True) == [known["jeep"], "few frames."]


def test_words_that_the_model_does_not_know_are_remarks_of_their_rows_alone(run, plan):
    edits = "a jeep on the grass|a blue circle on the grass"
    done = run(plan(f"{COLUMNS}\n{CLIP},a red circle on the grass,{edits},{FEW}\n"))
    found = [results(done.folder)[row.folder]["remarks"] for row in done.rows]
    assert [any("does not know 'jeep'" in remark for remark in remarks) for remarks in found] == [True, False]


def test_again_only_what_is_missing_runs(run, plan, place):
    workflow = place / "number.json"
    assert len(run(plan(numbers(3)), workflow).engine.ran) == 3
    assert run(plan(numbers(3)), workflow).engine.ran == []
    more = run(plan(numbers(5)), workflow)
    assert len(more.engine.ran) == 2 and more.counts.done == 5


def test_each_row_saves_its_own_files(run, plan, place):
    done = run(plan("image,filename_prefix\nred.png,a\nblue.png,b\n"), place / "picture.json")
    assert sorted(name for result in results(done.folder).values() for name in result["files"]) == [
        "a_00001_.png",
        "b_00001_.png",
    ]


def test_a_row_that_differs_in_nothing_that_is_saved_saves_too(run, plan, place):
    document = json.loads((place / "picture.json").read_text())
    document["4"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1}}
    document["5"] = {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}}
    (place / "both.json").write_text(json.dumps(document))
    done = run(plan("value\n1\n2\n"), place / "both.json")
    assert [(result["files"], result["texts"]) for result in results(done.folder).values()] == [
        (["picture_00001_.png"], ["1"]),
        (["picture_00001_.png"], ["2"]),
    ]


def test_a_bad_row_does_not_stop_the_others(run, plan, place):
    (place / "gone.png").write_bytes((place / "red.png").read_bytes())
    path = plan("image\nred.png\ngone.png\nblue.png\n")
    done = run_after(run, path, place / "picture.json", lambda: (place / "gone.png").write_bytes(b"no picture"))
    assert (done.counts.done, done.counts.failed) == (2, 1)
    failed = json.loads(done.folder.failure(done.rows[1]).read_text())
    assert failed["error"] and "Traceback" in failed["traceback"] and not failed["set_aside"]
    assert not done.folder.result(done.rows[1]).exists()


def run_after(run, path, workflow, change):
    """Run a plan; `change` happens between its check and its run."""
    import fatezero_ext.cli.node_pack as node_pack

    folder = node_pack.load_pack("nodes.batches.folder").BatchFolder
    original = folder.open

    def opened(self, plan, rows):
        original(self, plan, rows)
        change()

    folder.open = opened
    try:
        return run(path, workflow)
    finally:
        folder.open = original


@pytest.mark.parametrize("first", ["swept", "written"])
def test_a_draft_that_is_dropped_gives_neither_a_failure_nor_half_results(
    run, plan, place, batches, monkeypatch, first
):
    folder, write, swept = batches.folder.BatchFolder(place / "out"), batches.worker.write_preview, []

    def and_sweep(draft, seen):
        if first == "written":
            write(draft, seen)
        if not swept:
            swept.append(folder.sweep([]))
        return write(draft, seen)

    monkeypatch.setattr(batches.worker, "write_preview", and_sweep)
    done = run(plan("image\nred.png\n"), place / "picture.json")
    (result,) = results(done.folder).values()
    assert done.engine.ran == [done.rows[0].folder] * 2 and done.counts.done == 1 and done.counts.failed == 0
    assert all((done.folder.result(done.rows[0]) / name).is_file() for name in [*result["files"], result["preview"]])
    assert not (place / "out" / "failed").exists() and list((place / "out" / ".batch" / "running").iterdir()) == []


def test_a_batch_goes_on_with_the_workflow_that_it_began_with(batches, check, plan, place):
    path = plan("image\nred.png\n")
    rows, _ = check(path, place / "picture.json")
    folder = batches.folder.BatchFolder(place / "out")
    folder.open(path.name, rows)
    command = batches.command.BatchCommand(path, place / "out", place / "picture.json")
    setup = batches.command._setup(command, folder, ("image",), "driver")
    document = json.loads((place / "picture.json").read_text())
    document["2"]["inputs"]["width"] = 16
    (place / "picture.json").write_text(json.dumps(document))
    events = [event.kind for event in batches.worker.Worker(setup, "here").run(rows)]
    assert events == ["started", "done", "ended"]
    assert Image.open(folder.result(rows[0]) / "picture_00001_.png", formats=["PNG"]).size == (8, 8)


def test_a_clip_that_changed_since_the_check_is_refused_in_words(run, plan, place):
    change = lambda: (place / "red.png").write_bytes((place / "blue.png").read_bytes())  # noqa: E731
    done = run_after(run, plan("image\nred.png\nblue.png\n"), place / "picture.json", change)
    assert (done.counts.done, done.counts.failed) == (1, 1)
    error = json.loads(done.folder.failure(done.rows[0]).read_text())["error"]
    assert "not those that the plan was checked with" in error


def test_a_row_that_another_driver_has_done_gets_no_failure(batches, run, plan, place):
    done = run(plan(numbers(1)), place / "number.json")
    event = done.engine.worker._failed(done.rows[0], OSError("late"), 1.0)
    assert event.kind == "done" and not done.folder.failure(done.rows[0]).exists()


def test_a_row_with_which_drivers_die_is_set_aside(run, plan, place, batches, monkeypatch):
    path, publish = plan("image,width\nred.png,4\nred.png,5\n"), batches.folder.BatchFolder.publish
    killers = [4, 4]

    def dies(self, draft, row):
        if killers and row.values["width"] == str(killers[-1]):
            killers.pop()
            raise SystemExit  # memory runs out: the driver dies with its workers
        publish(self, draft, row)

    monkeypatch.setattr(batches.folder.BatchFolder, "publish", dies)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(path, place / "picture.json")
    done = run(path, place / "picture.json")
    assert (done.counts.done, done.counts.failed) == (1, 1) and done.folder.is_done(done.rows[1])
    assert "died with its driver" in json.loads(done.folder.failure(done.rows[0]).read_text())["error"]


def test_a_row_whose_check_fails_on_the_worker_fails_alone(run, plan, place, batches, monkeypatch):
    order = batches.worker.Worker._order

    def odd(self, row):
        if row.values["width"] == "5":
            raise OSError(5, "Input/output error")
        return order(self, row)

    monkeypatch.setattr(batches.worker.Worker, "_order", odd)
    done = run(plan("image,width\nred.png,4|5|6\n"), place / "picture.json")
    assert (done.counts.done, done.counts.failed) == (2, 1) and done.folder.is_failed(done.rows[1])


def break_gpu(batches, monkeypatch, broken):
    """Let rows fail as on a GPU that can be used no more."""
    write = batches.worker.write_preview

    def breaks(draft, seen):
        if broken(draft.name):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return write(draft, seen)

    monkeypatch.setattr(batches.worker, "write_preview", breaks)


def test_a_broken_gpu_ends_the_worker_and_not_the_row(run, plan, place, batches, monkeypatch):
    times = [1]
    break_gpu(batches, monkeypatch, lambda _name: times and times.pop())
    done = run(plan(numbers(3)), place / "number.json")
    assert (done.counts.done, done.counts.failed) == (3, 0) and len(done.engine.ran) == 4


def test_a_gpu_that_stays_broken_stops_the_batch(run, plan, place, batches, monkeypatch):
    break_gpu(batches, monkeypatch, lambda _name: True)
    with pytest.raises(batches.problems.BatchStopped, match="GPU of each worker failed 5 times in a row"):
        run(plan(numbers(40)), place / "number.json")
    aside = {path.name for path in (place / "out" / "failed").iterdir()}
    assert len(aside) == 4  # each at its second loss; the others of ten losses were the first ones of rows


def test_rows_that_take_too_much_memory_do_not_stop_the_others(run, plan, place, check):
    path = plan("image,width\n" + "".join(f"red.png,{width}\n" for width in range(1, 9)) + "blue.png,3\n")
    rows, _ = check(path, place / "picture.json")
    done = run(path, place / "picture.json", dies={row.folder: 9 for row in rows[:8]})
    assert (done.counts.done, done.counts.failed) == (1, 8)


def test_a_report_that_cannot_be_written_stops_nothing(run, plan, place, batches, monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device")

    make = batches.driver.Run
    monkeypatch.setattr(batches.driver, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(batches.driver, "Run", lambda *a: make(*a[:5], full, *a[6:]))
    assert run(plan(numbers(2)), place / "number.json").counts.done == 2


def test_a_worker_is_starting_until_it_has_begun_a_row(batches, check, plan, place):
    rows, _ = check(plan(numbers(3)), place / "number.json")
    folder, event = batches.folder.BatchFolder(place / "out"), batches.seam.Event
    folder.open("plan.csv", rows)
    engine, counts = SimpleNamespace(free=lambda: ["a"], submit=lambda *_given: None), batches.progress.Counts(3)
    units, lines = batches.rows.units_of(rows), batches.progress.ProgressLines(Console(quiet=True))
    driver = batches.drivers.Driver(folder)
    started = batches.driver.Run(folder, driver, engine, counts, lines, lambda: None, batches.driver.deque(units))
    shown = []
    for happens in ("started", "ended", "", "died", ""):
        if not happens or not shown:
            started._give()
            shown.append(dict(counts.running))
        if happens:
            started._take(event("a", happens, rows[0].folder))
            shown.append(dict(counts.running))
    assert shown == [{"a": "starting"}, {"a": rows[0].folder}, {}, {}, {}, {"a": "starting"}]


def test_a_row_that_kills_its_worker_once_runs_again_behind_its_unit(run, plan, place, batches, check):
    path = plan("image,width\nred.png,4\nred.png,5\nred.png,6\n")
    rows, _ = check(path, place / "picture.json")
    first, second, third = (row.folder for row in rows)
    done = run(path, place / "picture.json", dies={second: 1})
    assert done.engine.ran == [first, second, third, second]
    assert (done.counts.done, done.counts.failed) == (3, 0)


def test_a_row_that_kills_its_worker_twice_is_set_aside(run, plan, place, check):
    path = plan("image,width\nred.png,4\nred.png,5\nblue.png,6\n")
    rows, _ = check(path, place / "picture.json")
    done = run(path, place / "picture.json", dies={rows[0].folder: 9})
    assert (done.counts.done, done.counts.failed) == (2, 1) and Counter(done.engine.ran)[rows[0].folder] == 2
    assert json.loads(done.folder.failure(rows[0]).read_text())["set_aside"]
    assert run(path, place / "picture.json").engine.ran == []
    assert done.folder.forget_failures(rows) == 1
    assert run(path, place / "picture.json").counts.done == 3


def test_a_full_disk_stops_the_batch_with_what_is_done(batches, run, plan, place, monkeypatch):
    original, count = batches.folder.BatchFolder.publish, [0]

    def full(self, draft, row):
        count[0] += 1
        if count[0] > 2:
            raise OSError(28, "No space left on device")
        original(self, draft, row)

    monkeypatch.setattr(batches.folder.BatchFolder, "publish", full)
    with pytest.raises(batches.problems.BatchStopped, match="no space is left"):
        run(plan(numbers(5)), place / "number.json")
    folder = batches.folder.BatchFolder(place / "out")
    assert len(results(folder)) == 2 and list((place / "out" / ".batch" / "drafts").iterdir()) == []
    monkeypatch.setattr(batches.folder.BatchFolder, "publish", original)
    assert run(plan(numbers(5)), place / "number.json").counts.done == 5


def test_two_drivers_of_one_folder_do_every_row_once(run, plan, place):
    path, found = plan(numbers(12)), []
    threads = [threading.Thread(target=lambda: found.append(run(path, place / "number.json"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = [folder for done in found for folder in done.engine.ran]
    assert len(ran) == len(set(ran)) == 12 and [done.counts.done for done in found] == [12, 12]
