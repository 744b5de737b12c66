"""Carries out `python -m fatezero_ext run`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ...fatezero_ext.errors import WorkflowError
from .. import host
from .formats.read import read_workflow
from .graph import Graph
from .host import Folders, RunnerHost
from .problems import InvalidWorkflow, Problem
from .run.execute import Result, run_graphs
from .run.progress import Reporter
from .schemas.overrides import apply_settings, parse_setting
from .schemas.registry import NodeTypes, pack_node_types
from .schemas.validate import validated

OK, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; 130 is a shell's own for Ctrl-C."""

EXAMPLES = Path(__file__).parents[2] / "example_workflows"


@dataclass(frozen=True)
class Command:
    """One call of the runner.

    settings: made in every variant
    variants: settings of each variant; empty for a single run
    inputs:   folder of input files; None for the workflow's own
    check:    stop after the validation
    verbose:  show the traceback of a failing node
    """

    workflow: Path
    settings: Sequence[str] = ()
    variants: Sequence[Sequence[str]] = ()
    output: Path = Path("output")
    inputs: Path | None = None
    models: Path | None = None
    check: bool = False
    verbose: bool = False

    @property
    def folders(self) -> Folders:
        """Folders in which files are read and written."""
        own = self.inputs if self.inputs is not None else self.workflow.parent
        return Folders((own, EXAMPLES), self.output, () if self.models is None else (self.models,))


def run_command(command: Command, types: NodeTypes | None = None) -> int:
    """Validate and run; returns the exit code. `types`: the nodes to know, by default the pack's."""
    console = Console(stderr=True)
    reporter = Reporter(console)
    with host.installed(RunnerHost(command.folders, reporter)):
        try:
            _check_read(command)
            known = pack_node_types() if types is None else types
            graphs = _graphs(command, known)
            for remark in dict.fromkeys(remark for graph in graphs for remark in graph.remarks):
                reporter.say(remark)
            if command.check:
                reporter.say(f"{command.workflow} is valid")
            else:
                _run(command, graphs, known, reporter)
        except InvalidWorkflow as error:
            reporter.say(f"Error in {command.workflow.name}: {error}")
            return INVALID
        except WorkflowError as error:
            reporter.say(_explained(error, verbose=command.verbose))
            return FAILED
        except KeyboardInterrupt:
            reporter.say("Stopped. Files already saved are whole; nothing else was written.")
            return INTERRUPTED
    return OK


def collect(command: Command, console: Console) -> list[dict[str, Result]]:
    """Validate and run for another program: each variant's results by the nodes' class.

    Raises InvalidWorkflow before anything runs, NodeFailed where a node fails.
    """
    reporter = Reporter(console)
    with host.installed(RunnerHost(command.folders, reporter)), reporter:
        _check_read(command)
        types = pack_node_types()
        graphs = _graphs(command, types)
        return [
            {graph.nodes[node_id].class_type: result for node_id, result in results.items()}
            for graph, results in zip(graphs, run_graphs(graphs, types, reporter), strict=True)
        ]


def _explained(error: WorkflowError, *, verbose: bool) -> str:
    if verbose:
        return "".join(traceback.format_exception(error)).rstrip()
    return f"Error: {error}"


def check_output(folder: Path) -> None:
    """Raise InvalidWorkflow where results could not be saved; creates nothing."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "is not a folder" if not nearest.is_dir() else "cannot be written to"
        raise InvalidWorkflow([Problem(f"--output {folder}: {nearest} {reason}. Name another folder.")])


def check_folder(option: str, folder: Path | None, of: str) -> None:
    """Raise InvalidWorkflow where a folder to read from is none, instead of a problem for each file; None: not given.

    of: what lies in it
    """
    if folder is not None and not os.path.isdir(folder):  # Path's own raises for one that may not be looked at
        reason = "is a file" if os.path.isfile(folder) else "does not exist, or may not be looked at"
        raise InvalidWorkflow([Problem(f"{option} {folder} {reason}; the folder of the {of} is needed. Name that.")])


def _check_read(command: Command) -> None:
    check_folder("--input", command.inputs, "clips")
    check_folder("--models", command.models, "models")


def _graphs(command: Command, types: NodeTypes) -> list[Graph]:
    """Return one validated graph per variant, so that the last one's mistakes show before the first one runs."""
    check_output(command.output)
    graph = read_workflow(command.workflow, types)
    shared = [parse_setting(text) for text in command.settings]
    variants = [[parse_setting(text) for text in variant] for variant in command.variants or [()]]
    return [validated(apply_settings(graph, [*shared, *variant], types), types) for variant in variants]


def _run(command: Command, graphs: Sequence[Graph], types: NodeTypes, reporter: Reporter) -> None:
    with reporter:
        for number, results in enumerate(run_graphs(graphs, types, reporter)):
            if command.variants:
                reporter.say(f"variant {number + 1} of {len(graphs)}: {' '.join(command.variants[number])}")
            for node_id, result in results.items():
                _show(graphs[number].nodes[node_id].label, result, reporter)


def _show(label: str, result: Result, reporter: Reporter) -> None:
    for path in result.shown.get("saved", ()):
        sys.stdout.write(f"{path}\n")
    for text in result.shown.get("text", ()):
        reporter.say(f"{label}: {text}")
