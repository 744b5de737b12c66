"""Inversions killed while they save themselves, and saved ones that were damaged: the next run has the clean bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import THOROUGH

PROGRAM = Path(__file__).parent / "killed_inversions.py"
ROUNDS = 100 if THOROUGH else 3

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to start quickly")]


def rounds(what, folder):
    """The clean run's bits, and the outcome of every round."""
    command = [sys.executable, str(PROGRAM), what, str(folder), str(ROUNDS), "7"]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[1])}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    first, *outcomes = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(outcomes) == ROUNDS
    return first["clean"]["bits"], outcomes


def test_after_a_kill_the_next_run_ends_with_the_clean_runs_bits(tmp_path):
    clean, outcomes = rounds("kill", tmp_path)
    assert any(outcome["done"] == "killed" for outcome in outcomes)
    for outcome in outcomes:
        assert outcome["again"]["bits"] == outcome["last"]["bits"] == clean, outcome
        assert outcome["sound"] and not outcome["last"]["inverted"] and not outcome["left"], outcome


def test_every_damage_is_reported_and_the_bits_are_the_clean_runs(tmp_path):
    clean, outcomes = rounds("damage", tmp_path)
    for outcome in outcomes:
        assert outcome["again"]["bits"] == outcome["last"]["bits"] == clean, outcome
        assert outcome["again"]["warnings"] and not outcome["last"]["warnings"], outcome
        assert outcome["sound"] and not outcome["last"]["inverted"], outcome
