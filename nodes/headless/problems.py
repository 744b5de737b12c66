"""Mistakes in a workflow, and their messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ...fatezero_ext.errors import WorkflowError
from ...fatezero_ext.printable import visible

MOST_PROBLEMS = 20
"""Problems in one message; a file with thousands of them is not mended one by one."""
SHOWN_LETTERS = 120
"""Letters of a value that a message repeats."""
LONGEST_TEXT = 2000
"""Letters of a problem; it may list the names that there are, and repeats no prompt to its end."""


def shown(value: object) -> str:
    """Format a value of a file for messages: on one line and of bounded length."""
    if isinstance(value, (str, list, tuple, dict)) and len(value) > SHOWN_LETTERS:
        part = value if isinstance(value, str) else ""
        kind = "letters" if isinstance(value, str) else "entries"
        return visible(f"{part[:SHOWN_LETTERS]!r}... ({len(value)} {kind})")
    try:
        text = visible(repr(value))
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 2 * SHOWN_LETTERS else f"{text[: 2 * SHOWN_LETTERS]}..."


def short(name: str) -> str:
    """Format a name for messages: on one line and of bounded length, without quotes."""
    return visible(name if len(name) <= SHOWN_LETTERS else f"{name[:SHOWN_LETTERS]}...")


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
        place = " ".join(part for part in (self.node, f"input '{short(self.input)}'" if self.input else "") if part)
        text = self.text if len(self.text) <= LONGEST_TEXT else f"{self.text[:LONGEST_TEXT]}..."
        return visible(f"{place}: {text}" if place else text)


class InvalidWorkflow(WorkflowError):
    """A workflow cannot run; `problems` lists the reasons found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        more = len(self.problems) > MOST_PROBLEMS
        count = f"more than {MOST_PROBLEMS} problems; the first are:" if more else f"{len(lines)} problems:"
        super().__init__(lines[0] if len(lines) == 1 else "\n".join([count, *lines]))


class NodeFailed(WorkflowError):
    """A node raised while it ran; the node's own error is the cause."""


def stop(text: str) -> InvalidWorkflow:
    """Return an `InvalidWorkflow` with a single problem that belongs to no node."""
    return InvalidWorkflow([Problem(text)])


def refuse(problems: Iterable[Problem]) -> None:
    """Raise InvalidWorkflow where there are any; looks for no more of them than the message lists."""
    found = list(islice(problems, MOST_PROBLEMS + 1))
    if found:
        raise InvalidWorkflow(found)
