"""The output folder of a batch.

rows/NAME-DIGEST/     results of a row: its files, preview.webp, result.json; renamed into place when whole
failed/NAME-DIGEST.json  why a row failed, with the traceback
report.html, report.csv
.batch/plan.json      the rows of the plan, as the last driver read them
.batch/stamps.json    digests of input files
.batch/drafts/        results that are being written
.batch/running/ROW    the driver one of whose workers runs a row
.batch/starts.txt     row, driver and process of every start, for those who look for what ran twice
.batch/workflows/     the workflow as it was when the plan was checked, by its digest
.batch/claims/UNIT.N  the driver that works on a unit; the highest N counts
.batch/deaths/ROW.N   workers that died while they ran a row
.batch/drivers/ID.json  heartbeat and progress of a driver
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...fatezero_ext.atomic_files import whole_file
from .problems import stop
from .rows import Row

FORMAT = 1
"""Format of the folder; another program's is refused."""
RESULT = "result.json"
MOST_DEATHS = 2
"""Workers that a row may kill before it is set aside."""
_ROWS = TypeAdapter(list[Row])
FULL = (errno.ENOSPC, errno.EDQUOT)


def json_of(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def create_once(path: Path, content: str) -> bool:
    """Create a file with its content at once; returns False where there is one already.

    A link to a finished file, which network file systems too make for one of several processes only; where there are no
    links, a new file that only one process may open. A link that was made although the answer was lost is known again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    draft.write_text(content, encoding="utf-8")
    try:
        os.link(draft, path)
    except FileExistsError:
        return os.path.samefile(draft, path)
    except OSError:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            return os.path.samefile(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class BatchFolder:
    """The output folder of a batch."""

    path: Path

    @property
    def own(self) -> Path:
        """Folder of the batch's own files."""
        return self.path / ".batch"

    @property
    def plan(self) -> Path:
        """File of the rows."""
        return self.own / "plan.json"

    @property
    def stamps(self) -> Path:
        """File of the digests of input files."""
        return self.own / "stamps.json"

    def result(self, row: Row) -> Path:
        """Folder of a row's results; it is there once they are whole."""
        return self.path / "rows" / row.folder

    def failure(self, row: Row) -> Path:
        """File that says why a row failed."""
        return self.path / "failed" / f"{row.folder}.json"

    def open(self, plan: str, rows: Sequence[Row]) -> None:
        """Make the folder and write its rows down.

        Raises InvalidPlan where it holds another program's files, or another plan's results alone.
        """
        self.check(rows)
        for name in ("claims", "deaths", "drafts", "drivers", "running"):
            (self.own / name).mkdir(parents=True, exist_ok=True)
        write_json(self.plan, {"format": FORMAT, "plan": plan, "rows": [row.plain() for row in rows]})

    def check(self, rows: Sequence[Row]) -> None:
        """Raise InvalidPlan as `open` does; makes nothing."""
        if not self.path.exists():
            return
        before = json_of(self.plan)
        if before is None:
            foreign = [path.name for path in self.path.iterdir() if not path.name.startswith(".")]
            if foreign:
                raise stop(
                    f"--output {self.path} holds {foreign[0]} and no batch; a batch needs a folder of its own. Name an "
                    f"empty or a new one."
                )
            return
        if before.get("format") != FORMAT:
            raise stop(
                f"--output {self.path} is of format {before.get('format')}; this program writes {FORMAT}. Name another "
                f"folder."
            )
        kept = _names(self.path / "rows")
        if kept and self.finished.isdisjoint(row.folder for row in rows):
            raise stop(
                f"--output {self.path} holds {len(kept)} results of another plan ({before.get('plan')}), or of this "
                f"one with other values, clips or workflow, and none of these rows. Name another folder."
            )

    def kept_workflow(self, workflow: Path) -> Path:
        """Copy a workflow, so that a batch goes on with it whatever becomes of the file; returns the copy."""
        content = workflow.read_bytes()
        copy = self.own / "workflows" / f"{hashlib.sha256(content).hexdigest()[:16]}.json"
        with whole_file(copy) as partial:
            partial.write_bytes(content)
        return copy

    def rows(self) -> tuple[str, list[Row]]:
        """Return the name of the plan and its rows; raises InvalidPlan where the folder holds no batch."""
        found = json_of(self.plan)
        try:
            if found is not None and found["format"] == FORMAT:
                rows = _ROWS.validate_python(found["rows"])
                if all(row.folder == Path(row.folder).name for row in rows):
                    return str(found["plan"]), rows
        except (KeyError, ValidationError):
            pass
        raise stop(f"{self.path} holds no batch that this program can read. Name the --output of one.")

    @property
    def finished(self) -> frozenset[str]:
        """Names of the folders of results, and of failures."""
        done = _names(self.path / "rows")
        return frozenset(done) | {name.removesuffix(".json") for name in _names(self.path / "failed")}

    def is_done(self, row: Row) -> bool:
        """Return whether a row has its results."""
        return (self.result(row) / RESULT).is_file()

    def is_failed(self, row: Row) -> bool:
        """Return whether a row has failed, or was set aside, and has no results."""
        return self.failure(row).is_file() and not self.is_done(row)

    def left(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that can run and have neither results nor a failure."""
        finished = self.finished  # a folder that lost its result.json is not done, whatever its name
        return [row for row in rows if row.folder and (row.folder not in finished or self.still_left([row]))]

    def still_left(self, rows: Iterable[Row]) -> list[Row]:
        """Return the same by a look at each row alone."""
        return [row for row in rows if not self.is_done(row) and not self.is_failed(row)]

    def forget_failures(self, rows: Iterable[Row]) -> int:
        """Let failed rows run again; returns how many there were."""
        count = 0
        for row in rows:
            if row.folder and self.is_failed(row):
                for number in range(MOST_DEATHS):
                    self._death(row, number).unlink(missing_ok=True)
                self.failure(row).unlink(missing_ok=True)
                count += 1
        return count

    def write_failure(self, row: Row, failure: Mapping[str, Any]) -> None:
        """Write down why a row failed."""
        write_json(self.failure(row), {**row.plain(), **failure})

    def begin(self, row: Row, driver: str) -> None:
        """Write down that a worker of a driver runs a row, for the case that both die."""
        (self.own / "running" / row.key).write_text(driver, encoding="utf-8")
        with (self.own / "starts.txt").open("a", encoding="utf-8") as file:
            file.write(f"{row.key} {driver} {os.getpid()}\n")

    def end(self, row: Row) -> None:
        """Write down that nobody runs a row any more."""
        (self.own / "running" / row.key).unlink(missing_ok=True)

    def running(self) -> dict[str, str]:
        """Return the drivers that run rows, or that died at it, by the key of the row."""
        found = {}
        for name in _names(self.own / "running"):
            with suppress(OSError):
                found[name] = (self.own / "running" / name).read_text(encoding="utf-8")
        return found

    def end_all(self, driver: str) -> None:
        """Write down that a driver and its workers end, and delete their drafts."""
        for key, other in self.running().items():
            if other == driver:
                (self.own / "running" / key).unlink(missing_ok=True)
        for name in _names(self.own / "drafts"):
            if name.startswith(f"{driver}."):
                self._drop(self.own / "drafts" / name)

    def count_death(self, row: Row, reason: str) -> int:
        """Write down that a worker died while it ran a row; returns how many have."""
        for number in range(MOST_DEATHS):
            if create_once(self._death(row, number), json.dumps({"folder": row.folder, "reason": reason})):
                return number + 1
        return MOST_DEATHS

    def deaths(self, row: Row) -> int:
        """Return how many workers have died while they ran a row."""
        return sum(self._death(row, number).exists() for number in range(MOST_DEATHS))

    def _death(self, row: Row, number: int) -> Path:
        return self.own / "deaths" / f"{row.key}.{number}"

    def publish(self, draft: Path, row: Row) -> None:
        """Rename a finished draft to the row's results; where another driver was faster, its results stay."""
        for path in sorted(draft.rglob("*")):
            _to_disk(path)
        _to_disk(draft)
        target = self.result(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not self.is_done(row):
            self._drop(target)  # somebody took files out of it
        try:
            os.rename(draft, target)
        except OSError:
            if not self.is_done(row):
                raise
            shutil.rmtree(draft, ignore_errors=True)
        _to_disk(target.parent)
        self.failure(row).unlink(missing_ok=True)

    def sweep(self, alive: Iterable[str]) -> None:
        """Delete the drafts of drivers that have ended."""
        living = tuple(f"{driver}." for driver in alive)
        for name in _names(self.own / "drafts"):
            if not name.startswith(living):
                self._drop(self.own / "drafts" / name)

    def _drop(self, folder: Path) -> None:
        """Delete a folder of results, at once for whoever still writes there and would rename it into place."""
        gone = self.own / "drafts" / f"dropped.{uuid.uuid4().hex}"
        with suppress(OSError):  # renamed meanwhile
            os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _to_disk(path: Path) -> None:
    """Let a file's bytes, or a folder's names, reach the disk before what follows."""
    with suppress(OSError):  # folders cannot be opened on Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, is a full disk."""
    return any(isinstance(each, OSError) and each.errno in FULL for each in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
