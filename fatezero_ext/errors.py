"""The one family of errors this project raises at its borders.

Every message has three parts: what came, what is needed, what to do.
"""

from __future__ import annotations


class FateZeroError(ValueError):
    """Something a caller gave cannot be used; the message says what would be."""


class PromptError(FateZeroError):
    """A prompt, a word of it, or a per-word setting does not fit."""


class SettingsError(FateZeroError):
    """A number or a choice is outside what the method allows."""


class ModelError(FateZeroError):
    """A model file or folder is not one this project can run."""


class StoreError(FateZeroError):
    """An attention store or an inversion does not fit what is asked of it."""


class VideoError(FateZeroError):
    """A video file or a stack of frames cannot be read or written."""


class WorkflowError(FateZeroError):
    """A workflow file cannot be run as it is."""


class NotOfferedError(ModelError, AttributeError):
    """ComfyUI asks an object for something that only its own kind has."""
