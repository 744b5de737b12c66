"""Imports that wait until a node runs, so that ComfyUI starts without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_ONE_AT_A_TIME = RLock()


@contextmanager
def importing() -> Iterator[None]:
    """Import in one thread at a time, and not in inference mode, in which ComfyUI runs its nodes.

    Large packages replace themselves while they are imported: of two threads that import for the first time, one may
    find a half-made module. Constants that diffusers makes on import in inference mode could never be trained with.
    """
    import torch

    with _ONE_AT_A_TIME, torch.inference_mode(False):
        yield
