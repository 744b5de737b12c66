"""Files that exist whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends, and is deleted when the block raises.

    Missing folders are made. Processes of several machines may write the same file; the last one stays. An
    interrupted or failed block leaves nothing, and an older file at `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
