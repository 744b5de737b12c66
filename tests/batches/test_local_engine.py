"""The engine of processes: they are started afresh, keep their models, and are replaced when they die."""

import json
import os
import signal
import time

import pytest


@pytest.fixture
def engine(batches, place, plan, check):
    """Start the engine on a checked plan; returns it with the rows."""
    started = []

    def start(text, workers=1, setup=None):
        path = plan(text)
        rows, _ = check(path, place / "picture.json")
        folder = batches.folder.BatchFolder(place / "out")
        folder.open(path.name, rows)
        columns = tuple(rows[0].values)
        plain = batches.worker.Setup(place / "picture.json", folder.path, (place,), (), columns, "driver").plain()
        made = batches.local.LocalEngine({**plain, **(setup or {})}, workers)
        started.append(made)
        return made, rows, folder

    yield start
    for made in started:
        made.cancel()


def until(engine, kind, seconds=300):
    """Events of an engine up to the first of a kind."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        for event in engine.results(0.2):
            found.append(event)
            if event.kind == kind:
                return found
    raise AssertionError(f"no {kind} among {found}")


def test_a_killed_worker_is_replaced_and_its_unit_can_be_given_again(engine):
    made, rows, folder = engine("image,width\nred.png,4\nred.png,5\n")
    made.submit("worker-1", rows)
    assert made.free() == []
    until(made, "done")
    os.kill(made._running["worker-1"].process.pid, signal.SIGKILL)
    died = until(made, "died")[-1]
    assert died.worker == "worker-1" and "signal 9" in died.text and made.free() == ["worker-1"]
    left = folder.still_left(rows)
    made.submit("worker-1", left)
    assert [event.folder for event in until(made, "ended") if event.kind == "done"] == [row.folder for row in left]
    assert folder.still_left(rows) == []
    results = [json.loads((folder.result(row) / "result.json").read_text()) for row in rows]
    assert results[0]["pid"] not in (os.getpid(), results[1]["pid"]) or not left


def test_workers_end_with_their_engine(engine):
    made, rows, _ = engine("image,width\nred.png,4\n")
    made.submit("worker-1", rows)
    process = made._running["worker-1"].process
    made.cancel()
    assert not process.is_alive()


def test_workers_that_cannot_start_are_said(engine, tmp_path):
    made, rows, _ = engine("image,width\nred.png,4\n", setup={"output": str(tmp_path / "elsewhere")})
    made.submit("worker-1", rows)
    event = until(made, "broken")[-1]
    assert "does not see the output folder" in event.text
