"""A worker: runs the rows of units one after the other and keeps the models loaded."""

from __future__ import annotations

import gc
import io
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
from pathlib import Path
from platform import python_version
from typing import Any

from rich.console import Console

from ...fatezero_ext.errors import FateZeroError
from ...fatezero_ext.printable import visible
from .. import host
from ..headless.graph import Graph
from ..headless.host import Folders, RunnerHost
from ..headless.problems import NodeFailed
from ..headless.run.execute import Result, RunOrder, Session, run_order
from ..headless.run.progress import Reporter
from ..headless.schemas.registry import NodeTypes, pack_node_types
from ..headless.schemas.validate import output_nodes, validated
from .engines.seam import Event
from .folder import RESULT, BatchFolder, causes, is_full, write_json
from .preview import Seen, measured, write_preview
from .rows import Row
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
    """Remembers what nodes said, and how long each took."""

    def __init__(self) -> None:
        self._said = io.StringIO()
        super().__init__(Console(file=self._said, width=10_000))
        self.nodes: list[dict[str, Any]] = []

    def ended(self, label: str, seconds: float, *, reused: bool) -> None:
        self.nodes.append({"node": visible(label), "seconds": round(seconds, 3), "reused": reused})

    @property
    def said(self) -> list[str]:
        """Return the lines of nodes."""
        return [line.strip() for line in self._said.getvalue().splitlines()]


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

    def run(self, rows: Sequence[Row]) -> Iterator[Event]:
        """Run the rows of a unit; yields what happens, at last the end of the unit."""
        orders = self._orders(rows)
        for number, row in enumerate(rows):
            yield Event(self.name, "started", row.folder)
            later = [orders[each.folder] for each in rows[number:] if each.folder in orders]
            event = self._row(row, later)
            yield event
            if event.kind == "failed" and BROKEN_DEVICE in event.text:
                os._exit(1)  # whatever runs in this process later would fail too; another takes the rest
        yield Event(self.name, "ended")

    def run_plain(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run rows that came from another process; yields the events as plain values."""
        for event in self.run([Row.of_plain(row) for row in rows]):
            yield asdict(event)

    def _orders(self, rows: Sequence[Row]) -> dict[str, RunOrder]:
        """Return the order in which the nodes of each row run; rows that became invalid are left out."""
        found: dict[str, RunOrder] = {}
        with host.installed(self._host(self.setup.output, Reporter(Console(file=io.StringIO())))):
            for row in rows:
                with suppress(ValueError):  # said when the row's turn comes
                    found[row.folder] = self._order(row)
        return found

    def _order(self, row: Row) -> RunOrder:
        if self._graph is None or self._targets is None:
            self._graph = batch_workflow(self.setup.workflow, self.types)
            self._targets = targets_of(self._graph, self.setup.columns, self.types)
        return run_order(validated(self._targets.applied(self._graph, row.values, self.types), self.types), self.types)

    def _host(self, output: Path, reporter: Reporter) -> RunnerHost:
        return RunnerHost(Folders(self.setup.inputs, output, self.setup.models), reporter)

    def _row(self, row: Row, later: Sequence[RunOrder]) -> Event:
        """Run a row; later: its own order and those of the rows behind it in the unit."""
        folder, began = BatchFolder(self.setup.output), time.perf_counter()
        draft = folder.own / "drafts" / f"{self.setup.driver}.{self.name}.{row.key}"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            reporter = RowReporter()
            with host.installed(self._host(draft, reporter)):
                peak = _PeakMemory()
                results, graph = self._results(row, reporter, later)
                files = _saved(results, draft)
                texts = [text for result in results.values() for text in result.shown.get("text", ())]
            about = self._about(draft, began, peak)
            told = {"said": reporter.said, "nodes": reporter.nodes, "files": files, "texts": texts}
            write_json(draft / RESULT, {**row.plain(), **about, **told})
            folder.publish(draft, row)
        except Exception as error:
            shutil.rmtree(draft, ignore_errors=True)
            if is_full(error):
                return Event(self.name, "full", row.folder, str(error))
            return self._failed(row, folder, error, time.perf_counter() - began)
        return Event(self.name, "done", row.folder, seconds=about["seconds"])

    def _results(self, row: Row, reporter: Reporter, later: Sequence[RunOrder]) -> tuple[Mapping[str, Result], Graph]:
        order = self._order(row)
        if self._session is None:
            self._session = Session(self.types, reporter, self.seen)
        session = self._session
        session.observer = reporter
        session.forget_but([order, *later])
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
        return results, order.graph

    def _about(self, draft: Path, began: float, peak: _PeakMemory) -> dict[str, Any]:
        measures = measured(self.seen) if self.setup.measure else {}
        return {
            "preview": write_preview(draft, self.seen),
            "seconds": round(time.perf_counter() - began, 3),
            "peak_bytes": peak.nbytes,
            "device": peak.device,
            "measures": measures,
            "worker": self.name,
            "host": os.uname().nodename if hasattr(os, "uname") else "",
            "pid": os.getpid(),
            "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"python": python_version(), **_versions()},
        }

    def _failed(self, row: Row, folder: BatchFolder, error: Exception, seconds: float) -> Event:
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error.__cause__ if isinstance(error, NodeFailed) else error))
        about = {"error": text, "traceback": trace[-LONGEST_TRACEBACK:], "seconds": round(seconds, 3)}
        try:
            folder.write_failure(row, {**about, "worker": self.name, "set_aside": False})
        except OSError as unwritten:
            return Event(self.name, "full", row.folder, str(unwritten))
        return Event(self.name, "failed", row.folder, text)


def worker_of(setup: Mapping[str, Any], name: str) -> Worker:
    """Make a worker of the plain values of a `Setup`.

    Raises FateZeroError where this machine does not see the batch's folder.
    """
    made = Setup.of_plain(setup)
    if not BatchFolder(made.output).plan.is_file():
        raise FateZeroError(
            f"{os.uname().nodename if hasattr(os, 'uname') else 'a machine'} does not see the output folder "
            f"{made.output}; all workers write there. Name a folder that the machines share, by the same path on each."
        )
    return Worker(made, name)


def _saved(results: Mapping[str, Result], draft: Path) -> list[str]:
    """Return the names of saved files, below the row's folder."""
    paths = [Path(path) for result in results.values() for path in result.shown.get("saved", ())]
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
