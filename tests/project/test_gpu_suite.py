"""The GPU suite runs to its end on a CPU, so that the one day it meets a GPU is not spoiled by a typo."""

import json
import logging
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu import copies, drill, marked_tests, steps, whole_job
from benchmarks.gpu.bench import Bench, Part, run_parts
from benchmarks.gpu.report import Report
from benchmarks.gpu.scene import full_scale, tiny_scale
from fatezero_ext import LayerAddress
from fatezero_ext.attention.records import FeatureRecord, StoredTensor
from fatezero_ext.storage.record_store import MemoryStore

CHECKOUT = Path(__file__).parents[2]
PARTS = ("tests", "whole job", "precision", "drill", "profile", "copies", "storages", "lengths", "pictures")


def started(*words, timeout):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu") / "report.json"
    done = started("--device", "cpu", "--tiny", "--minutes", "60", "--json", str(place), timeout=3600)
    return done, json.loads(place.read_text())


@pytest.mark.slow
def test_every_part_runs_to_its_end(report):
    done, found = report
    states = {name: (part["state"], part["reason"]) for name, part in found["parts"].items()}
    assert states == dict.fromkeys(PARTS, ("done", ""))
    assert done.returncode == 0
    assert all(name in done.stdout for name in PARTS)
    assert found["machine"]["torch"] and found["settings"]["tiny"] == "True"


@pytest.mark.slow
def test_remedies_come_in_their_order_and_change_nothing(report):
    figures = report[1]["parts"]["drill"]["figures"]
    edits = [each for name, each in figures.items() if name.startswith("edit")]
    taken = [len(each["remedies"]) for each in edits]
    assert taken == sorted(taken) and set(taken) == {0, 1, 2}
    assert all(each["in_order"] for each in figures.values() if isinstance(each, dict))
    ended = [each for each in edits if each["error"]]
    assert ended and all("Use fewer or smaller frames" in each["error"] for each in ended)
    assert all(each["relative"] < 1e-3 for each in edits if not each["error"])


@pytest.mark.slow
def test_records_come_back_as_they_left(report):
    figures = report[1]["parts"]["copies"]["figures"]
    compared = {name: each for name, each in figures.items() if name.startswith("records that differ")}
    assert len(compared) == 3 and not any(compared.values())


@pytest.mark.slow
def test_the_marked_tests_are_run_to_their_end(report):
    figures = report[1]["parts"]["tests"]["figures"]
    assert figures["ended"] == "exit code 0" and figures["tests"] and not figures["failures"]


@pytest.mark.slow
def test_a_step_has_no_waits(report):
    figures = report[1]["parts"]["profile"]["figures"]
    assert [each["waits"] for name, each in figures.items() if not name.startswith("a call")] == [{}] * 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu"], "takes hours on a CPU.*Add --tiny"),
        (["--device", "cuda"], "sees no GPU.*--device cpu --tiny"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.setattr(suite.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", *words, "--json", str(tmp_path / "report.json")])
    assert suite.main() == 2
    assert re.search(said, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_or_takes_too_long_is_reported_and_the_next_one_runs(tmp_path):
    def fails(bench):
        bench.keep("measured before", 1)
        raise ValueError("the part is broken")

    def hangs(bench):
        time.sleep(60)

    place = tmp_path / "report.json"
    bench = Bench(full_scale(torch.device("cpu")), Report(place, {}, {"gpu": None}), time.monotonic() + 30)
    parts = [
        Part("broken", 1, "", fails),
        Part("endless", 0.1, "", hangs),
        Part("too long", 100, "", hangs),
        Part("last", 1, "", lambda bench: bench.line("it", "ran")),
    ]
    run_parts(parts, bench)
    found = json.loads(place.read_text())["parts"]
    assert {name: part["state"] for name, part in found.items()} == {
        "broken": "failed", "endless": "failed", "too long": "skipped", "last": "done"
    }  # fmt: skip
    assert found["broken"]["figures"] == {"measured before": 1}
    assert found["broken"]["reason"].startswith("ValueError: the part is broken [")
    assert "it was stopped after 0 s" in found["endless"]["reason"]
    assert "about 100 s" in found["too long"]["reason"]


@pytest.fixture
def bench(tmp_path):
    """A bench of small shapes that runs nothing yet."""
    return Bench(
        tiny_scale(torch.device("cpu")), Report(tmp_path / "report.json", {}, {"gpu": None}), time.monotonic() + 60
    )


def ended(bench, run):
    """How a part ended, and its figures."""
    run_parts([Part("it", 1, "", run)], bench)
    (part,) = json.loads(bench.report.path.read_text())["parts"].values()
    return part["state"], part["reason"], part["figures"]


def test_a_wrong_result_fails_its_part_and_what_follows_is_still_measured(bench):
    def finds_wrong(bench):
        bench.wrong("one is too far")
        bench.wrong("and another")
        bench.keep("after", 1)

    assert ended(bench, finds_wrong) == ("failed", "one is too far; and another", {"after": 1})


@pytest.mark.parametrize(
    ("said", "code", "state"),
    [
        ("tests/test_a.py::test_b PASSED [100%]", "exit code 0", "done"),
        ("tests/test_a.py::test_b FAILED [100%]", "exit code 1", "failed"),
        ("a line in other words", "exit code 0", "failed"),
        ("tests/test_a.py::test_b PASSED [ 50%]", "its limit of 150 s", "failed"),
    ],
)
def test_marked_tests_that_did_not_all_end_well_fail_their_part(bench, monkeypatch, said, code, state):
    monkeypatch.setattr(marked_tests, "_pytest", lambda _files, _limit: (said, code))
    found = ended(bench, marked_tests.run)
    assert found[0] == state and found[2]["ended"] == code


def test_a_refusal_of_the_small_shapes_is_a_fault_of_the_program(bench):
    def refused(bench):
        with whole_job._one_refusal(bench, "it"):
            raise ValueError("the program is wrong")

    assert ended(bench, refused)[0] == "failed"
    bench.scale = full_scale(torch.device("cpu"))
    assert ended(Bench(bench.scale, Report(bench.report.path, {}, {"gpu": None}), bench.ends), refused)[0] == "done"


def test_a_result_of_the_drill_that_is_too_far_or_out_of_order_fails_it(bench):
    room = SimpleNamespace(capped=lambda _subject, _limit: nullcontext())
    given = {"subject": None, "room": room, "ready": lambda: None}
    wanted = torch.ones(3)

    def too_far(bench):
        drill.Drill("edit", bench, work=lambda: 2 * wanted, **given).under(1.0, wanted)

    def out_of_order():
        logging.getLogger("fatezero_ext").warning(drill.REMEDIES[1])
        return wanted

    assert "TOO FAR" in ended(bench, too_far)[1]
    again = Bench(bench.scale, Report(bench.report.path, {}, {"gpu": None}), bench.ends)
    found = ended(again, lambda bench: drill.Drill("edit", bench, work=out_of_order, **given).under(1.0, wanted))
    assert found[0] == "failed" and "OUT OF ORDER" in found[1]


def test_stores_that_are_compared_hold_nothing_in_common(noise):
    page = {LayerAddress("up", 1, 0, "self"): FeatureRecord(StoredTensor(noise(2, 3, 4)))}
    stores = MemoryStore(), MemoryStore(torch.device("cpu"))
    copies.Both(*stores).write(0, page)
    first, second = (next(iter(store.read(0).values())).kept.values for store in stores)
    assert first.equal(second) and first.data_ptr() != second.data_ptr()


def test_a_profiler_is_stopped_where_its_step_fails(bench, monkeypatch):
    seen = []
    profiler = SimpleNamespace(start=lambda: seen.append("start"), stop=lambda: seen.append("stop"))
    monkeypatch.setattr(steps, "_profile", lambda _bench: profiler)

    def fails_in_the_second(on_step, runs=[]):  # noqa: B006
        runs.append(on_step)
        for done in range(1, bench.scale.few + 1):
            if len(runs) == 2 and done == 2:
                raise ValueError("the step failed")
            on_step(SimpleNamespace(done=done))

    with pytest.raises(ValueError, match="the step failed"):
        steps._step(bench, "it", fails_in_the_second)
    assert seen == ["start", "stop"]
