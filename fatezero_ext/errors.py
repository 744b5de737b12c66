"""The one family of errors this project raises at its borders, and the checks of single arguments that raise them.

Every message has three parts: what came, what is needed, what to do.
"""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from pathlib import Path

PUBLIC = "fatezero_ext"
"""Module that the errors are imported from. ComfyUI's page shows it before the message, and would show the path of the
pack's folder."""


class FateZeroError(ValueError):
    """An input that cannot be used; the message says what is needed instead."""

    __module__ = PUBLIC


class PromptError(FateZeroError):
    """A prompt, one of its words, or a per-word setting cannot be used."""

    __module__ = PUBLIC


class SettingsError(FateZeroError):
    """A number or a choice is outside what the method allows."""

    __module__ = PUBLIC


class ModelError(FateZeroError):
    """A model file or folder cannot be run by this project."""

    __module__ = PUBLIC


class StoreError(FateZeroError):
    """An attention store or an inversion cannot be written, read or edited."""

    __module__ = PUBLIC


class VideoError(FateZeroError):
    """A video file or a stack of frames cannot be read or written."""

    __module__ = PUBLIC


class WorkflowError(FateZeroError):
    """A workflow file cannot be run as it is."""


class NotOfferedError(ModelError, AttributeError):
    """ComfyUI asks an object for something that only its own kind has."""


def described(value: object) -> str:
    """Describe a value for an error, in no more than a line."""
    if value is None or isinstance(value, (str, int, float, bool, Path)):
        return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
    shape = getattr(value, "shape", None)
    if hasattr(value, "is_floating_point"):
        return f"a tensor shaped {list(shape or ())}"
    if shape:
        return f"an array shaped {list(shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def check_text(text: object, name: str) -> None:
    """Raise PromptError unless a prompt is one text; name: of the prompt, for the error."""
    if not isinstance(text, str):
        raise PromptError(
            f"{described(text)} came in place of the {name}; one text is needed. Several edits of one inversion are "
            f"several calls."
        )


def check_kind(value: object, has: str, name: str, advice: str) -> None:
    """Raise SettingsError unless settings are of their own kind: these alone have the attribute `has`."""
    if not hasattr(value, has):
        raise SettingsError(f"{name} is {described(value)}; {advice}.")


def is_whole(value: object, least: int, most: int | None = None) -> bool:
    """Return whether a value is a whole number from `least` to `most` (None: any), also one of NumPy; no bool is."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and least <= int(value) and (most is None or int(value) <= most)  # type: ignore[call-overload]


def as_path(value: object, error: type[FateZeroError]) -> Path:
    """Return a path; raise `error` unless the value is a text or a path."""
    if isinstance(value, bytes) or not isinstance(value, (str, PathLike)):
        raise error(f"{described(value)} came in place of a path; a text or a Path is needed. Name a file or folder.")
    return Path(value)
