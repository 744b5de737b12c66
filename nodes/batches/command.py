"""Carries out `python -m fatezero_ext batch`."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rich.console import Console

from .. import host
from ..file_stamps import stamped_by
from ..headless.command import EXAMPLES, check_folder, check_output
from ..headless.host import Folders, RunnerHost
from ..headless.problems import InvalidWorkflow
from ..headless.run.progress import Reporter
from ..headless.schemas.registry import pack_node_types
from .content import ContentStamps
from .driver import Run
from .drivers import Driver
from .engines.seam import Engine
from .folder import BatchFolder, is_full
from .plan import read_plan
from .problems import BatchStopped, InvalidPlan, PlanProblem, listed
from .progress import Counts, ProgressLines, counted
from .report import Reports, write_reports
from .rows import Row, checked_rows, units_of
from .shared_disks import check_cache
from .status import status_lines
from .worker import Setup
from .workflow import batch_workflow, targets_of

OK, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
ROWS_FAILED, MOST_COUNTED = 10, 110
"""Exit codes for failed rows: 10 and their number, at most 110."""

MANY = 1000
"""Rows whose check takes longer than a few seconds."""
MOST_REMARKS = 3
"""Remarks that are printed after a batch; the report has them all."""


@dataclass(frozen=True)
class BatchCommand:
    """One call of the command.

    workflow: None for the one-node edit
    workers:  None for one per GPU, or one without
    address:  of a Ray cluster; None for one of this machine
    shard:    number of this driver, 1 is the first, and how many there are
    check:    stop after the validation; dry_run: say what would run, then stop
    """

    plan: Path
    output: Path = Path("output")
    workflow: Path | None = None
    inputs: Path | None = None
    models: Path | None = None
    workers: int | None = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    shard: tuple[int, int] = (1, 1)
    retry_failed: bool = False
    measure: bool = False
    check: bool = False
    dry_run: bool = False

    @property
    def folders(self) -> Folders:
        """Folders in which files are read and written."""
        own = self.inputs if self.inputs is not None else self.plan.parent
        models = () if self.models is None else (self.models.absolute(),)
        return Folders((own.absolute(), EXAMPLES), self.output.absolute(), models)


def run_batch(command: BatchCommand) -> int:
    """Validate and run; returns the exit code."""
    console = Console(stderr=True)
    lines = ProgressLines(console)
    try:
        return _run(command, lines)
    except (InvalidPlan, InvalidWorkflow) as error:
        lines.say(f"Error in {command.plan.name}: {error}")
        return INVALID
    except BatchStopped as error:
        lines.say(f"Stopped: {error}")
        return FAILED
    except OSError as error:
        reason = "no space is left" if is_full(error) else "a file cannot be read or written"
        lines.say(
            f"Stopped: {reason} ({error}); rows that are done are kept. See to it, then run the same command again."
        )
        return FAILED
    except KeyboardInterrupt:
        with suppress(OSError):  # a terminal that was closed
            lines.say("Stopped. Rows that are done are kept; run the same command again to go on.")
        return INTERRUPTED


def show_status(folder: Path) -> int:
    """Print the status of a batch's folder."""
    try:
        sys.stdout.write("\n".join(status_lines(folder)) + "\n")
    except InvalidPlan as error:
        sys.stderr.write(f"Error: {error}\n")
        return INVALID
    return OK


def renew_report(folder: Path) -> int:
    """Write the reports of a batch's folder anew."""
    try:
        _name_reports(write_reports(BatchFolder(folder)))
    except InvalidPlan as error:
        sys.stderr.write(f"Error: {error}\n")
        return INVALID
    return OK


def _name_reports(reports: Reports) -> None:
    sys.stdout.write(f"{reports.page}\n{reports.table}\n")


def _run(command: BatchCommand, lines: ProgressLines) -> int:
    folder = BatchFolder(command.folders.output)
    check_output(command.output)
    check_folder("--input", command.inputs, "clips")
    check_folder("--models", command.models, "models")
    rows, problems, columns = _checked(command, folder, lines)
    valid = [row for row in rows if row.folder]
    if command.check or not valid:
        if problems:
            raise InvalidPlan(problems)
        lines.say(f"{command.plan} is valid: {_amounts(rows)}")
        return OK
    for text in listed(problems):
        lines.say(f"Not valid, and left out: {text}")
    left = folder.left(valid)
    if command.dry_run:
        folder.check(rows)
        _say_what_would_run(rows, left, lines)
        return OK
    folder.open(command.plan.name, rows)
    if command.retry_failed and (again := folder.forget_failures(valid)):
        lines.say(f"Run again, as they had failed: {counted(again, 'row')}.")
        left = folder.left(valid)
    if command.measure and (before := len(valid) - len(left)):
        lines.say(f"--measure is for rows that run now, not for {counted(before, 'row')} that ran before.")
    try:
        failed = _all(command, folder, rows, left, columns, lines)
    except (KeyboardInterrupt, BatchStopped, OSError):
        with suppress(OSError):  # the disk may be full
            write_reports(folder)
        raise
    reports = write_reports(folder)
    _name_reports(reports)
    if any(folder.is_failed(row) for row in valid):
        lines.say("Rows that failed are left as they are; --retry-failed runs them again.")
    for remark, number in islice(reports.remarks.items(), MOST_REMARKS):
        lines.say(f"\u26a0 row {number}: {remark}")
    if reports.remarks:
        lines.say(f"{counted(reports.remarked, 'row')} with remarks: see the report.")
    return OK if not failed else min(ROWS_FAILED + failed, MOST_COUNTED)


def _checked(
    command: BatchCommand, folder: BatchFolder, lines: ProgressLines
) -> tuple[list[Row], list[PlanProblem], tuple[str, ...]]:
    """Read the plan and check every row of it; returns the rows, what is wrong with some, and the plan's columns."""
    plan = read_plan(command.plan)
    columns = tuple(dict.fromkeys(column for row in plan for column in row.values))
    types = pack_node_types()
    stamps = ContentStamps(folder.stamps)
    with host.installed(RunnerHost(command.folders, Reporter(Console(stderr=True)))), stamped_by(stamps):
        graph = batch_workflow(command.workflow, types)
        targets = targets_of(graph, columns, types)
        check_cache(graph)
        if len(plan) > MANY:
            lines.say(f"Checking {len(plan)} rows.")
        rows, problems = checked_rows(plan, graph, targets, types)
    folder.check(rows)
    if folder.own.is_dir() or not (command.check or command.dry_run):  # these two make no folder
        stamps.save()
    return rows, problems, columns


def _amounts(rows: Sequence[Row]) -> str:
    units = len(units_of([row for row in rows if row.folder]))
    pairs = "1 clip and inversion" if units == 1 else f"{units} different clips and inversions"
    return f"{counted(len(rows), 'row')} with {pairs}"


def _say_what_would_run(rows: Sequence[Row], left: Sequence[Row], lines: ProgressLines) -> None:
    lines.say(f"{_amounts(rows)}; {counted(len(left), 'row')} would run:")
    for unit in units_of(left):
        lines.say(f"  together, on one worker ({len(unit.rows)}):")
        for row in unit.rows:
            lines.say(f"    row {row.number}: {row.folder}")


def _all(
    command: BatchCommand,
    folder: BatchFolder,
    rows: Sequence[Row],
    left: Sequence[Row],
    columns: tuple[str, ...],
    lines: ProgressLines,
) -> int:
    """Run the rows that are left; returns how many rows have failed in all."""
    invalid = sum(not row.folder for row in rows)
    valid = [row for row in rows if row.folder]
    failed = sum(folder.is_failed(row) for row in valid)
    counts = Counts(len(rows), len(valid) - len(left) - failed, invalid + failed)
    units = units_of(left)
    first = len(units) * (command.shard[0] - 1) // command.shard[1]
    todo = deque([*units[first:], *units[:first]])
    with Driver(folder) as driver, lines:
        folder.sweep(driver.living())
        try:
            if todo:
                with _engine(command, _setup(command, folder, columns, driver.id), len(todo)) as engine:

                    def report() -> None:
                        write_reports(folder)

                    Run(folder, driver, engine, counts, lines, report, todo).all()
            else:
                lines.show(counts, now=True)
        finally:
            folder.end_all(driver.id)  # first: a row that is left marked as running counts as a death
            folder.sweep(driver.living())  # of those that have died meanwhile
    return counts.failed


def _setup(command: BatchCommand, folder: BatchFolder, columns: tuple[str, ...], driver: str) -> Setup:
    folders = command.folders
    workflow = None if command.workflow is None else folder.kept_workflow(command.workflow)
    return Setup(workflow, folders.output, folders.inputs, folders.models, columns, driver, command.measure)


@contextmanager
def _engine(command: BatchCommand, setup: Setup, units: int) -> Iterator[Engine]:
    """Start an engine with no more workers than units; end its workers at the end."""
    engine: Engine
    if command.engine == "ray":
        from .engines.on_ray import RayEngine

        engine = RayEngine(setup.plain(), command.workers, units, command.address)
    else:
        from .engines.local import LocalEngine

        devices = _gpus()
        engine = LocalEngine(setup.plain(), min(command.workers or len(devices) or 1, units), devices)
    try:
        yield engine
    finally:
        engine.cancel()


def _gpus() -> list[str]:
    """Return CUDA_VISIBLE_DEVICES for each GPU that this process may use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    given = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return given[:count] if given else [str(number) for number in range(count)]
