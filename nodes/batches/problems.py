"""Mistakes in a plan, and their messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...fatezero_ext.errors import WorkflowError
from ...fatezero_ext.printable import visible
from ..headless.problems import LONGEST_TEXT, MOST_PROBLEMS, short


@dataclass(frozen=True)
class PlanProblem:
    """One thing that keeps rows of a plan from running.

    text:   what came, what is needed, what to do
    row:    number of the row, 1 is the first below the header; 0 where no single row is meant
    line:   of the file, 0 where it is not known
    column: '' where no single column is meant
    """

    text: str
    row: int = 0
    line: int = 0
    column: str = ""

    def __str__(self) -> str:
        row = f"row {self.row}" + (f" (line {self.line})" if self.line else "") if self.row else ""
        column = f"column '{short(self.column)}'" if self.column else ""
        place = ", ".join(part for part in (row, column) if part)
        text = self.text if len(self.text) <= LONGEST_TEXT else f"{self.text[:LONGEST_TEXT]}..."
        return visible(f"{place}: {text}" if place else text)


class InvalidPlan(WorkflowError):
    """A plan cannot run; `problems` lists the reasons found."""

    def __init__(self, problems: Sequence[PlanProblem]) -> None:
        self.problems = tuple(problems)
        lines = listed(self.problems)
        super().__init__(lines[0] if len(lines) == 1 else "\n".join([f"{len(self.problems)} problems:", *lines]))


class BatchStopped(WorkflowError):
    """A batch cannot go on; what is done is kept."""


def listed(problems: Sequence[PlanProblem]) -> list[str]:
    """Return one line for each problem, at most so many as are read, and one for the rest."""
    rest = len(problems) - MOST_PROBLEMS
    return [str(problem) for problem in problems[:MOST_PROBLEMS]] + ([f"... and {rest} more"] if rest > 0 else [])


def stop(text: str) -> InvalidPlan:
    """Return an `InvalidPlan` with a single problem that belongs to no row."""
    return InvalidPlan([PlanProblem(text)])
