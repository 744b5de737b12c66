"""Contents of a cache folder: lists them, marks them as in use, and evicts old ones when more is to be saved.

    CACHEDIR.TAG               says that everything here can be made anew; backups leave it out
    .lock                      held for moments
    <key>/                     a saved inversion: manifest.json, NAME.safetensors ...
    .leases/<key>.<id>.lock    one for each that uses an entry
    .drafts/<key>.<bytes>.<id> being written, beside a .lock; published by renaming, so an entry is always whole. With a
                               manifest it is resumed by the next run of its key; bytes are 0 while nobody writes it
    .trash/<id>                being deleted; renamed first, so half an entry is never found

Except where said otherwise, callers hold the folder's lock.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import StoreError
from ...printable import format_bytes
from .locks import Lease, is_held, unwritable
from .manifest import JSON, KEY, MANIFEST, Manifest, UnusableEntry, checked_manifest, read_manifest

RESUMABLE_SECONDS = 7 * 24 * 3600.0
"""Age at which a draft that nobody resumes is deleted; until then it counts, and goes like an entry, if room is needed.
"""
RENAME_SECONDS = 5.0  # a reader has a file of a saved step open for less
TAG = "CACHEDIR.TAG"
TAG_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/
TAG_TEXT = (
    f"{TAG_SIGNATURE}\n"
    "# Inversions saved by fatezero_ext. They are made anew when needed, so this folder may be deleted.\n"
)


@dataclass(frozen=True)
class Listing:
    """An entry as it is found in the folder.

    about:   its description; {} if the manifest is damaged
    nbytes:  of everything in its folder
    used:    when it was last found or published, in seconds since 1970
    problem: the reason if it cannot be used, else None; file contents are not checked
    draft:   name of its folder if it is an unfinished one that nobody works on, else None
    """

    key: str
    about: Mapping[str, JSON]
    nbytes: int
    used: float
    in_use: bool
    problem: str | None
    draft: str | None = None

    @property
    def place(self) -> str:
        """Path of its folder within the cache."""
        return self.key if self.draft is None else f".drafts/{self.draft}"


class Staging:
    """Staging folder: written first, renamed into place later. Its planned size counts against the limit.

    When it is let go, garbage collected or the process ends, it stays if a manifest says what is in it, and is deleted
    else; after a kill, the next `sweep` does the same.
    nbytes: planned size
    left:   folder that it takes over, one that nobody holds
    """

    def __init__(self, folder: Path, key: str, nbytes: int, left: Path | None = None) -> None:
        drafts = folder / ".drafts"
        drafts.mkdir(exist_ok=True)
        self.path = drafts / f"{key}.{nbytes}.{uuid.uuid4().hex}"
        hold = Lease(drafts / f"{self.path.name}.lock")
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _let_staging_go, self.path, hold, self._owner)
        if left is None:
            self.path.mkdir()
        else:
            _rename(left, self.path)

    def leave(self) -> None:
        """Let it go; after `discard`, or a second time, does nothing. Needs no lock."""
        self._end()

    def discard(self) -> None:
        """Delete what is left in it; a second call does nothing. Needs no lock."""
        if self._end.alive and os.getpid() == self._owner:
            _delete(self.path)
        self._end()


def _let_staging_go(path: Path, hold: Lease, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has a copy only
        if not _is_resumable(path):
            _delete(path)
        hold.release()


def _is_resumable(path: Path) -> bool:
    return (path / MANIFEST).is_file() and not path.is_symlink()


def adopted(folder: Path, key: str, nbytes: int) -> Staging | None:
    """Take over the largest draft of a key that nobody holds and that can be resumed; None if there is none."""
    drafts = folder / ".drafts"
    left = [drafts / name for name in _draft_names(folder) if name.partition(".")[0] == key]
    free = [path for path in left if _is_resumable(path) and not is_held(drafts / f"{path.name}.lock")]
    return Staging(folder, key, nbytes, max(free, key=disk_bytes)) if free else None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn OSError inside the block into a StoreError that names the folder. Needs no lock."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from None


def is_cache(folder: Path) -> bool:
    """Return whether the folder holds saved inversions; needs no lock.

    Raises StoreError if it holds folders of another program that look like entries: evicting would delete them.
    """
    with suppress(OSError):
        tag = (folder / TAG).read_text(encoding="utf-8", errors="replace")
        if tag.startswith(TAG_SIGNATURE) and "fatezero_ext" in tag:
            return True
    strangers = entry_folders(folder)
    if strangers:
        raise StoreError(
            f"{folder} holds folders such as {strangers[0].name} and no {TAG} of ours, so they may belong to another "
            f"program; inversions need a folder of their own. Name an empty or a new one with FATEZERO_CACHE_DIR."
        )
    return False


def make_cache(folder: Path) -> None:
    """Mark a folder as one of saved inversions. Raises StoreError as `is_cache` does."""
    if not is_cache(folder):
        (folder / TAG).write_text(TAG_TEXT, encoding="utf-8")


def entry_folders(folder: Path) -> list[Path]:
    """List what looks like an entry by its name; needs no lock."""
    try:
        return sorted(path for path in folder.iterdir() if KEY.fullmatch(path.name))
    except OSError:
        return []


def new_lease(folder: Path, key: str) -> Lease:
    """Mark an entry as in use, so that it is not evicted."""
    leases = folder / ".leases"
    leases.mkdir(exist_ok=True)
    return Lease(leases / f"{key}.{uuid.uuid4().hex}.lock")


def keys_in_use(folder: Path) -> set[str]:
    """Keys of the entries that some process uses; leases of dead processes are deleted."""
    leases = [path for path in _children(folder / ".leases") if path.suffix == ".lock"]
    return {path.name.partition(".")[0] for path in leases if is_held(path)}


def list_entries(folder: Path) -> list[Listing]:
    """List every entry, sorted by key."""
    used_now = keys_in_use(folder)
    return [_listing(home, home.name, home.name in used_now) for home in entry_folders(folder)]


def list_unfinished(folder: Path) -> list[Listing]:
    """List the drafts that nobody holds, which `sweep` left."""
    drafts = folder / ".drafts"
    names = [name for name in sorted(_draft_names(folder)) if not is_held(drafts / f"{name}.lock")]
    # A name may be that of a lock alone, whose owner has just published or abandoned.
    left = [name for name in names if (drafts / name).is_dir()]
    return [replace(_listing(drafts / name, name.partition(".")[0], False, read_manifest), draft=name) for name in left]


def _listing(home: Path, key: str, in_use: bool, read: Callable[[Path, str], Manifest] = checked_manifest) -> Listing:
    """read: raises UnusableEntry; a draft is of use with its manifest, whatever became of its last files"""
    manifest: Manifest | None = None
    problem = None
    try:
        manifest = read(home, key)
    except UnusableEntry as reason:
        problem = str(reason)
    used = 0.0
    for path in (home, home / MANIFEST):
        with suppress(OSError):
            used = path.lstat().st_mtime
    return Listing(key, manifest.about if manifest else {}, disk_bytes(home), used, in_use, problem)


def sweep(folder: Path) -> int:
    """Delete trash, and drafts that nobody holds unless they may be resumed. Returns the bytes deleted.

    Those that stay count from now on as large as they are, no longer as large as they were to be.
    """
    leftovers = disk_bytes(folder / ".trash")
    drafts = folder / ".drafts"
    for name in _draft_names(folder):
        if is_held(drafts / f"{name}.lock"):
            continue
        if _is_worth_keeping(folder, name):
            if _claim(name):
                _rename(drafts / name, drafts / ".".join([name.partition(".")[0], "0", uuid.uuid4().hex]))
        else:
            leftovers += disk_bytes(drafts / name)
            _delete(drafts / name)
    for path in _children(folder / ".trash"):
        _delete(path)
    return leftovers - disk_bytes(folder / ".trash")


def _is_worth_keeping(folder: Path, name: str) -> bool:
    """Return whether a draft that nobody holds can be resumed, is not too old, and was not made anew meanwhile."""
    draft = folder / ".drafts" / name
    if not _is_resumable(draft) or os.path.lexists(folder / name.partition(".")[0]):
        return False
    with suppress(OSError):
        return time.time() - (draft / MANIFEST).lstat().st_mtime < RESUMABLE_SECONDS
    return False


def claimed_bytes(folder: Path) -> int:
    """Bytes that drafts will have when they are written; needs no lock."""
    return sum(max(_claim(name), disk_bytes(folder / ".drafts" / name)) for name in _draft_names(folder))


def promised_bytes(folder: Path) -> int:
    """Bytes that drafts have yet to write; needs no lock."""
    return claimed_bytes(folder) - sum(disk_bytes(folder / ".drafts" / name) for name in _draft_names(folder))


def total_bytes(folder: Path) -> int:
    """Bytes of entries, drafts and leftovers; needs no lock."""
    return sum(map(disk_bytes, entry_folders(folder))) + claimed_bytes(folder) + disk_bytes(folder / ".trash")


def evict_until_fits(folder: Path, limit: int, nbytes: int) -> None:
    """Evict what was not used for longest until `nbytes` more fit under the limit; nothing if they cannot.

    Unfinished inversions that nobody works on are evicted like entries.
    Raises StoreError if entries in use and drafts take too much, or the disk has too little free space.
    """
    sweep(folder)
    excess = total_bytes(folder) + nbytes - limit
    going = oldest_unused([*list_entries(folder), *list_unfinished(folder)], excess)
    evictable = sum(entry.nbytes for entry in going)
    if evictable < excess:
        raise StoreError(
            f"saving {format_bytes(nbytes)} in {folder} needs {format_bytes(excess - evictable)} more than its limit "
            f"of {format_bytes(limit)}, and all else in it is in use or being written. End the programs that use it, "
            f"or raise FATEZERO_CACHE_GB."
        )
    free = shutil.disk_usage(folder).free + evictable - promised_bytes(folder)
    if free < nbytes:
        raise StoreError(
            f"saving needs {format_bytes(nbytes)}, and {format_bytes(max(free, 0))} are free on the disk of {folder}. "
            f"Free some, for example with `python -m fatezero_ext cache prune --all`, or name a folder on another disk "
            f"with FATEZERO_CACHE_DIR."
        )
    for entry in going:
        discard(folder, entry.place)


def oldest_unused(entries: list[Listing], excess: int) -> list[Listing]:
    """Choose the entries to evict for `excess` bytes: first those that cannot be used, then those unused for longest.

    They have fewer bytes if all others are in use.
    """
    going = []
    unused = (entry for entry in entries if not entry.in_use)
    for entry in sorted(unused, key=lambda entry: (entry.problem is None, entry.used, entry.key)):
        if excess <= 0:
            break
        going.append(entry)
        excess -= entry.nbytes
    return going


def discard(folder: Path, place: str) -> None:
    """Remove an entry, or an unfinished one, unless it is gone; place: see `Listing`, the key of an entry."""
    trash = folder / ".trash"
    trash.mkdir(exist_ok=True)
    removed = trash / uuid.uuid4().hex
    with writing(folder), suppress(FileNotFoundError):
        _rename(folder / place, removed)
    _delete(removed)


def _rename(source: Path, target: Path) -> None:
    """Rename a folder; Windows refuses while a reader of a forgotten entry has one of its files open."""
    until = time.monotonic() + RENAME_SECONDS
    while True:
        try:
            os.rename(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
            time.sleep(0.05)


def disk_bytes(path: Path) -> int:
    """Bytes of a file or of everything in a folder, 0 if there is none; links are not followed. Needs no lock."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(disk_bytes(child) for child in path.iterdir())
    except OSError:  # deleted meanwhile
        return 0


def _draft_names(folder: Path) -> set[str]:
    return {path.name.removesuffix(".lock") for path in _children(folder / ".drafts")}


def _claim(name: str) -> int:
    """Planned bytes in the name of a draft."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() and parts[1].isascii() else 0


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not made yet
        return []


def _delete(path: Path) -> None:
    """Delete a file, a link or a folder; what cannot be deleted stays for the next sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
