"""Reads a YAML file as the authors' program does: safe types, no repeated keys, `${...}` references resolved.

The authors' program reads with OmegaConf. ComfyUI has PyYAML but not OmegaConf, which also lets a file read environment
variables and doubles a text with every line that refers to the one before twice; tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError, KeyPath, dotted

REFERENCE = re.compile(r"\$\{([^${}]*)\}")
ESCAPED = "\\${"
FLOAT_TAG, DATE_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""Numbers such as 1e-5, which YAML 1.1 takes for text and the authors' reader for numbers."""

MOST_REPLACED = 1_000_000
"""Characters and entries that references may put in place: configs have hundreds, references to references explode."""


@dataclass(frozen=True)
class Unresolved:
    """A text whose reference points at nothing, is escaped or holds another; harmless if nothing reads it."""

    text: str

    def __repr__(self) -> str:
        return f"{self.text!r}, whose reference cannot be resolved"


NOWHERE = Unresolved("")


class PlainLoader(yaml.SafeLoader):
    """Plain values only, dates as text; a repeated key or an alias is an error."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ConfigError(f"line {mark.line + 1} has an alias (*name); plain values are needed. Write it out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise ConfigError(f"the key {key!r} is in line {seen[key]} and again in line {line}. Remove one.")
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver(FLOAT_TAG, EXPONENT, list("-+0123456789"))
for _letter, _resolvers in PlainLoader.yaml_implicit_resolvers.items():
    PlainLoader.yaml_implicit_resolvers[_letter] = [each for each in _resolvers if each[0] != DATE_TAG]


def read_config(path: Path) -> dict[str, Any]:
    """Return the file's keys and values with references resolved; raises ConfigError where it has none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text; a YAML file is needed. Choose another file.") from error
    return parse_config(text)


def parse_config(text: str) -> dict[str, Any]:
    """Return the keys and values of a YAML text with references resolved; raises ConfigError where it has none."""
    try:
        document = yaml.load(text, PlainLoader)
        if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
            raise ConfigError(
                f"the file holds {type(document).__name__}, not keys with values. Choose a config of the authors' "
                f"program."
            )
        return _References(document).resolved(document, ())
    except yaml.YAMLError as error:
        raise ConfigError(f"the file is not YAML ({' '.join(str(error).split())}). Correct it.") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the file has a value that cannot be read ({error}). Correct it.") from error
    except RecursionError as error:
        raise ConfigError("the file is nested too deeply to be a config. Choose another.") from error


@dataclass
class _References:
    """Replaces the references of a document.

    found: what each target turned out to be, so that none is followed twice
    spent: how much has been put in place so far, see MOST_REPLACED
    """

    document: dict[str, Any]
    found: dict[KeyPath, Any] = field(default_factory=dict)
    spent: int = 0

    def resolved(self, value: Any, path: KeyPath, following: tuple[KeyPath, ...] = ()) -> Any:  # noqa: ANN401 - unchecked YAML
        """Replace the references of `value`, which stands at `path`. following: references on the way here."""
        if isinstance(value, dict):
            return {key: self.resolved(entry, (*path, key), following) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.resolved(entry, (*path, i), following) for i, entry in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        found = {match[0]: self._looked_up(_target(match[1], path), following) for match in REFERENCE.finditer(value)}
        if ESCAPED in value or any(isinstance(entry, Unresolved) for entry in found.values()):
            return Unresolved(value)
        if value in found:
            return found[value]
        text = REFERENCE.sub(lambda match: str(found[match[0]]), value)
        return Unresolved(value) if "${" in text else text  # not closed, or one reference inside another

    def _looked_up(self, target: KeyPath | None, following: tuple[KeyPath, ...]) -> Any:  # noqa: ANN401 - unchecked YAML
        """Return what stands at `target`, or NOWHERE; raises ConfigError where references put too much in place."""
        if target is None:
            return NOWHERE
        if target not in self.found:
            entry = NOWHERE if target in following else _at(self.document, target)
            if entry is NOWHERE:
                return NOWHERE
            self.found[target] = self.resolved(entry, target, (*following, target))
        self.spent += _size(self.found[target])
        if self.spent > MOST_REPLACED:
            raise ConfigError(
                f"the references (${{...}}) put more than {MOST_REPLACED:,} characters in place, the last being "
                f"${{{dotted(target)}}}; a config needs few. Write the values out."
            )
        return self.found[target]


def _size(value: Any) -> int:  # noqa: ANN401 - unchecked YAML
    """Count the characters and entries in a value."""
    if isinstance(value, dict):
        return 1 + sum(len(str(key)) + _size(entry) for key, entry in value.items())
    if isinstance(value, list):
        return 1 + sum(_size(entry) for entry in value)
    return 1 + len(value) if isinstance(value, str) else 1


def _target(reference: str, path: KeyPath) -> KeyPath | None:
    """Return the target of a reference at `path`: `a.b` from the top, `.b` beside it, `..b` one level up, and so on."""
    name = reference.strip().lstrip(".")
    up = len(reference.strip()) - len(name)
    parts = tuple(part for part in name.replace("[", ".").replace("]", "").split(".") if part)
    if up > len(path) or not parts:
        return None
    return (*path[: len(path) - up], *parts) if up else parts


def _at(document: Any, path: KeyPath) -> Any:  # noqa: ANN401 - unchecked YAML
    """Return what stands at `path`, or NOWHERE."""
    value = document
    for part in path:
        keys = (part, int(part)) if isinstance(part, str) and part.isdecimal() else (part,)
        if isinstance(value, dict):
            value = next((value[key] for key in keys if key in value), NOWHERE)
        elif isinstance(value, list) and isinstance(keys[-1], int) and keys[-1] < len(value):
            value = value[keys[-1]]
        else:
            return NOWHERE
    return value
