"""Several processes, and processes that are killed."""

import os
import random
import time

import pytest

from fatezero_ext.storage.disk_cache.cache import InversionCache

from .saved import (
    ABOUT,
    KEY,
    LIMIT,
    NAMES,
    OTHER,
    THIRD,
    begin_to_save,
    do_forget,
    do_go_on,
    do_prune,
    do_remove_damaged,
    do_save,
    holds_its_pages,
    pages,
    remains,
    same,
    save,
    work_crowd,
    work_draft,
    work_for_ever,
    work_publish,
    work_until_event,
    work_use,
)

KILLS = 10
MANY_EVENTS = 10**6


def test_an_entry_that_another_process_uses_is_not_evicted_until_that_process_is_killed(cache, start):
    save(cache, KEY).release()
    process, link = start(work_use, cache.folder, KEY)
    assert link.recv()
    assert [entry.key for entry in cache.prune(0).in_use] == [KEY] and cache.entries()[0].in_use
    process.kill()
    process.join()
    assert [entry.key for entry in cache.prune(0).removed] == [KEY] and remains(cache) == []


def test_a_process_that_ends_lets_its_entries_go(cache, start):
    save(cache, KEY).release()
    process, link = start(work_use, cache.folder, KEY)
    assert link.recv()
    link.send(None)
    process.join()
    assert process.exitcode == 0 and not cache.entries()[0].in_use


def test_the_draft_of_a_living_process_stays_and_that_of_a_killed_one_goes(cache, start):
    process, link = start(work_draft, cache.folder, KEY, LIMIT // 2 + 1)
    link.recv()
    cache.prune(0)
    (draft,) = [path for path in cache.folder.glob(".drafts/*") if path.is_dir()]
    assert [path.name for path in draft.iterdir()] == ["step-000.safetensors"]
    process.kill()
    process.join()
    assert cache.find(KEY) is None
    cache.begin(OTHER, ABOUT, LIMIT // 2).abandon()
    assert remains(cache) == []


def test_two_processes_that_publish_one_key_get_one_whole_entry(cache, start):
    keys = [f"{number:016x}" for number in range(8)]
    links = [start(work_publish, cache.folder, keys)[1] for _ in range(2)]
    for key in keys:
        for link in links:
            link.recv()
        for link in links:
            link.send(None)
        assert [link.recv() for link in links] == [True, True]
        assert holds_its_pages(cache.find(key))
    assert [entry.key for entry in cache.entries()] == keys


def test_a_crowd_of_processes_in_a_small_cache_reads_what_was_saved(cache, start):
    links = [start(work_crowd, cache.folder, seed, 2)[1] for seed in range(3)]
    results = [link.recv() for link in links]
    assert [problem for problem, _ in results] == [None] * 3 and all(read > 5 for _, read in results)
    assert InversionCache(cache.folder, 9_000).nbytes <= 9_000


def test_an_entry_that_another_process_forgets_is_read_on_until_it_is_made_anew(cache, start):
    save(cache, OTHER).release()
    entry = cache.find(OTHER)
    process, link = start(work_until_event, cache.folder, do_forget, MANY_EVENTS)
    link.recv()
    process.join()
    assert holds_its_pages(entry) and [listed.problem for listed in cache.entries()] == [
        "it has no manifest.json, as after damage was found in it"
    ]
    assert cache.find(OTHER) is None and holds_its_pages(save(cache, OTHER))


def check_after_kill(cache):
    """Nothing but whole entries, and leftovers that go."""
    for key in (KEY, OTHER):
        entry = cache.find(key)
        assert entry is None or holds_its_pages(entry)
        del entry
    for key in (KEY, OTHER):
        assert holds_its_pages(save(cache, key))
    cache.prune(0)
    assert remains(cache) == [] and cache.entries() == []


@pytest.mark.parametrize("job", [do_save, do_forget, do_prune, do_remove_damaged])
def test_a_kill_at_any_touch_of_the_file_system_leaves_nothing_wrong(cache, start, job):
    save(cache, OTHER).release()
    _, link = start(work_until_event, cache.folder, job, MANY_EVENTS)
    events = link.recv()
    assert events > 5
    check_after_kill(cache)
    for event in range(1, events + 1):
        save(cache, OTHER).release()
        process, _ = start(work_until_event, cache.folder, job, event)
        process.join()
        assert process.exitcode == -9
        assert job in (do_forget, do_remove_damaged) or all(entry.problem is None for entry in cache.entries())
        check_after_kill(cache)


def test_a_kill_at_any_touch_of_the_file_system_loses_nothing_that_was_finished_before(cache, start):
    begin_to_save(cache)
    _, link = start(work_until_event, cache.folder, do_go_on, MANY_EVENTS)
    events = link.recv()
    assert events > 20 and holds_its_pages(cache.find(KEY))
    kept = set()
    for event in range(1, events + 1):
        cache.prune(0)
        begin_to_save(cache)
        process, _ = start(work_until_event, cache.folder, do_go_on, event)
        process.join()
        assert process.exitcode == -9
        if cache.find(KEY) is None:
            draft = cache.resume(KEY, 4000)
            assert NAMES[0] in draft.names and all(draft.read(name) for name in draft.names)
            kept |= {name for name in draft.names if name in NAMES}
            draft.leave()
            do_go_on(cache)
        entry = cache.find(KEY)
        assert holds_its_pages(entry) and sorted(entry.names) == sorted(NAMES)
        assert {path.name for path in (cache.folder / KEY).iterdir()} == {entry.place(name).name for name in NAMES} | {
            "manifest.json"
        }
        entry.release()
        cache.prune(0)
        assert remains(cache) == [] and cache.entries() == []
    assert kept == set(NAMES)


def test_a_draft_without_a_checkpoint_is_not_resumed_and_one_that_lives_is_not_taken(cache, start):
    draft = cache.begin(KEY, ABOUT, 4000)
    draft.write(NAMES[0], pages(KEY)[NAMES[0]])
    assert cache.resume(KEY, 4000) is None
    draft.checkpoint()
    assert cache.resume(KEY, 4000) is None and cache.resume(OTHER, 4000) is None
    draft.leave()
    assert cache.resume(KEY, 4000).names == NAMES[:1]


def test_processes_killed_at_random_moments_leave_nothing_that_stays(cache, start):
    chance = random.Random(0)
    for _ in range(KILLS):
        process, link = start(work_for_ever, cache.folder)
        link.recv()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        entry = cache.find(KEY)
        assert entry is None or holds_its_pages(entry, 40_000)
        del entry
        assert holds_its_pages(save(cache, KEY, 40_000), 40_000)
        cache.prune(0)
        assert remains(cache) == [] and cache.entries() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_end_what_its_parent_holds(cache):
    entry, draft = save(cache, KEY), cache.begin(OTHER, ABOUT, 0)
    draft.write("latents", pages(OTHER)["latents"])
    child = os.fork()
    if child == 0:
        entry.release()
        draft.abandon()
        del entry, draft
        os._exit(0)
    os.waitpid(child, 0)
    assert [kept.key for kept in cache.prune(0).in_use] == [KEY] and holds_its_pages(entry)
    assert same(draft.publish().read("latents"), pages(OTHER)["latents"])


def test_an_entry_of_one_cache_object_is_in_use_for_all(cache):
    entry = save(cache, THIRD)
    assert InversionCache(cache.folder, 1).prune().removed == () and holds_its_pages(entry)
