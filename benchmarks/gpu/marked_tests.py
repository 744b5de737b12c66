"""The tests marked `gpu`, in a process of their own that can be stopped."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.report import CHECKOUT

MARK = "pytest.mark.gpu"
OUTCOME = re.compile(r"^(tests/\S+?\.py\S*(?: \S+)*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)", re.MULTILINE)
CAUSE = re.compile(r"^(?:FAILED|ERROR) (.+)$", re.MULTILINE)
SECONDS = 150.0


def run(bench: Bench) -> None:
    """Each test's outcome, and of those that failed the last line."""
    files = [str(path.relative_to(CHECKOUT)) for path in sorted(CHECKOUT.glob("tests/**/test_*.py"))]
    files = [path for path in files if MARK in (CHECKOUT / path).read_text() and not path.startswith("tests/comfyui")]
    said, ended = _pytest(files, min(SECONDS, max(bench.left, 1.0)))
    outcomes = dict(OUTCOME.findall(said))
    counted = Counter(outcomes.values())
    bench.keep("tests", outcomes)
    bench.keep("failures", CAUSE.findall(said))
    bench.keep("ended", ended)
    if not outcomes:
        bench.keep("output", said[-2000:])
    bench.line(
        "tests marked gpu", ", ".join(f"{count} {name.lower()}" for name, count in counted.items()), "all passed"
    )
    for cause in CAUSE.findall(said):
        bench.line("", cause[:200])
    if ended != "exit code 0" or not outcomes:
        bench.wrong(f"the tests' process ended with {ended}, {len(outcomes)} outcomes, {counted['FAILED']} failed")


def _pytest(files: list[str], limit: float) -> tuple[str, str]:
    """What it wrote, also where it was stopped, and how it ended."""
    options = ["-m", "gpu", "-v", "-rfE", "--tb=line", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-u", "-m", "pytest", *options, *files]
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired as stopped:
        said = stopped.stdout or b""
        return said.decode(errors="replace") if isinstance(said, bytes) else said, f"its limit of {limit:.0f} s"
    return done.stdout, f"exit code {done.returncode}"
