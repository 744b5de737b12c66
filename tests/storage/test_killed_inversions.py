"""Inversions killed while they save themselves, and saved ones that were damaged: the next run has the clean bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import THOROUGH

PROGRAM = Path(__file__).parent / "killed_inversions.py"
ROUNDS = 100 if THOROUGH else 3

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to start quickly")]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """The clean run's bits, and the outcome of every round by what is done in it."""
    command = [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("killed")), str(ROUNDS), "7"]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    first, *outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(outcomes) == 2 * ROUNDS
    return first["clean"]["bits"], {"kill": outcomes[:ROUNDS], "damage": outcomes[ROUNDS:]}


def test_after_a_kill_the_next_run_ends_with_the_clean_runs_bits(rounds):
    clean, outcomes = rounds
    assert any(outcome["done"] == "killed" for outcome in outcomes["kill"])
    for outcome in outcomes["kill"]:
        assert outcome["again"]["bits"] == outcome["last"]["bits"] == clean, outcome
        assert outcome["sound"] and not outcome["last"]["inverted"] and not outcome["left"], outcome


def test_every_damage_is_reported_and_the_bits_are_the_clean_runs(rounds):
    clean, outcomes = rounds
    for outcome in outcomes["damage"]:
        assert outcome["again"]["bits"] == outcome["last"]["bits"] == clean, outcome
        assert outcome["again"]["warnings"] and not outcome["last"]["warnings"], outcome
        assert outcome["sound"] and not outcome["last"]["inverted"], outcome
