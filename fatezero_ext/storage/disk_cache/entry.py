"""Saved inversions: an `Entry` is read, a `Draft` is written and becomes an entry when published."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ...atomic_files import whole_file
from ...errors import StoreError
from ...printable import format_bytes
from ..paged_tensor import PagedTensor
from .eviction import Staging, discard, evict_until_fits, new_lease, writing
from .locks import Lease, folder_lock
from .manifest import (
    JSON,
    MANIFEST,
    FileLine,
    Manifest,
    UnusableEntry,
    check_name,
    checked_manifest,
    encode,
    file_path,
    new_manifest,
    read_manifest,
)
from .tensor_file import check_tensors, file_bytes, read_into, read_tensors, tensor_names, write_tensors

SLACK = 2**20  # bytes over plan: file headers and the manifest, not worth evicting or refusing an inversion for
log = logging.getLogger(__name__)


class Entry:
    """A saved inversion: files of tensors by name. It is not evicted until released or garbage collected.

    about:  readable description of the inversion
    nbytes: size of all its files
    names:  names of its files
    """

    def __init__(self, folder: Path, manifest: Manifest, lease: Lease) -> None:
        self.key = manifest.key
        self.about: Mapping[str, JSON] = manifest.about
        self.nbytes = manifest.nbytes
        self.names = tuple(manifest.files)
        self._folder = folder
        self._home = folder / manifest.key
        self._manifest = manifest
        self._lease = lease

    def __repr__(self) -> str:
        return f"Entry({self.key}, {len(self.names)} files, {format_bytes(self.nbytes)})"

    def read(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a file, once, and check them. Raises DamagedFile if they are not what was written."""
        return read_tensors(self.place(name), self._line(name))

    def read_into(
        self, name: str, room: Callable[[str, Sequence[int], torch.dtype], Tensor | PagedTensor]
    ) -> dict[str, Tensor]:
        """Read the tensors of a file as `read` does, into those that `room` makes by name, shape and dtype."""
        return read_into(self.place(name), self._line(name), room)

    def check(self, name: str) -> None:
        """Raise DamagedFile as `read` does; needs little memory."""
        check_tensors(self.place(name), self._line(name))

    def place(self, name: str) -> Path:
        """Path of a file."""
        return file_path(self._home, name)

    def tensor_names(self, name: str) -> tuple[str, ...]:
        """Names of a file's tensors, which are not read. Raises DamagedFile if it holds none."""
        return tensor_names(self.place(name))

    def forget(self) -> None:
        """Let the entry not be found again, so that it is made anew; its users may read on until it is looked for.

        Raises StoreError if the folder cannot be locked or written.
        """
        with writing(self._folder), folder_lock(self._folder), suppress(UnusableEntry):
            if read_manifest(self._home) == self._manifest:  # else another process has made another in its place
                (self._home / MANIFEST).unlink()

    def release(self) -> None:
        """Let the entry be evicted; a second call does nothing. May be called from any thread."""
        self._lease.release()

    def _line(self, name: str) -> FileLine:
        if name not in self.names:
            raise StoreError(
                f"the saved inversion {self.key} has no file {name!r}; it has {', '.join(self.names) or 'none'}. "
                f"Ask for one of these."
            )
        return self._manifest.files[name]


def leased_entry(folder: Path, key: str) -> Entry | None:
    """The entry of a key, in use from now on; None if there is none. The caller holds the folder's lock.

    An entry that cannot be used is reported and removed.
    """
    home = folder / key
    if not os.path.lexists(home):
        return None
    with writing(folder):
        try:
            manifest = checked_manifest(home)
        except UnusableEntry as reason:
            log.warning("The saved inversion %s cannot be used: %s. It is removed and will be made anew.", home, reason)
            discard(folder, key)
            return None
        os.utime(home / MANIFEST)  # its time of change is the time of last use
        return Entry(folder, manifest, new_lease(folder, key))


class Draft:
    """An inversion being saved. Use it in a `with` statement: it is abandoned unless published or left.

    When garbage collected, and after its process was killed, it stays as it was at its last `checkpoint`, for another
    run to take over; without one nothing stays. It is abandoned when writing fails. Threads may share it.
    about: readable description of the inversion
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        key: str,
        about: Mapping[str, JSON],
        nbytes: int,
        *,
        staging: Staging | None = None,
        files: Mapping[str, FileLine] | None = None,
    ) -> None:
        """The caller holds the folder's lock and has made room for `nbytes`.

        staging, files: of a draft that is taken over
        """
        self.key = key
        self.about = dict(about)
        self._folder = folder
        self._limit = limit
        self._planned = nbytes
        self._files = dict(files or {})
        self._turn = threading.RLock()
        self._open = True
        self._staging = staging or Staging(folder, key, nbytes)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_ended: object) -> None:
        self.abandon()

    def write(self, name: str, tensors: Mapping[str, Tensor | PagedTensor]) -> None:
        """Save tensors, which are on the CPU, as one file. If it fails, abandons the draft and raises StoreError.

        Ctrl-C is no failure: the file is in no manifest, and the draft stays as it was.
        """
        check_name(name)
        with self._turn:
            self._must_be_open()
            if name in self._files:
                raise StoreError(f"the file {name!r} was written already; each is written once. Give it another name.")
            try:
                nbytes = file_bytes(tensors)
                self._grow(nbytes)
                self._files[name] = write_tensors(self.place(name), tensors)
            except OSError as error:
                self.abandon()
                raise self._failed(f"file {name} of {format_bytes(nbytes)}", error) from None
            except (StoreError, RuntimeError, MemoryError):  # no room, or tensors that cannot be saved
                self.abandon()
                raise

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its files."""
        return tuple(self._files)

    def read(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of one of its files. Raises DamagedFile if they are not what was written."""
        return read_tensors(self.place(name), self._files[name])

    def check(self, name: str) -> None:
        """Raise DamagedFile as `read` does; needs little memory."""
        check_tensors(self.place(name), self._files[name])

    def place(self, name: str) -> Path:
        """Path of a file."""
        return file_path(self._staging.path, name)

    def checkpoint(self) -> None:
        """Let another run go on from the files that are written now, should this one end before it publishes."""
        with self._turn:
            self._must_be_open()
            try:
                self._write_manifest()
            except OSError as error:
                self.abandon()
                raise self._failed("manifest", error) from None

    def keep(self, names: Collection[str]) -> None:
        """Delete all files but these. Raises StoreError if the folder cannot be written; the draft is left then."""
        files = {name: line for name, line in self._files.items() if name in names}
        with self._turn, writing(self._folder):
            try:
                if files != self._files:
                    self._files = files
                    self._write_manifest()
                self._delete_others()
            except OSError:
                self.leave()
                raise

    def _write_manifest(self) -> Manifest:
        manifest = new_manifest(self.key, self.about, self._files)
        with whole_file(self._staging.path / MANIFEST) as partial, partial.open("wb") as file:
            file.write(encode(manifest))
            file.flush()
            os.fsync(file.fileno())  # it replaces the one before it: after a power loss one of them must be whole
        return manifest

    def _delete_others(self) -> None:
        """Delete files that the manifest does not name, as it was written last."""
        known = {MANIFEST, *(self.place(name).name for name in self._files)}
        for path in self._staging.path.iterdir():
            if path.name not in known:
                path.unlink()

    def publish(self, names: Collection[str] | None = None) -> Entry:
        """Turn the draft into an entry in one step. If another process was faster, returns that one's entry.

        names: of the files that the entry has; None: all
        Raises StoreError if it cannot be written. While the folder cannot be locked the draft stays, to be left.
        """
        with self._turn:
            self._must_be_open()
            try:
                if names is not None:
                    self._files = {name: line for name, line in self._files.items() if name in names}
                manifest = self._write_manifest()
                self._delete_others()
                with folder_lock(self._folder):
                    entry = leased_entry(self._folder, self.key)
                    if entry is None:
                        lease = new_lease(self._folder, self.key)
                        os.rename(self._staging.path, self._folder / self.key)
                        entry = Entry(self._folder, manifest, lease)
            except OSError as error:
                self.abandon()
                raise self._failed("manifest", error) from None
            self.abandon()
            return entry

    def leave(self) -> None:
        """Let another run go on from the last checkpoint; without one, delete what was written."""
        with self._turn:
            self._open = False
            self._staging.leave()

    def abandon(self) -> None:
        """Delete what was written; after publishing, or a second time, does nothing."""
        with self._turn:
            self._open = False
            self._staging.discard()

    def _must_be_open(self) -> None:
        if not self._open:
            raise StoreError(
                f"the draft of {self.key} was published or abandoned; only an open one can be written and published. "
                f"Begin another."
            )

    def _grow(self, nbytes: int) -> None:
        """Make room for a file that exceeds the plan."""
        written = sum(line.nbytes for line in self._files.values())
        if written + nbytes > self._planned + SLACK:
            with folder_lock(self._folder):
                evict_until_fits(self._folder, self._limit, written + nbytes - max(self._planned, written))
            self._planned = written + nbytes

    def _failed(self, what: str, error: OSError) -> StoreError:
        try:
            free = format_bytes(shutil.disk_usage(self._folder).free)
        except OSError:
            free = "an unknown number of bytes"
        return StoreError(
            f"the {what} of the inversion {self.key} cannot be saved in {self._folder} "
            f"({error.strerror or error}); {free} are free there. Nothing of it was kept. Free some space, or name a "
            f"folder on another disk with FATEZERO_CACHE_DIR."
        )
