"""The disk cache of inversions: saved once, read by every later edit, also by other processes and after a restart.

It handles names and tensors only. Callers decide what a key stands for, and `disk_store` what the files mean.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from ...errors import StoreError
from ...printable import format_bytes
from .completeness import content_faults
from .entry import Draft, Entry, leased_entry
from .eviction import (
    Listing,
    adopted,
    discard,
    entry_folders,
    evict_until_fits,
    is_cache,
    keys_in_use,
    list_entries,
    list_unfinished,
    make_cache,
    new_lease,
    oldest_unused,
    sweep,
    total_bytes,
    writing,
)
from .locks import folder_lock
from .manifest import JSON, UnusableEntry, check_key, new_manifest, read_manifest
from .tensor_file import DamagedFile

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 32 * 2**30  # bytes; about five inversions of 50 steps, 8 frames and 512x512


@dataclass(frozen=True)
class Checked:
    """An entry whose every byte was checked.

    problem: the reason if it cannot be used as a whole, else None
    damaged: files that are not what was written or lack something, with the reason
    """

    key: str
    about: Mapping[str, JSON]
    problem: str | None
    damaged: Mapping[str, str]

    @property
    def sound(self) -> bool:
        """True if everything is as it was written."""
        return self.problem is None and not self.damaged


@dataclass(frozen=True)
class Pruned:
    """Result of a pruning.

    removed:   entries, those that could not be used first, then those unused for longest, unfinished ones among them
    in_use:    entries that would have been removed too, but some process uses them
    leftovers: bytes that killed processes had left
    """

    removed: tuple[Listing, ...] = ()
    in_use: tuple[Listing, ...] = ()
    leftovers: int = 0


@dataclass(frozen=True)
class InversionCache:
    """Saved inversions in a folder of their own; several processes may use it at the same time.

    limit: most bytes of everything in it
    """

    folder: Path
    limit: int = DEFAULT_LIMIT

    def find(self, key: str) -> Entry | None:
        """Find the entry of a key; None if there is none. It is in use until released or garbage collected.

        An entry that cannot be used is reported and removed; the result is None.
        """
        check_key(key)
        if not os.path.lexists(self.folder / key) or not is_cache(self.folder):
            return None
        with folder_lock(self.folder):
            return leased_entry(self.folder, key)

    def begin(self, key: str, about: Mapping[str, JSON], nbytes: int) -> Draft:
        """Begin to save an inversion of about `nbytes`, after evicting what was not used for longest.

        about: description for `cache list`, which shows prompt, frames, size ("512x512" or [width, height]), steps and
            policy
        Raises StoreError if there is no room for it, or the folder cannot be written.
        """
        check_key(key)
        new_manifest(key, about, {})
        self._check_size(nbytes)
        is_cache(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.folder):
                make_cache(self.folder)
                evict_until_fits(self.folder, self.limit, nbytes)
                return Draft(self.folder, self.limit, key, about, nbytes)

    def resume(self, key: str, nbytes: int) -> Draft | None:
        """Take over what a run that ended too early left of an inversion; None if there is nothing.

        nbytes: of the whole inversion
        A draft that cannot be used is reported and removed; the result is None. Files are not checked: those of its
        last steps may be torn or missing, and the steps before them be of use.
        Raises StoreError as `begin` does.
        """
        check_key(key)
        if not is_cache(self.folder):
            return None
        self._check_size(nbytes)
        with writing(self.folder), folder_lock(self.folder):
            staging = adopted(self.folder, key, nbytes)
            if staging is None:
                return None
            try:
                manifest = read_manifest(staging.path, key)
            except UnusableEntry as reason:
                log.warning("The unfinished inversion of %s cannot be used: %s. It is begun anew.", key, reason)
                staging.discard()
                return None
            try:
                evict_until_fits(self.folder, self.limit, 0)
            except StoreError:
                staging.leave()
                raise
            about, files = manifest.about, manifest.files
            draft = Draft(self.folder, self.limit, key, about, nbytes, staging=staging, files=files)
            draft.keep(files)  # deletes the file that was in work
            return draft

    def _check_size(self, nbytes: int) -> None:
        if nbytes > self.limit:
            raise StoreError(
                f"the inversion needs {format_bytes(nbytes)} and all saved ones together may take "
                f"{format_bytes(self.limit)}; raise the limit with FATEZERO_CACHE_GB, or use policy recompute, fewer "
                f"frames or fewer steps."
            )

    def entries(self) -> list[Listing]:
        """List every entry, also those that cannot be used, sorted by key. Their contents are not checked."""
        if not is_cache(self.folder):
            return []
        with folder_lock(self.folder):
            return list_entries(self.folder)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that counts against the limit; drafts count as large as they will be."""
        return total_bytes(self.folder) if is_cache(self.folder) else 0

    def verify(self) -> Iterator[Checked]:
        """Check every byte of every entry, one entry after the other; each is in use while it is checked."""
        if is_cache(self.folder):
            for home in entry_folders(self.folder):
                if (checked := self._checked(home)) is not None:
                    yield checked

    def _checked(self, home: Path) -> Checked | None:
        """Check an entry; None if it has been evicted meanwhile."""
        with writing(self.folder), folder_lock(self.folder):
            if not os.path.lexists(home):
                return None
            try:
                entry = Entry(self.folder, read_manifest(home), new_lease(self.folder, home.name))
            except UnusableEntry as reason:
                return Checked(home.name, {}, str(reason), {})
        damaged = {}
        try:
            for name in entry.names:
                try:
                    entry.check(name)
                except DamagedFile as damage:
                    damaged[name] = damage.reason
            damaged |= content_faults(entry, damaged)
        finally:
            entry.release()
        return Checked(entry.key, entry.about, None, damaged)

    def remove(self, key: str) -> bool:
        """Remove an entry unless it is in use. Returns whether it is gone."""
        check_key(key)
        if not is_cache(self.folder):
            return True
        with folder_lock(self.folder):
            if key in keys_in_use(self.folder):
                return False
            if os.path.lexists(self.folder / key):
                discard(self.folder, key)
            return True

    def prune(self, limit: int | None = None) -> Pruned:
        """Evict entries that cannot be used and, until everything fits, those that were not used for longest.

        Leftovers of killed processes are deleted, except unfinished inversions that the next run of them resumes.

        limit: bytes; None: the cache's own; 0: everything that is not in use
        """
        if not is_cache(self.folder):
            return Pruned()
        with folder_lock(self.folder):
            leftovers = sweep(self.folder)
            entries = [*list_entries(self.folder), *list_unfinished(self.folder)]
            excess = total_bytes(self.folder) - (self.limit if limit is None else limit)
            unusable = [entry for entry in entries if entry.problem and not entry.in_use]
            rest = excess - sum(entry.nbytes for entry in unusable)
            going = [*unusable, *oldest_unused([entry for entry in entries if not entry.problem], rest)]
            for entry in going:
                discard(self.folder, entry.place)
        reached = sum(entry.nbytes for entry in going) >= excess
        in_use = () if reached else tuple(entry for entry in entries if entry.in_use)
        return Pruned(tuple(going), in_use, leftovers)


def default_cache(folder: Path | None = None) -> InversionCache:
    """The user's cache, with the settings of the environment.

    folder: overrides FATEZERO_CACHE_DIR and the system's folder for caches
    FATEZERO_CACHE_GB sets the limit, in GiB. Raises StoreError if a setting cannot be used.
    """
    chosen = folder or os.environ.get("FATEZERO_CACHE_DIR")
    if chosen:
        place = Path(chosen).expanduser().absolute()
    else:
        place = user_cache_path("fatezero", appauthor=False) / "inversions"
        if not place.is_absolute():  # would be in the working directory
            raise StoreError(f"the system names {place} for caches; a full path is needed. Set FATEZERO_CACHE_DIR.")
    return InversionCache(place, _limit())


def _limit() -> int:
    setting = os.environ.get("FATEZERO_CACHE_GB")
    if not setting:
        return DEFAULT_LIMIT
    try:
        size = float(setting)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise StoreError(
            f"FATEZERO_CACHE_GB is {setting!r}; a positive number of GiB is needed. Set it to 32, say, or unset it."
        )
    return int(size * 2**30)
