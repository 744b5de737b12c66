"""Damaged workflow files end in one sentence or run: no traceback, no hang, no heap of memory.

FATEZERO_THOROUGH=1 tries 5,000 of them, FATEZERO_THOROUGH=N that many. A seed that once found a fault is kept in SEEDS.
"""

import io as text_io
import json
import os
import re
import resource
import time
from unittest.mock import patch

import pytest
from rich.console import Console

from . import workflow_mutants

SEEDS = ()
"""Of mutants that found faults."""
FEW, MANY = 150, 5000
SLOW = 50
"""A check counts as hanging that takes the processor so many times longer than all sound documents together do."""
PEAK = 2**20
"""Kilobytes that the process may reach, all libraries of the project in it."""
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def seeds():
    thorough = os.environ.get("FATEZERO_THOROUGH", "")
    count = FEW if not thorough else int(thorough) if thorough.isdecimal() and int(thorough) > 1 else MANY
    return [*SEEDS, *range(count)]


@pytest.fixture(scope="module")
def types(headless):
    return headless.registry.pack_node_types()


@pytest.fixture(scope="module")
def documents(headless, types):
    examples = [json.loads(path.read_text()) for path in sorted(headless.command.EXAMPLES.glob("[0-9]_*.json"))]
    api_formats = [headless.workflow.graph_from(document, types).api_format() for document in examples]
    return workflow_mutants.sources(examples, api_formats)


@pytest.fixture
def check(headless, types, tmp_path):
    """What `run --check` of these bytes gives: exit code, all it says, seconds of the processor."""

    def run(content):
        path = tmp_path / "mutant.json"
        path.write_bytes(content)
        told = text_io.StringIO()
        command = headless.command.Command(path, check=True, output=tmp_path / "out")
        began = time.process_time()
        with patch.object(headless.command, "Console", lambda **_: Console(file=told, width=200)):
            code = headless.command.run_command(command, types)
        return code, told.getvalue(), time.process_time() - began

    return run


def test_the_undamaged_documents_are_valid(documents, check):
    for document in documents:
        code, told, _ = check(json.dumps(document).encode())
        assert code == 0, told


def fault(content, check, slow):
    """What is wrong with how a mutant is refused; '' for nothing. slow: seconds after which it hangs."""
    code, told, seconds = check(content)  # a traceback ends the test
    if code not in (0, 2):
        return f"exit code {code}"
    if seconds > slow:
        return f"{seconds:.1f} s, more than {slow:.1f} s"
    if STEERING.search(told) or "Traceback" in told or "its own check failed" in told:
        return told
    return "" if len(told) < 10_000 else f"{len(told)} letters"


def test_no_damage_ends_in_a_traceback_or_a_hang(documents, check):
    slow = SLOW * sum(check(json.dumps(document).encode())[2] for document in documents)
    faults = {}
    for seed in seeds():
        print(f"seed {seed}")  # noqa: T201 - pytest shows the last one of a test that a traceback ended
        found = fault(workflow_mutants.mutant(documents, seed), check, slow)
        if found:
            faults[seed] = found
    shown = "\n".join(f"seed {seed}: {found}" for seed, found in list(faults.items())[:5])
    assert not faults, f"{len(faults)} faults, of seeds {list(faults)[:20]}\n{shown}"


def test_no_damage_takes_a_heap_of_memory(documents, check):
    """Peak of the process: its libraries take some 500 MB of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds()[: FEW // 5]:
        check(workflow_mutants.mutant(documents, seed))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after < max(before + PEAK // 4, PEAK)
