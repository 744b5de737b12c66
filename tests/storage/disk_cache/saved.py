"""What the tests save, also from other processes; functions named `work_*` run there."""

import os
import random
import signal
import sys
import time

import torch

from fatezero_ext.errors import StoreError
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.manifest import MANIFEST, encode, new_manifest, read_manifest
from fatezero_ext.storage.disk_cache.tensor_file import write_tensors

KEY, OTHER, THIRD = "0123456789abcdef", "fedcba9876543210", "ab" * 32
ABOUT = {"prompt": "a silver jeep", "frames": 8, "size": "512x512", "steps": 3, "policy": "features"}
NAMES = ("latents", "step-000", "step-001")
LIMIT = 10 * 2**20
OVERHEAD = 1500  # bytes at most, of the manifest and the files' headers
FILE_EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.utime", "shutil.rmtree")


def page(seed, size=64):
    """Seeded tensors of a page; 12 * size bytes."""
    generator = torch.Generator().manual_seed(seed)
    return {"q": torch.randn(2, size, generator=generator), "k": torch.randn(size, 2, generator=generator).half()}


def pages(key, size=64):
    """What is saved under a key, the same in every process: tensors by file name."""
    return {name: page(sum(f"{key} {name}".encode()), size) for name in NAMES}


def save(cache, key=KEY, size=64, about=ABOUT):
    """Save the pages of a key; the entry."""
    contents = pages(key, size)
    with cache.begin(key, about, 12 * size * len(contents) + OVERHEAD) as draft:
        for name, tensors in contents.items():
            draft.write(name, tensors)
        return draft.publish()


def rewrite(entry, name, tensors):
    """Give a file of an entry other contents under a true checksum; who finds the entry again reads them."""
    home = entry.place(name).parent
    lines = {**read_manifest(home).files, name: write_tensors(entry.place(name), tensors)}
    (home / MANIFEST).write_bytes(encode(new_manifest(entry.key, entry.about, lines)))


def same(got, wanted):
    """Equal names, dtypes and values."""
    alike = got.keys() == wanted.keys()
    return alike and all(got[at].dtype == wanted[at].dtype and torch.equal(got[at], wanted[at]) for at in wanted)


def holds_its_pages(entry, size=64):
    return all(same(entry.read(name), tensors) for name, tensors in pages(entry.key, size).items())


def used_at(cache, key, seconds):
    """Let an entry have been used at that time."""
    os.utime(cache.folder / key / "manifest.json", (seconds, seconds))


def remains(cache):
    """Files and folders of drafts, trash and leases."""
    return [path for name in (".drafts", ".trash", ".leases") for path in (cache.folder / name).glob("*")]


def work_use(link, folder, key):
    """Use an entry until told to end."""
    entry = InversionCache(folder, LIMIT).find(key)
    link.send(holds_its_pages(entry))
    link.recv()


def work_draft(link, folder, key, nbytes):
    """Write a file of a draft and wait."""
    draft = InversionCache(folder, LIMIT).begin(key, ABOUT, nbytes)
    draft.write("step-000", page(0))
    link.send(None)
    link.recv()


def work_publish(link, folder, keys):
    """Save every key as soon as told; sends whether all entries are right."""
    for key in keys:
        link.send(None)
        link.recv()
        link.send(holds_its_pages(save(InversionCache(folder, LIMIT), key)))


def do_save(cache):
    """Save what takes many files, with the cache so full that another entry has to go."""
    save(InversionCache(cache.folder, 2 * room_of_one(cache) - 1), KEY)


def begin_to_save(cache, key=KEY):
    """Leave an inversion of which one file was written."""
    draft = cache.begin(key, ABOUT, 4000)
    draft.write(NAMES[0], pages(key)[NAMES[0]])
    draft.checkpoint()
    draft.leave()


def do_go_on(cache):
    """Go on with what is left of an inversion: write its other files, and one that only unfinished ones have."""
    draft = cache.resume(KEY, 4000)
    for name, tensors in pages(KEY).items():
        if name not in draft.names:
            draft.write(name, tensors)
            draft.write(f"done-{name}", tensors)
            draft.checkpoint()
    draft.publish(NAMES).release()


def do_forget(cache):
    cache.find(OTHER).forget()


def do_prune(cache):
    cache.prune(0)


def do_remove_damaged(cache):
    (cache.folder / OTHER / "manifest.json").write_bytes(b"damage")
    assert cache.find(OTHER) is None


def room_of_one(cache):
    """Bytes of the entry of OTHER."""
    return sum(path.stat().st_size for path in (cache.folder / OTHER).iterdir())


def work_until_event(link, folder, job, events):
    """Do a job and be killed at its n-th touch of the file system; sends how many touches the whole job takes."""
    passed = 0

    def kill(event, _arguments):
        nonlocal passed
        if event in FILE_EVENTS:
            passed += 1
            if passed == events:
                os.kill(os.getpid(), signal.SIGKILL)

    cache = InversionCache(folder, LIMIT)
    sys.addaudithook(kill)
    passed = 0
    job(cache)
    link.send(passed)


def work_for_ever(link, folder):
    """Save, find, forget and evict large files again and again."""
    cache, size = InversionCache(folder, LIMIT), 40_000
    link.send(None)
    while True:
        save(cache, KEY, size).release()
        entry = cache.find(KEY)
        entry.forget()
        entry.release()
        save(cache, KEY, size).release()
        cache.prune(0)


def work_crowd(link, folder, seed, seconds):
    """Save and read random keys in a cache that holds two of four; sends what went wrong, and how many were read."""
    chance, read, end = random.Random(seed), 0, time.monotonic() + seconds
    cache = InversionCache(folder, 9_000)
    while time.monotonic() < end:
        key = chance.choice([KEY, OTHER, THIRD, "c" * 20])
        try:
            entry = cache.find(key) or save(cache, key)
        except StoreError as error:
            if "in use" not in str(error):
                return link.send((str(error), read))
            continue
        if not holds_its_pages(entry):
            return link.send(("other tensors", read))
        entry.release()
        read += 1
    link.send((None, read))


def work_small_files(link, folder, key, largest, about):
    """Save where no file may be larger than so many bytes; sends the error."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        save(InversionCache(folder, LIMIT), key, about=about)
    except StoreError as error:
        link.send(str(error))
