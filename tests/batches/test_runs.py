"""Batches that run: what workers compute, and what the driver does when rows fail and workers die."""

import json
import threading
from collections import Counter

import pytest

from fatezero_ext.cli.main import main

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
    assert seen.comparable and seen.mask.shape == seen.before.shape[:3]
    figures = batches.preview.measured(seen)
    from fatezero_ext.metrics.edit_metrics import likeness

    assert figures["psnr"] == pytest.approx(likeness(seen.before, seen.after, seen.mask).psnr)


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
