"""Stamps of files by their bytes, each file read once."""

from __future__ import annotations

import json
from pathlib import Path

from blake3 import blake3

from ...fatezero_ext.atomic_files import whole_file
from ..file_stamps import Stamp

PIECE_BYTES = 2**24


class ContentStamps:
    """Digests of files' bytes, kept in a file so that a batch that is begun again reads none twice.

    A file whose place, size and time of change are the same is taken to have the same bytes.
    """

    def __init__(self, kept: Path) -> None:
        """kept: the file; a damaged one is not used."""
        self._kept = kept
        self._digests: dict[str, str] = {}
        self._used: dict[str, str] = {}
        try:
            found = json.loads(kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict) and all(isinstance(digest, str) for digest in found.values()):
            self._digests = found

    def __call__(self, path: Path) -> Stamp:
        """Return size and digest of a file; its place is no part of them."""
        status = path.stat()
        name = f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {path.absolute()}"
        if name not in self._digests:
            self._digests[name] = _digest(path)
        self._used[name] = self._digests[name]
        return [status.st_size, self._digests[name]]

    def save(self) -> None:
        """Keep what was asked for until now, and forget what no plan asks for any more."""
        if self._used:
            with whole_file(self._kept) as partial:
                partial.write_text(json.dumps(self._used), encoding="utf-8")


def _digest(path: Path) -> str:
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
