"""The GPU suite runs to its end on a CPU, so that the one day it meets a GPU is not spoiled by a typo."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as suite
from benchmarks.gpu.bench import Bench, Part, run_parts
from benchmarks.gpu.report import Report
from benchmarks.gpu.scene import full_scale

CHECKOUT = Path(__file__).parents[1]
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
