"""The output folder and its drivers: claims, heartbeats, results that are whole or not there."""

import json
import os
import threading

import pytest

from fatezero_ext.cli.node_pack import load_pack


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
        assert driver.is_alive(driver.id) and not driver.is_alive("reused") and not driver.is_alive("none")


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


def test_a_file_is_created_once_also_without_links(batches, tmp_path, monkeypatch):
    def no_links(*_paths):
        raise PermissionError

    assert batches.folder.create_once(tmp_path / "a", "1") and not batches.folder.create_once(tmp_path / "a", "2")
    monkeypatch.setattr(os, "link", no_links)
    assert batches.folder.create_once(tmp_path / "b", "1") and not batches.folder.create_once(tmp_path / "b", "2")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "1"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


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
