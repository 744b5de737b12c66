"""What can be wrong with a workflow, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...fatezero_ext.errors import WorkflowError


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a workflow from running.

    node:  label of the node, such as '#6 "Edit"' or '' where no single node is meant
    input: id of the input, or '' where no single input is meant
    text:  what came, what is needed, what to do
    """

    text: str
    node: str = ""
    input: str = ""

    def __str__(self) -> str:
        place = " ".join(part for part in (self.node, f"input '{self.input}'" if self.input else "") if part)
        return f"{place}: {self.text}" if place else self.text


class InvalidWorkflow(WorkflowError):
    """A workflow cannot run; `problems` lists every reason found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        super().__init__(lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems:", *lines]))


class NodeFailed(WorkflowError):
    """A node raised while it ran; the node's own error is the cause."""


def stop(text: str) -> InvalidWorkflow:
    """An `InvalidWorkflow` with a single problem that belongs to no node."""
    return InvalidWorkflow([Problem(text)])
