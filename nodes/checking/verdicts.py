"""Mistakes in a node's inputs, each reported at its own input.

ComfyUI repeats the answer of `validate_inputs` at every input that the function names, and gives the function these
inputs alone. On ComfyUI's server and in the headless runner a node can read the whole graph here while it is validated,
and notes which input each mistake belongs to; from these notes the server's answer is corrected.
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
"""Messages by input."""


class FirstMistakes(dict[str, str]):
    """The first mistake of every widget."""

    def check(self, widget: str, work: Callable[..., Got], *arguments: Any, **named: Any) -> Got | None:  # noqa: ANN401
        """Return the result of `work`, or None if it raises FateZeroError, whose message is then the widget's mistake.

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

    request:  the graph in the API's format, under "prompt"; changes of other packs show here
    verdicts: mistakes by input, by the verdict that a node made of them
    """

    request: Mapping[str, Any]
    verdicts: dict[str, Mistakes] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """Return the graph as it is now."""
        graph = self.request.get("prompt")
        return graph if isinstance(graph, Mapping) else {}

    @cached_property
    def consumers(self) -> Consumers:
        """The ids of each node's readers, looked up once: no link changes while a prompt is validated."""
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
    """Return the graph that is being validated, in the API's format; {} if the program does not show it."""
    current = _CURRENT.get()
    return {} if current is None else current.graph


def consumers_now() -> Consumers:
    """Return the ids of the nodes that are linked to each node of that graph."""
    current = _CURRENT.get()
    return {} if current is None else current.consumers


def verdict(mistakes: Mistakes) -> bool | str:
    """Make the answer of `validate_inputs`: True, or the mistakes as text."""
    if not mistakes:
        return True
    text = "\n".join(mistakes.values())
    current = _CURRENT.get()
    if current is not None:
        current.verdicts[text] = mistakes
    return text


def mistakes_of(text: str) -> Mistakes:
    """Return the mistakes by input of which a verdict was made; {} if it is not one of ours."""
    current = _CURRENT.get()
    return {} if current is None else current.verdicts.get(text, {})


def put_right(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct a node's errors as ComfyUI made them: each mistake once, at its own input."""
    corrected: list[dict[str, Any]] = []
    for error in errors:
        name = error.get("extra_info", {}).get("input_name")
        mistakes = mistakes_of(str(error.get("details", "")).removeprefix(f"{name} - "))
        if error.get("type") != REPEATED or not mistakes:
            corrected.append(error)
            continue
        own = [
            {
                **error,
                "details": f"{place} - {text.removeprefix(f'{place}: ')}",
                "extra_info": {**error["extra_info"], "input_name": place},
            }
            for place, text in mistakes.items()
        ]
        corrected += [each for each in own if each not in corrected]
    return corrected


class Answer(Protocol):
    """A web server's answer."""

    text: str | None


def put_answer_right(answer: Answer) -> None:
    """Put each mistake in the server's JSON answer to a queued prompt once, at its own input.

    An answer that another pack has compressed or written anew is left as it is.
    """
    current = _CURRENT.get()
    if current is None or not current.verdicts:
        return
    try:
        body = json.loads(answer.text or "null")
        for node in body["node_errors"].values():
            node["errors"] = put_right(node["errors"])
        if body["node_errors"]:
            answer.text = json.dumps(body)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        log.debug("The answer to a prompt is left as it is: %s", error)
