"""What is wrong with a node's inputs, each mistake told at the input that it is about.

ComfyUI repeats what `validate_inputs` says at every input that the function names, and shows the function these inputs
alone. On ComfyUI's server and in the headless runner a node sees the whole graph here while it is validated, and leaves
a note of which input each mistake belongs to, by which the answer is put right.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

from ...fatezero_ext.errors import FateZeroError
from .graph_texts import Consumers, Graph, consumers_of

log = logging.getLogger(__name__)

Got = TypeVar("Got")
REPEATED = "custom_validation_failed"
"""ComfyUI's name for the errors that `validate_inputs` makes."""

Mistakes = Mapping[str, str]
"""What is wrong, by input."""


class Found(dict[str, str]):
    """The first mistake of every widget."""

    def of(self, widget: str, work: Callable[..., Got], *arguments: Any, **named: Any) -> Got | None:  # noqa: ANN401
        """What `work` gives, or None where it finds a mistake, which is then the widget's.

        A value of a type that its input does not take is no mistake here: ComfyUI has refused it already.
        """
        try:
            return work(*arguments, **named)
        except TypeError:
            return None
        except FateZeroError as error:
            self.setdefault(widget, str(error))
            return None


@dataclass(frozen=True)
class Validation:
    """One prompt while it is validated.

    request: the graph in the API's format, under "prompt"; what other packs change in it shows here
    told:    by what a node said, its mistakes by input
    """

    request: Mapping[str, Any]
    told: dict[str, Mistakes] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph as it is now."""
        graph = self.request.get("prompt")
        return graph if isinstance(graph, Mapping) else {}

    @cached_property
    def consumers(self) -> Consumers:
        """Who reads each node, looked up once for all nodes: no link changes while a prompt is validated."""
        return consumers_of(self.graph)


_CURRENT: ContextVar[Validation | None] = ContextVar("fatezero_validation", default=None)


@contextmanager
def validating(request: Mapping[str, Any] | None) -> Iterator[None]:
    """Let nodes see a request until the block ends; None: none yet, see `begin`."""
    token = _CURRENT.set(None if request is None else Validation(request))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def begin(request: dict[str, Any]) -> dict[str, Any]:
    """Let nodes see this request from now on; ComfyUI calls it with every prompt that is queued."""
    _CURRENT.set(Validation(request))
    return request


def graph_now() -> Graph:
    """The graph that is being validated, in the API's format; {} where the program does not tell."""
    current = _CURRENT.get()
    return {} if current is None else current.graph


def consumers_now() -> Consumers:
    """Ids of the nodes that are linked to each node of that graph."""
    current = _CURRENT.get()
    return {} if current is None else current.consumers


def verdict(mistakes: Mistakes) -> bool | str:
    """What `validate_inputs` returns: True where there is no mistake."""
    if not mistakes:
        return True
    said = "\n".join(mistakes.values())
    current = _CURRENT.get()
    if current is not None:
        current.told[said] = mistakes
    return said


def mistakes_of(said: str) -> Mistakes:
    """The mistakes by input that a verdict was made of; {} where it is not one of ours."""
    current = _CURRENT.get()
    return {} if current is None else current.told.get(said, {})


def put_right(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A node's errors as ComfyUI made them, with each mistake once, at its own input."""
    kept: list[dict[str, Any]] = []
    for error in errors:
        name = error.get("extra_info", {}).get("input_name")
        mistakes = mistakes_of(str(error.get("details", "")).removeprefix(f"{name} - "))
        if error.get("type") != REPEATED or not mistakes:
            kept.append(error)
            continue
        told = [
            {
                **error,
                "details": f"{place} - {text.removeprefix(f'{place}: ')}",
                "extra_info": {**error["extra_info"], "input_name": place},
            }
            for place, text in mistakes.items()
        ]
        kept += [each for each in told if each not in kept]
    return kept


class Answer(Protocol):
    """A web server's answer."""

    text: str | None


def put_answer_right(answer: Answer) -> None:
    """Put each mistake in the server's JSON answer to a queued prompt once, at its own input.

    An answer that another pack has compressed or written anew is left as it is.
    """
    current = _CURRENT.get()
    if current is None or not current.told:
        return
    try:
        told = json.loads(answer.text or "null")
        for node in told["node_errors"].values():
            node["errors"] = put_right(node["errors"])
        if told["node_errors"]:
            answer.text = json.dumps(told)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        log.debug("The answer to a prompt is left as it is: %s", error)
