"""The one family of errors this project raises at its borders.

Every message has three parts: what came, what is needed, what to do.
"""

from __future__ import annotations


class FateZeroError(ValueError):
    """An input that cannot be used; the message says what is needed instead."""


class PromptError(FateZeroError):
    """A prompt, one of its words, or a per-word setting cannot be used."""


class SettingsError(FateZeroError):
    """A number or a choice is outside what the method allows."""


class ModelError(FateZeroError):
    """A model file or folder cannot be run by this project."""


class StoreError(FateZeroError):
    """An attention store or an inversion cannot be written, read or edited."""


class VideoError(FateZeroError):
    """A video file or a stack of frames cannot be read or written."""


class WorkflowError(FateZeroError):
    """A workflow file cannot be run as it is."""


class NotOfferedError(ModelError, AttributeError):
    """ComfyUI asks an object for something that only its own kind has."""
