"""The engine of Ray's actors; skips without Ray (`pip install 'ray>=2.40'`), but for what needs none."""

import importlib.util
import json
import os
import signal
import socket
from types import SimpleNamespace

import psutil
import pytest

from fatezero_ext.cli.node_pack import load_pack

from .test_local_engine import until

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")


@pytest.fixture
def on_ray():
    """The module of the engine."""
    return load_pack("nodes.batches.engines.on_ray")


@pytest.mark.parametrize("address", ["10.0.0.5", "ray://10.0.0.5:10001", "host:port", ":6379"])
def test_addresses_of_no_cluster_are_refused(batches, on_ray, address):
    with pytest.raises(batches.problems.InvalidPlan, match="HOST:PORT of its head is needed"):
        on_ray.check_answers(address)


def test_a_cluster_that_does_not_answer_is_said(batches, on_ray, monkeypatch):
    monkeypatch.setattr(on_ray, "ANSWER_SECONDS", 0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        with pytest.raises(batches.problems.BatchStopped, match="no Ray cluster answers at 127.0.0.1"):
            on_ray.check_answers(f"127.0.0.1:{unused.getsockname()[1]}")


def method(call):
    return SimpleNamespace(options=lambda **_options: SimpleNamespace(remote=call))


class Cluster:
    """What the engine asks of Ray, without machines."""

    def __init__(self):
        self.gpus, self.made, self.done, self.killed, self.asked = 0, [], set(), [], 0

    def cluster_resources(self):
        return {"CPU": 4.0, "GPU": float(self.gpus)}

    def remote(self, **_options):
        return lambda _made: self

    def options(self, **needs):
        self.made.append(needs["num_gpus"])
        number = len(self.made)
        handle = SimpleNamespace(
            __ray_ready__=SimpleNamespace(remote=lambda: f"placed {number}"),
            each=method(lambda *_arguments: f"events {number}"),
            is_alive=method(self.ask),
        )
        return SimpleNamespace(remote=lambda *_arguments: handle)

    def ask(self):
        self.asked += 1
        return f"sign {self.asked}"

    def wait(self, references, **_options):
        done = [each for each in references if each in self.done]
        return done, [each for each in references if each not in done]

    def get(self, _reference):
        return None

    def kill(self, handle):
        self.killed.append(handle)


def test_actors_follow_the_gpus_and_those_without_room_are_said(on_ray, monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(on_ray, "connected", lambda *_arguments: cluster)
    monkeypatch.setattr(on_ray, "LOOK_SECONDS", 0.0)
    engine = on_ray.RayEngine({}, None, 3, "here:1")
    assert cluster.made == [0]
    cluster.gpus = 8
    (event,) = engine.results(0.0)
    assert cluster.made == [0, 1, 1] and event.kind == "remark" and "3 of 3 actors are not placed" in event.text
    assert engine.results(0.0) == []  # said once


def test_an_actor_that_gives_no_sign_of_life_is_replaced(on_ray, monkeypatch):
    cluster, clock = Cluster(), [0.0]
    monkeypatch.setattr(on_ray, "connected", lambda *_arguments: cluster)
    monkeypatch.setattr(on_ray, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    engine = on_ray.RayEngine({}, 1, 1, "here:1")
    cluster.done.add("placed 1")
    engine.results(0.0)
    engine.submit("actor-1", [])
    for _ in range(int(2 * on_ray.SILENT_SECONDS / on_ray.ALIVE_SECONDS)):  # longer than any silence may be
        clock[0] += on_ray.ALIVE_SECONDS + 1
        assert engine.results(0.0) == []
        cluster.done.add(f"sign {cluster.asked}")
        engine.results(0.0)
    assert cluster.killed == [] and cluster.asked == int(2 * on_ray.SILENT_SECONDS / on_ray.ALIVE_SECONDS)
    clock[0] += 2 * on_ray.SILENT_SECONDS  # this process was stopped and goes on
    assert engine.results(0.0) == [] and cluster.killed == []
    events = []
    while not events:
        clock[0] += on_ray.ALIVE_SECONDS
        events = engine.results(0.0)
        assert clock[0] < 100 * on_ray.SILENT_SECONDS
    (event,) = events
    assert event.kind == "died" and "no sign of life" in event.text
    assert len(cluster.killed) == 1 and len(cluster.made) == 2 and engine.free() == []


@needs_ray
@pytest.mark.slow
def test_an_actor_that_is_stopped_is_replaced(batches, on_ray, place, plan, check, monkeypatch):
    rows, folder, engine = started(batches, on_ray, place, plan, check)
    monkeypatch.setattr(on_ray, "ALIVE_SECONDS", 1.0)
    monkeypatch.setattr(on_ray, "SILENT_SECONDS", 5.0)
    try:
        placed(engine)
        engine.submit("actor-1", rows)
        until(engine, "done")
        (pid,) = {result["pid"] for result in results(folder)}
        os.kill(pid, signal.SIGSTOP)
        assert "no sign of life" in until(engine, "died")[-1].text
        placed(engine)
        engine.submit("actor-1", folder.still_left(rows))
        until(engine, "ended")
    finally:
        engine.cancel()
    assert folder.still_left(rows) == [] and not psutil.pid_exists(pid)


@needs_ray
@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_keeps_its_model_otherwise(batches, on_ray, place, plan, check):
    rows, folder, engine = started(batches, on_ray, place, plan, check)
    try:
        placed(engine)
        engine.submit("actor-1", rows)
        until(engine, "done")
        pids = {result["pid"] for result in results(folder)}
        os.kill(pids.pop(), signal.SIGKILL)
        assert until(engine, "died")[-1].worker == "actor-1"
        placed(engine)
        engine.submit("actor-1", folder.still_left(rows))
        until(engine, "ended")
    finally:
        engine.cancel()
    assert folder.still_left(rows) == [] and len({result["pid"] for result in results(folder)}) <= 2


def started(batches, on_ray, place, plan, check):
    """Start the engine on a plan with one actor; returns its rows, its folder and the engine."""
    widths = "|".join(map(str, range(4, 40)))
    path = plan(f"image,width\nred.png,{widths}\n")
    rows, _ = check(path, place / "picture.json")
    folder = batches.folder.BatchFolder(place / "out")
    folder.open(path.name, rows)
    setup = batches.worker.Setup(place / "picture.json", folder.path, (place,), (), ("image", "width"), "driver")
    return rows, folder, on_ray.RayEngine(setup.plain(), 1, 1, None)


def placed(engine):
    """Wait until an actor can be given a unit."""
    for _ in range(600):
        engine.results(0.5)
        if engine.free():
            return
    raise AssertionError("no actor was placed")


def results(folder):
    return [json.loads(path.read_text()) for path in folder.path.glob("rows/*/result.json")]
