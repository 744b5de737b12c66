"""The output folder and its drivers: claims, heartbeats, results that are whole or not there."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fatezero_ext.cli.node_pack import load_pack

ROOT = Path(__file__).parents[2]
OTHER = """
import sys, time
from pathlib import Path
from fatezero_ext.cli.node_pack import load_pack
folder = load_pack("nodes.batches.folder").BatchFolder(Path(sys.argv[1]))
with load_pack("nodes.batches.drivers").Driver(folder) as driver:
    driver.claim("u")
    print(driver.id, flush=True)
    time.sleep(600)
"""
"""A driver that claims a unit and stands still."""


@pytest.fixture
def row(batches):
    """Make a row by its name."""
    return lambda name, number=1: batches.rows.Row(number, number, {"value": name}, f"key-{name}", f"unit-{name}", name)


@pytest.fixture
def folder(batches, tmp_path, row):
    """An opened folder with three rows."""
    opened = batches.folder.BatchFolder(tmp_path / "out")
    opened.open("plan.csv", [row("a"), row("b"), row("c")])
    return opened


def finish(batches, folder, row):
    draft = folder.own / "drafts" / f"driver.worker.{row.key}"
    draft.mkdir(parents=True, exist_ok=True)
    batches.folder.write_json(draft / batches.folder.RESULT, row.plain())
    folder.publish(draft, row)


def test_rows_come_back_as_they_were(folder, row):
    assert folder.rows() == ("plan.csv", [row("a"), row("b"), row("c")])


def test_what_is_left_has_neither_result_nor_failure(batches, folder, row):
    finish(batches, folder, row("a"))
    folder.write_failure(row("b"), {"error": "no"})
    rows = [row("a"), row("b"), row("c")]
    assert folder.left(rows) == folder.still_left(rows) == [row("c")]
    assert folder.forget_failures(rows) == 1
    assert folder.left(rows) == [row("b"), row("c")]


def test_a_failure_beside_results_counts_as_done(batches, folder, row):
    finish(batches, folder, row("a"))
    folder.write_failure(row("a"), {"error": "late"})
    assert not folder.is_failed(row("a")) and folder.left([row("a")]) == []
    assert "1 of 3 rows done, 0 failed, 2 left" in batches.status.status_lines(folder.path)[0]


def test_a_folder_that_lost_its_result_is_left_and_replaced(batches, folder, row):
    finish(batches, folder, row("a"))
    (folder.result(row("a")) / "old.png").touch()
    (folder.result(row("a")) / "result.json").unlink()
    assert folder.left([row("a")]) == folder.still_left([row("a")]) == [row("a")]
    finish(batches, folder, row("a"))
    assert os.listdir(folder.result(row("a"))) == ["result.json"] and os.listdir(folder.own / "drafts") == []


def test_failures_alone_are_no_other_plan(folder, row):
    folder.write_failure(row("a"), {"error": "no"})
    folder.check([row("d")])


def test_a_second_result_of_a_row_is_dropped(batches, folder, row):
    finish(batches, folder, row("a"))
    (folder.result(row("a")) / "mark").touch()
    finish(batches, folder, row("a"))
    assert (folder.result(row("a")) / "mark").exists() and os.listdir(folder.own / "drafts") == []


def test_drafts_of_the_dead_are_swept(batches, folder):
    for name in ("dead.worker.key", "alive.worker.key"):
        (folder.own / "drafts" / name).mkdir()
    folder.sweep(["alive"])
    assert os.listdir(folder.own / "drafts") == ["alive.worker.key"]


def test_folders_of_others_are_refused(batches, tmp_path, folder, row):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(batches.problems.InvalidPlan, match="no batch"):
        batches.folder.BatchFolder(tmp_path).check([row("a")])
    finish(batches, folder, row("a"))
    with pytest.raises(batches.problems.InvalidPlan, match="results of another plan"):
        folder.check([row("d")])
    folder.check([row("d"), row("a")])
    folder.plan.write_text(json.dumps({"format": 99}))
    with pytest.raises(batches.problems.InvalidPlan, match="format 99"):
        folder.check([row("a")])


def test_a_unit_is_claimed_by_one_of_many(batches, folder):
    drivers = [batches.drivers.Driver(folder) for _ in range(8)]
    for driver in drivers:
        driver.__enter__()
    for unit in range(5):
        got, begin = [], threading.Barrier(len(drivers))

        def claim(driver, unit=unit, got=got, begin=begin):
            begin.wait()
            got.append(driver.claim(f"unit-{unit}"))

        threads = [threading.Thread(target=claim, args=(driver,)) for driver in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1
    for driver in drivers:
        driver.__exit__(None, None, None)


def test_a_claim_is_taken_over_once_its_driver_has_ended(batches, folder):
    with batches.drivers.Driver(folder) as first, batches.drivers.Driver(folder) as second:
        assert first.claim("u") and first.claim("u") and not second.claim("u")
    with batches.drivers.Driver(folder) as third:
        assert third.claim("u") and third.living() == [third.id]


def test_drivers_of_this_machine_are_alive_as_long_as_their_process(batches, folder):
    with batches.drivers.Driver(folder) as driver:
        about = json.loads((folder.own / "drivers" / f"{driver.id}.json").read_text())
        (folder.own / "drivers" / "reused.json").write_text(json.dumps({**about, "id": "reused", "began": 1.0}))
        assert driver.is_alive(driver.id) and not driver.is_alive("reused")


def test_a_driver_of_another_process_that_is_killed_loses_its_claim_and_its_drafts(batches, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder.path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        other = process.stdout.readline().strip()
        (folder.own / "drafts" / f"{other}.worker.key").mkdir()
        with batches.drivers.Driver(folder) as driver:
            folder.sweep(driver.living())
            assert driver.is_alive(other) and not driver.claim("u") and len(os.listdir(folder.own / "drafts")) == 1
            process.kill()
            process.wait()
            folder.sweep(driver.living())
            assert not driver.is_alive(other) and driver.claim("u") and os.listdir(folder.own / "drafts") == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_clock_that_is_set_ends_no_driver(batches, folder, monkeypatch):
    with batches.drivers.Driver(folder) as driver:
        create_time = batches.drivers.psutil.Process.create_time
        monkeypatch.setattr(batches.drivers.psutil.Process, "create_time", lambda self: create_time(self) + 1)
        assert batches.drivers.Driver(folder).is_alive(driver.id)


def test_drivers_of_other_machines_are_dead_when_their_heart_stands_still(batches, folder):
    def beat(number):
        about = {"id": "far", "machine": "elsewhere", "pid": 1, "began": 0.0, "beat": number, "ended": False}
        (folder.own / "drivers" / "far.json").write_text(json.dumps(about))

    watcher = batches.drivers.Driver(folder, dead_seconds=0.0)
    beat(1)
    assert watcher.is_alive("far")  # seen for the first time
    beat(2)
    assert watcher.is_alive("far")
    assert not watcher.is_alive("far")
    patient = batches.drivers.Driver(folder)
    assert patient.is_alive("far") and patient.is_alive("far")


@pytest.mark.parametrize("text", ["", None])
def test_a_heartbeat_that_cannot_be_read_is_no_death(batches, folder, text):
    far = folder.own / "drivers" / "far.json"
    far.write_text(json.dumps({"id": "far", "machine": "elsewhere", "pid": 1, "began": 0.0, "beat": 1, "ended": False}))
    patient, other = batches.drivers.Driver(folder), batches.drivers.Driver(folder, dead_seconds=0.0)
    assert patient.is_alive("far") and other.is_alive("far")
    far.unlink() if text is None else far.write_text(text)
    (folder.own / "claims" / "u.0").write_text("far")
    assert patient.is_alive("far") and not patient.claim("u")
    assert not other.is_alive("far") and other.claim("u")


def test_a_file_is_created_once_also_without_links(batches, tmp_path, monkeypatch):
    def no_links(*_paths):
        raise PermissionError

    assert batches.folder.create_once(tmp_path / "a", "1") and not batches.folder.create_once(tmp_path / "a", "2")
    monkeypatch.setattr(os, "link", no_links)
    assert batches.folder.create_once(tmp_path / "b", "1") and not batches.folder.create_once(tmp_path / "b", "2")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "1"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_link_whose_answer_was_lost_is_known_again(batches, tmp_path, monkeypatch):
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lost)
    assert batches.folder.create_once(tmp_path / "a", "1") and not batches.folder.create_once(tmp_path / "a", "2")


def test_full_disks_are_found_behind_other_errors(batches):
    def raised(number):
        try:
            try:
                raise OSError(number, "text")
            except OSError as error:
                raise ValueError("cannot be written") from error
        except ValueError as error:
            return error

    assert batches.folder.is_full(raised(28)) and not batches.folder.is_full(raised(2))
    assert not batches.folder.is_full(None)


@pytest.mark.parametrize(
    "kind, options, unlocked",
    [
        ("ext4", "rw,nolock", ""),
        ("nfs4", "rw,vers=4.2,hard", ""),
        ("nfs", "rw,nolock,vers=3", "nolock"),
        ("nfs4", "rw,local_lock=all", "local_lock=all"),
        ("lustre", "rw,localflock", "localflock"),
        ("fuse.sshfs", "rw", "without locks"),
    ],
)
def test_shared_disks_without_locks_are_told_apart(batches, tmp_path, kind, options, unlocked):
    mounts = {tmp_path.parent: ("nfs", "nolock"), tmp_path: (kind, options)}
    found = batches.shared_disks.unlocked(tmp_path / "cache", mounts)
    assert (unlocked in found) if unlocked else found == ""


def test_saved_inversions_without_locks_are_refused(batches, tmp_path, monkeypatch):
    graph = load_graph({"place": "disk"})
    monkeypatch.setenv("FATEZERO_CACHE_DIR", str(tmp_path))
    batches.shared_disks.check_cache(graph)
    monkeypatch.setitem(batches.shared_disks.UNLOCKED, disk_kind(batches, tmp_path), ("rw",))
    with pytest.raises(batches.problems.InvalidPlan, match="FATEZERO_CACHE_DIR"):
        batches.shared_disks.check_cache(graph)
    batches.shared_disks.check_cache(load_graph({"place": "ram"}))


def load_graph(inputs):
    make = load_pack("nodes.headless.graph")
    return make.graph_of([make.Node("1", "FateZero_AttentionStoreCache", "Store", inputs)])


def disk_kind(batches, path):
    """Return the file system of a folder."""
    partitions = batches.shared_disks.psutil.disk_partitions(all=True)
    inside = [each for each in partitions if path.resolve().is_relative_to(each.mountpoint)]
    return max(inside, key=lambda each: len(each.mountpoint)).fstype
