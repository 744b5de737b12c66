"""The limit, the disk and the folder."""

import errno
import gc
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from fatezero_ext.errors import StoreError
from fatezero_ext.storage.disk_cache.cache import DEFAULT_LIMIT, InversionCache, default_cache
from fatezero_ext.storage.disk_cache.eviction import discard, list_unfinished
from fatezero_ext.storage.disk_cache.locks import folder_lock

from .saved import (
    ABOUT,
    KEY,
    LIMIT,
    OTHER,
    THIRD,
    holds_its_pages,
    page,
    pages,
    remains,
    room_of_one,
    save,
    used_at,
    work_small_files,
)

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def full(cache):
    """A cache with room for two entries that has them, OTHER unused for longer than KEY."""
    for key, seconds in ((KEY, 2000), (OTHER, 1000)):
        save(cache, key).release()
        used_at(cache, key, seconds)
    return InversionCache(cache.folder, cache.nbytes + 600)


def keys(cache):
    return [entry.key for entry in cache.entries()]


def test_what_was_unused_for_longest_goes_first(full):
    save(full, THIRD)
    assert keys(full) == [KEY, THIRD] and full.nbytes <= full.limit and remains(full) == []


def test_finding_counts_as_use(full):
    full.find(OTHER).release()
    save(full, THIRD)
    assert keys(full) == [THIRD, OTHER]


def test_what_is_in_use_stays_though_unused_for_longest(full):
    entry = full.find(OTHER)
    used_at(full, OTHER, 1000)
    save(full, THIRD)
    assert keys(full) == [THIRD, OTHER] and holds_its_pages(entry)


def test_one_of_two_users_keeps_an_entry(full):
    first, second = full.find(OTHER), full.find(OTHER)
    first.release()
    first.release()
    used_at(full, OTHER, 1000)
    save(full, THIRD)
    assert OTHER in keys(full) and holds_its_pages(second)


def test_a_forgotten_entry_is_no_longer_in_use(full):
    entry = full.find(OTHER)
    assert full.entries()[1].in_use
    del entry
    gc.collect()
    assert not full.entries()[1].in_use and remains(full) == []


def test_nothing_goes_where_all_of_it_would_not_be_enough(full):
    entry = full.find(OTHER)
    with pytest.raises(StoreError, match=r"more than its limit of .* in use or being written"):
        full.begin(THIRD, ABOUT, full.limit)
    assert keys(full) == [KEY, OTHER] and holds_its_pages(entry)


def test_more_than_the_limit_is_refused_with_both_numbers_before_any_folder_is_made(cache):
    with pytest.raises(StoreError, match=r"needs 20\.0 MiB .* may take 10\.0 MiB; .* FATEZERO_CACHE_GB"):
        cache.begin(KEY, ABOUT, 2 * LIMIT)
    assert not cache.folder.exists()


def test_drafts_count_as_large_as_they_will_be(cache):
    draft = cache.begin(KEY, ABOUT, LIMIT // 2 + 1)
    assert cache.nbytes == LIMIT // 2 + 1
    with pytest.raises(StoreError, match="in use or being written"):
        cache.begin(OTHER, ABOUT, LIMIT // 2)
    draft.abandon()
    cache.begin(OTHER, ABOUT, LIMIT // 2)


def test_a_draft_that_outgrows_its_plan_evicts_and_ends_at_the_limit(cache):
    large = {"x": torch.zeros(4 * 2**20, dtype=torch.uint8)}
    for key, seconds in ((KEY, 2000), (OTHER, 1000)):
        with cache.begin(key, ABOUT, 4 * 2**20) as draft:
            draft.write("all", large)
            draft.publish().release()
        used_at(cache, key, seconds)
    draft = cache.begin(THIRD, ABOUT, 0)
    draft.write("first", large)
    assert keys(cache) == [KEY]
    draft.write("second", large)
    assert keys(cache) == []
    with pytest.raises(StoreError, match="more than its limit"):
        draft.write("third", large)
    assert remains(cache) == [] and cache.nbytes == 0


def test_many_small_files_over_plan_end_at_the_limit_too(cache):
    draft, small = cache.begin(KEY, ABOUT, 0), {"x": torch.zeros(900_000, dtype=torch.uint8)}
    with pytest.raises(StoreError, match="more than its limit"):
        for number in range(20):
            draft.write(f"step-{number}", small)
            assert cache.nbytes <= LIMIT + 2**20
    assert remains(cache) == []


def test_headers_and_manifest_over_plan_evict_nothing(full):
    limited = InversionCache(full.folder, full.nbytes + 12 * 64 * 3)
    with limited.begin(THIRD, ABOUT, 12 * 64 * 3) as draft:
        for name, tensors in pages(THIRD).items():
            draft.write(name, tensors)
        draft.publish()
    assert len(keys(full)) == 3 and full.nbytes - limited.limit < 1500


def test_unusable_entries_and_leftovers_count_and_go(full):
    shutil.copytree(full.folder / KEY, full.folder / ".trash" / "left")
    (full.folder / OTHER / "manifest.json").write_text('{"format": 1}')
    used_at(full, OTHER, 1000)
    before = full.nbytes
    assert before > 3 * room_of_one(full) - 1500
    pruned = full.prune(room_of_one(full))
    assert pruned.leftovers > 0 and before - full.nbytes > pruned.leftovers and remains(full) == []


@pytest.mark.parametrize("fault", ['{"format": 1}', "", None])
def test_pruning_takes_what_cannot_be_used_though_there_is_room(full, fault):
    manifest = full.folder / KEY / "manifest.json"
    manifest.unlink() if fault is None else manifest.write_text(fault)
    assert [entry.key for entry in full.prune().removed] == [KEY] and keys(full) == [OTHER]


def test_pruning_takes_an_entry_of_which_nothing_is_left(full):
    (full.folder / THIRD).mkdir()
    assert [entry.key for entry in full.prune().removed] == [THIRD] and keys(full) == [KEY, OTHER]


def test_what_cannot_be_used_goes_before_what_was_unused_for_longest(full):
    (full.folder / KEY / "manifest.json").write_text('{"format": 1}')
    save(full, THIRD).release()
    assert keys(full) == [THIRD, OTHER]


def test_what_cannot_be_used_stays_while_an_older_program_uses_it(full):
    entry = full.find(KEY)
    (full.folder / KEY / "manifest.json").write_text('{"format": 1}')
    assert full.prune().removed == () and keys(full) == [KEY, OTHER] and holds_its_pages(entry)


def test_pruning_to_a_limit_keeps_what_was_used_last(full):
    pruned = full.prune(full.nbytes - 1)
    assert [entry.key for entry in pruned.removed] == [OTHER] and pruned.in_use == () and keys(full) == [KEY]
    assert full.prune().removed == ()


def test_pruning_to_nothing_keeps_and_names_what_is_in_use(full):
    entry = full.find(KEY)
    pruned = full.prune(0)
    assert [gone.key for gone in pruned.removed] == [OTHER] and [kept.key for kept in pruned.in_use] == [KEY]
    assert holds_its_pages(entry)


def test_only_unused_entries_are_removed_by_key(full):
    entry = full.find(KEY)
    assert not full.remove(KEY) and full.remove(OTHER) and full.remove(THIRD)
    assert keys(full) == [KEY] and holds_its_pages(entry)


def test_a_disk_with_too_little_space_is_refused_before_anything_goes(full, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 10**6 - 1500, 1500))
    with pytest.raises(StoreError, match=r"needs 3\.9 KiB, and .* are free on the disk .* FATEZERO_CACHE_DIR"):
        InversionCache(full.folder, LIMIT).begin(THIRD, ABOUT, 4000)
    assert keys(full) == [KEY, OTHER] and remains(full) == []


def test_space_that_drafts_will_fill_is_not_free(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 10**6 - 5000, 5000))
    draft = cache.begin(KEY, ABOUT, 3000)
    with pytest.raises(StoreError, match=r"and 2\.0 KiB are free"):
        cache.begin(OTHER, ABOUT, 3000)
    draft.abandon()
    cache.begin(OTHER, ABOUT, 3000)


@pytest.mark.parametrize(
    ("largest", "file"), [(0, "file latents"), (1, "file latents"), (800, "file latents"), (2000, "manifest")]
)
def test_a_file_that_the_system_cuts_short_leaves_nothing(cache, start, largest, file):
    save(cache, OTHER).release()
    process, link = start(work_small_files, cache.folder, KEY, largest, {"prompt": "very " * 500})
    message = link.recv()
    process.join()
    assert (
        file in message
        and "File too large" in message
        and "are free there" in message
        and "FATEZERO_CACHE_DIR" in message
    )
    assert cache.find(KEY) is None and remains(cache) == [] and holds_its_pages(cache.find(OTHER))


def test_a_disk_that_fills_up_says_what_was_needed_and_leaves_nothing(cache, monkeypatch):
    draft = cache.begin(KEY, ABOUT, 0)
    draft.write("latents", page(0))

    def fill(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fill)
        with pytest.raises(StoreError, match=r"file step-000 of .* bytes .*No space left on device\); .* are free"):
            draft.write("step-000", page(1))
    assert cache.find(KEY) is None and remains(cache) == []


@pytest.mark.parametrize("place", ["file", "file/inside", "/proc/fatezero"])
def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path, place):
    (tmp_path / "file").write_text("")
    cache = InversionCache(tmp_path / place, LIMIT)
    with pytest.raises(StoreError, match=r"cannot be written \(.*FATEZERO_CACHE_DIR") as error:
        cache.begin(KEY, ABOUT, 0)
    assert str(cache.folder) in str(error.value)
    assert cache.find(KEY) is None and cache.entries() == [] and cache.prune(0).removed == ()


def test_folders_of_another_program_are_never_touched(tmp_path):
    theirs = tmp_path / "d41d8cd98f00b204e9800998ecf8427e" / "file"
    theirs.parent.mkdir()
    theirs.write_text("kept")
    cache, key = InversionCache(tmp_path, 1), theirs.parent.name
    for use in (
        lambda: cache.begin(KEY, ABOUT, 0),
        lambda: cache.find(key),
        lambda: cache.remove(key),
        lambda: cache.prune(0),
        lambda: list(cache.verify()),
        cache.entries,
    ):
        with pytest.raises(StoreError, match="may belong to another program; .* FATEZERO_CACHE_DIR"):
            use()
    assert theirs.read_text() == "kept" and list(tmp_path.iterdir()) == [theirs.parent]


def test_other_files_in_the_folder_stay_and_do_not_count(cache):
    cache.folder.mkdir()
    (cache.folder / "notes.txt").write_text("kept" * 1000)
    save(cache).release()
    cache.prune(0)
    assert cache.nbytes == 0 and (cache.folder / "notes.txt").read_text() == "kept" * 1000


def test_backups_leave_the_cache_out(cache):
    save(cache)
    assert (cache.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_a_draft_that_is_gone_when_it_is_looked_at_is_not_listed_and_not_missed(cache):
    """Its owner lets go of the lock last, and deletes that file last."""
    entry = save(cache, OTHER)
    draft = f"{KEY}.0.{'a' * 32}"
    (cache.folder / ".drafts" / f"{draft}.lock").touch()
    assert list_unfinished(cache.folder) == []
    discard(cache.folder, f".drafts/{draft}")
    assert cache.prune(0).leftovers == 0 and holds_its_pages(entry)


def test_a_lock_that_is_never_let_go_is_an_error_in_words(cache):
    save(cache)
    with folder_lock(cache.folder):
        with pytest.raises(StoreError, match=r"has been locked by another process for 0\.05 s; .* End the program"):
            with folder_lock(cache.folder, 0.05):
                raise AssertionError("two hold the lock")


def test_the_default_cache_is_in_the_systems_folder_and_bounded(monkeypatch, tmp_path):
    for name in ("FATEZERO_CACHE_DIR", "FATEZERO_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache = default_cache()
    assert (
        cache.folder.is_relative_to(tmp_path) and cache.folder.name == "inversions" and "fatezero" in str(cache.folder)
    )
    assert cache.limit == DEFAULT_LIMIT == 32 * 2**30 and not cache.folder.exists()


def test_the_environment_names_another_folder_and_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("FATEZERO_CACHE_DIR", "some/where")
    monkeypatch.setenv("FATEZERO_CACHE_GB", "0.5")
    monkeypatch.chdir(tmp_path)
    assert default_cache() == InversionCache(tmp_path / "some" / "where", 2**29)
    monkeypatch.setenv("FATEZERO_CACHE_DIR", "~/saved")
    assert default_cache().folder == Path.home() / "saved"
    assert default_cache(tmp_path / "given").folder == tmp_path / "given"


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "many", "32 GB"])
def test_a_limit_that_is_no_positive_number_is_refused(monkeypatch, size):
    monkeypatch.setenv("FATEZERO_CACHE_GB", size)
    with pytest.raises(StoreError, match=f"FATEZERO_CACHE_GB is '{size}'; a positive number of GiB is needed"):
        default_cache()
