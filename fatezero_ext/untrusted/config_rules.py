"""Rules for the values of a config from an untrusted source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .plain_files import shown

Config = dict[str, Any]
"""Keys of a config with what they say; rules tell which values are possible."""


@dataclass(frozen=True)
class Rule:
    """Values that a key may have; wanted: their description for an error message."""

    wanted: str
    holds: Callable[[object], bool]


def whole_number(least: int, most: int) -> Rule:
    return Rule(f"a whole number from {least:,} to {most:,}", lambda x: type(x) is int and least <= x <= most)


def number(least: float, most: float) -> Rule:
    return Rule(
        f"a number from {least:g} to {most:g}", lambda x: (type(x) is int or type(x) is float) and least <= x <= most
    )


def one_of(*values: object) -> Rule:
    words = ", ".join("null" if value is None else str(value) for value in values)
    return Rule(words, lambda x: any(type(x) is type(value) and x == value for value in values))


def each(rule: Rule, most: int) -> Rule:
    return Rule(
        f"a list of 1 to {most:,} values, each {rule.wanted}",
        lambda x: isinstance(x, (list, tuple)) and 0 < len(x) <= most and all(map(rule.holds, x)),
    )


def either(*rules: Rule) -> Rule:
    return Rule(" or ".join(rule.wanted for rule in rules), lambda x: any(rule.holds(x) for rule in rules))


NOTHING = one_of(None)
FRACTION = number(0, 1)
FLAG = Rule("true or false", lambda x: type(x) is bool)


def checked(config: Mapping[str, object], rules: Mapping[str, Rule], source: Path | str) -> Config:
    """Check the keys of a config that have a rule, and return them with their values, without all others.

    source: the file, for the error
    Raises ModelError with the key, its value and the allowed ones.
    """
    present = {key: config[key] for key in rules if key in config}
    for key, value in present.items():
        if not rules[key].holds(value):
            raise ModelError(
                f"{source} says {key} is {shown(value)}; {rules[key].wanted} is needed. Restore the file, or use "
                f"another model."
            )
    return present


def misfit(source: Path | str, came: str, wanted: str) -> ModelError:
    return ModelError(f"{source} has {came}; {wanted} is needed. Restore the file, or use another model.")
