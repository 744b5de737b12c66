"""A worker: runs the rows of units one after the other and keeps the models loaded."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from platform import node as machine_name
from platform import python_version
from typing import Any
from uuid import uuid4

from rich.console import Console

from ...fatezero_ext.errors import FateZeroError
from ...fatezero_ext.printable import visible
from .. import host
from ..file_stamps import stamped_by
from ..headless.graph import Graph
from ..headless.host import Folders, RunnerHost
from ..headless.problems import NodeFailed
from ..headless.run.execute import Result, RunOrder, Session, run_order
from ..headless.run.progress import Reporter
from ..headless.schemas.registry import NodeTypes, pack_node_types
from ..headless.schemas.validate import output_nodes, validated
from ..host.told import ToldLines
from .content import ContentStamps
from .engines.seam import GPU_LOST, Event
from .folder import RESULT, BatchFolder, causes, is_full
from .preview import Seen, measured, write_preview
from .rows import Row, digests
from .workflow import Targets, batch_workflow, targets_of

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "av")
"""Packages whose versions a result names."""
LONGEST_TRACEBACK = 20_000
BROKEN_DEVICE = "CUDA error"
"""Part of the message of errors after which a process can use its GPU no more."""


@dataclass(frozen=True)
class Setup:
    """All that a worker needs beside its units.

    workflow: None for the one-node edit
    columns:  of the plan
    driver:   id of the driver, for the names of drafts
    """

    workflow: Path | None
    output: Path
    inputs: tuple[Path, ...]
    models: tuple[Path, ...]
    columns: tuple[str, ...]
    driver: str
    measure: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for other processes."""
        paths = {"inputs": self.inputs, "models": self.models}
        return {
            **{name: [str(path) for path in some] for name, some in paths.items()},
            "workflow": None if self.workflow is None else str(self.workflow),
            "output": str(self.output),
            "columns": list(self.columns),
            "driver": self.driver,
            "measure": self.measure,
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Setup:
        """Return the setup of plain values."""
        return cls(
            workflow=None if plain["workflow"] is None else Path(plain["workflow"]),
            output=Path(plain["output"]),
            inputs=tuple(map(Path, plain["inputs"])),
            models=tuple(map(Path, plain["models"])),
            columns=tuple(plain["columns"]),
            driver=plain["driver"],
            measure=plain["measure"],
        )


class RowReporter(Reporter):
    """Remembers what nodes said, and how long each took.

    kept:    remarks of the nodes that have run, by the key of the result or, inside another node, by label
    keys:    of the results of this row, by label
    remarks: on what makes results poor, also of nodes whose results are those of an earlier row
    """

    def __init__(self, kept: dict[str, list[str]]) -> None:
        self._said = io.StringIO()
        super().__init__(Console(file=self._said, width=10_000))
        self.nodes: list[dict[str, Any]] = []
        self.keys: Mapping[str, str] = {}
        self.remarks: list[str] = []
        self._kept = kept
        self._at: list[list[str]] = []  # remarks of the node that runs, and of those around it

    def started(self, label: str, number: int, count: int) -> None:
        super().started(label, number, count)
        self._at.append([])

    def remark(self, remarks: Sequence[str]) -> None:
        """Keep remarks of the node that runs."""
        for texts in (*self._at, self.remarks):
            texts += [text for text in remarks if text not in texts]

    def ended(self, label: str, seconds: float, *, reused: bool) -> None:
        own, key = self._at.pop(), self.keys.get(label, label)
        if reused:
            self.remark(self._kept.get(key, ()))
        elif own or key in self._kept:
            self._kept[key] = own
        self.nodes.append({"node": visible(label), "seconds": round(seconds, 3), "reused": reused})

    @property
    def said(self) -> list[str]:
        """Return the lines of nodes."""
        return [line.strip() for line in self._said.getvalue().splitlines()]


class RowHost(RunnerHost):
    """The runner as a host whose reporter keeps a row's remarks."""

    def __init__(self, folders: Folders, reporter: RowReporter) -> None:
        super().__init__(folders, reporter)
        self._row, self._remarked = reporter, ToldLines()

    def say(self, remarks: Sequence[str], choices: Sequence[str], node_id: str | None) -> None:
        super().say(remarks, choices, node_id)
        new = self._remarked.new(remarks, node_id)  # nodes inside each other look at the same clip
        self._row.remark([text for text in remarks if text.split("\n")[0] in new])


@dataclass
class Worker:
    """A worker; its session keeps what the next unit needs too, such as the model.

    name: of the worker, for results
    """

    setup: Setup
    name: str
    types: NodeTypes = field(default_factory=pack_node_types)
    seen: Seen = field(default_factory=Seen)
    _graph: Graph | None = None
    _targets: Targets | None = None
    _session: Session | None = None
    _remarks: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._folder = BatchFolder(self.setup.output)
        self._stamps = ContentStamps(self._folder.stamps)

    def run(self, rows: Sequence[Row]) -> Iterator[Event]:
        """Run the rows of a unit; yields what happens, at last the end of the unit, or of this worker."""
        for row, following in zip_longest(rows, rows[1:]):
            yield Event(self.name, "started", row.folder)
            event = self._row(row, following)
            if event is None:  # another driver has the unit
                break
            yield event
            if event.kind == "died":
                return
        yield Event(self.name, "ended")

    def run_plain(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run rows that came from another process; yields the events as plain values."""
        for event in self.run([Row.of_plain(row) for row in rows]):
            yield asdict(event)

    def _order(self, row: Row) -> RunOrder:
        if self._graph is None or self._targets is None:
            self._graph = batch_workflow(self.setup.workflow, self.types)
            self._targets = targets_of(self._graph, self.setup.columns, self.types)
        return run_order(validated(self._targets.applied(self._graph, row.values, self.types), self.types), self.types)

    def _host(self, output: Path, reporter: RowReporter) -> RowHost:
        return RowHost(Folders(self.setup.inputs, output, self.setup.models), reporter)

    def _row(self, row: Row, following: Row | None) -> Event | None:
        """Run a row; returns None where another driver took this one for dead and dropped what was written.

        following: the row behind it in the unit
        """
        began = time.perf_counter()
        draft = self._folder.own / "drafts" / f"{self.setup.driver}.{self.name}.{row.key}.{uuid4().hex[:8]}"
        try:
            draft.mkdir(parents=True)
            (draft / RESULT).touch()  # never made again: that it is there says that nobody has dropped the draft
            self._folder.begin(row, self.setup.driver)
        except OSError as error:
            return self._unwritable(row, error)
        try:
            seconds = self._published(row, following, draft, began)
        except Exception as error:
            dropped = not (draft / RESULT).is_file()
            shutil.rmtree(draft, ignore_errors=True)
            if is_full(error):
                return self._unwritable(row, error)
            if dropped and not self._folder.is_done(row):
                return None
            return self._failed(row, error, time.perf_counter() - began)
        self._folder.end(row)
        return Event(self.name, "done", row.folder, seconds=seconds)

    def _published(self, row: Row, following: Row | None, draft: Path, began: float) -> float:
        """Write a row's results into its draft and rename it; returns the seconds that it took."""
        reporter = RowReporter(self._remarks)
        with host.installed(self._host(draft, reporter)), stamped_by(self._stamps):
            peak = _PeakMemory()
            results = self._results(row, reporter, following)
        files = _saved(results, draft)
        texts = [text for result in results.values() for text in result.shown.get("text", ())]
        about = self._about(draft, began, peak)
        told = {
            "said": reporter.said,
            "remarks": reporter.remarks,
            "nodes": reporter.nodes,
            "files": files,
            "texts": texts,
        }
        with (draft / RESULT).open("r+", encoding="utf-8") as file:
            json.dump({**row.plain(), **about, **told}, file, ensure_ascii=False, indent=1)
        self._folder.publish(draft, row)
        return float(about["seconds"])

    def _unwritable(self, row: Row, error: Exception) -> Event:
        reason = "no space is left" if is_full(error) else "the output folder cannot be written"
        return Event(self.name, "full", row.folder, f"{reason} ({error})")

    def _refuse_changed(self, row: Row, graph: Graph) -> None:
        """Raise FateZeroError where a row is no longer what its folder is named by."""
        key = digests(graph, self.types)[0]
        if key != row.key and key == digests(graph, self.types)[0]:  # nodes that never are the same differ each time
            raise FateZeroError(
                f"its clip, its model or the nodes are not those that the plan was checked with (on {machine_name()}), "
                f"so its results would have the wrong name. Run the same command again."
            )

    def _results(self, row: Row, reporter: RowReporter, following: Row | None) -> Mapping[str, Result]:
        order = self._order(row)
        needed = [order]
        self._refuse_changed(row, order.graph)
        with suppress(Exception):  # said when the row's turn comes
            needed += [] if following is None else [self._order(following)]
        if self._session is None:
            self._session = Session(self.types, reporter, self.seen)
        session = self._session
        session.observer = reporter
        reporter.keys = {order.graph.nodes[node_id].label: key for node_id, key in order.keys.items()}
        session.forget_but(needed)
        self.seen.begin()
        try:
            results = session.run(order)
        except Exception as error:
            if any(isinstance(each, MemoryError) or "out of memory" in str(each).lower() for each in causes(error)):
                session.forget([*session.results])
                gc.collect()
            raise
        finally:
            # Saved anew by each row, into its own folder.
            session.forget(order.keys[node_id] for node_id in output_nodes(order.graph, self.types))
        self._refuse_changed(row, order.graph)
        return results

    def _about(self, draft: Path, began: float, peak: _PeakMemory) -> dict[str, Any]:
        measures = measured(self.seen) if self.setup.measure else {}
        return {
            "preview": write_preview(draft, self.seen),
            "seconds": round(time.perf_counter() - began, 3),
            "peak_bytes": peak.nbytes,
            "device": peak.device,
            "measures": measures,
            "worker": self.name,
            "host": machine_name(),
            "pid": os.getpid(),
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"python": python_version(), **_versions()},
        }

    def _failed(self, row: Row, error: Exception, seconds: float) -> Event:
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if any(BROKEN_DEVICE in str(each) for each in causes(error)):
            return Event(self.name, "died", row.folder, f"{GPU_LOST} ({text})")
        self._folder.end(row)
        if self._folder.is_done(row):  # by another driver, which took this one for dead
            return Event(self.name, "done", row.folder, seconds=seconds)
        trace = "".join(traceback.format_exception(error.__cause__ if isinstance(error, NodeFailed) else error))
        about = {"error": text, "traceback": trace[-LONGEST_TRACEBACK:], "seconds": round(seconds, 3)}
        try:
            self._folder.write_failure(row, {**about, "worker": self.name, "set_aside": False})
        except OSError as unwritten:
            return self._unwritable(row, unwritten)
        return Event(self.name, "failed", row.folder, text)


def worker_of(setup: Mapping[str, Any], name: str) -> Worker:
    """Make a worker of the plain values of a `Setup`.

    Raises FateZeroError where this machine does not see the batch's folder.
    """
    made = Setup.of_plain(setup)
    if not BatchFolder(made.output).plan.is_file():
        raise FateZeroError(
            f"{machine_name() or 'a machine'} does not see the output folder "
            f"{made.output}; all workers write there. Name a folder that the machines share, by the same path on each."
        )
    return Worker(made, name)


def _saved(results: Mapping[str, Result], draft: Path) -> list[str]:
    """Return the names of saved files, below the row's folder."""
    paths = [Path(path) for result in results.values() for path in result.shown.get("saved", ())]
    if gone := [path.name for path in paths if not path.is_file()]:
        raise FateZeroError(f"{gone[0]} was saved and is not there any more. Run the row again with --retry-failed.")
    return [path.relative_to(draft).as_posix() for path in paths]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("fatezero-video", *PACKAGES):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class _PeakMemory:
    """Most memory that a row has taken: of the accelerator where there is one, else of the process."""

    def __init__(self) -> None:
        torch = sys.modules.get("torch")  # loaded by what needs it
        self._cuda = torch.cuda if torch is not None and torch.cuda.is_available() else None
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):  # Linux alone
                Path("/proc/self/clear_refs").write_text("5")

    @property
    def device(self) -> str:
        """Return what the bytes are of."""
        return str(self._cuda.get_device_name()) if self._cuda is not None else "cpu"

    @property
    def nbytes(self) -> int:
        """Return the bytes until now."""
        if self._cuda is not None:
            return int(self._cuda.max_memory_allocated())
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
        import psutil

        return int(psutil.Process().memory_info().rss)
