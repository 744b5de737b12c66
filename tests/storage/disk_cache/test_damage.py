"""No damage gets past finding and reading."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fatezero_ext.errors import StoreError
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.manifest import FileLine, encode, read_manifest
from fatezero_ext.storage.disk_cache.tensor_file import DamagedFile

from .saved import ABOUT, KEY, LIMIT, NAMES, OTHER, holds_its_pages, pages, remains, same, save

FILES = ("manifest.json", *(f"{name}.safetensors" for name in NAMES))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache with one entry, and the entry's files by name."""
    cache = InversionCache(tmp_path_factory.mktemp("whole"), LIMIT)
    save(cache).release()
    return cache, {name: (cache.folder / KEY / name).read_bytes() for name in FILES}


def noticed(cache):
    """Whether finding or reading refuses the entry; what they give must be right."""
    entry = cache.find(KEY)
    if entry is None:
        return True
    damaged = False
    for name, tensors in pages(KEY).items():
        try:
            assert same(entry.read(name), tensors)
        except DamagedFile:
            damaged = True
    entry.release()
    return damaged


@st.composite
def damages(draw):
    """A function that changes a file's bytes in some way."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "zero"]))
    where = draw(st.floats(0, 1, exclude_max=True))
    bit, more = draw(st.integers(0, 7)), draw(st.binary(min_size=1, max_size=9))

    def damage(contents):
        at = int(where * len(contents))
        if kind == "cut":
            return contents[:at]
        if kind == "flip":
            return contents[:at] + bytes([contents[at] ^ 1 << bit]) + contents[at + 1 :]
        if kind == "insert":
            return contents[:at] + more + contents[at:]
        return contents[:at] + bytes(len(contents) - at)

    return damage


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), damage=damages())
def test_any_change_of_any_byte_is_noticed(whole, file, damage):
    cache, contents = whole
    restore(cache, contents)
    assert not noticed(cache)
    changed = damage(contents[file])
    (cache.folder / KEY / file).write_bytes(changed)
    assert noticed(cache) == (changed != contents[file])


def restore(cache, contents):
    shutil.rmtree(cache.folder / KEY, ignore_errors=True)
    (cache.folder / KEY).mkdir()
    for name, original in contents.items():
        (cache.folder / KEY / name).write_bytes(original)


@pytest.mark.parametrize("pair", [(1, 2), (2, 3), (0, 1)])
def test_swapped_files_are_noticed(whole, pair):
    cache, contents = whole
    restore(cache, contents)
    first, second = (cache.folder / KEY / FILES[index] for index in pair)
    first.write_bytes(contents[second.name])
    second.write_bytes(contents[first.name])
    assert noticed(cache)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("instead", ["nothing", "folder", "pipe", "dangling link"])
def test_missing_files_and_things_in_their_place_are_noticed(whole, file, instead):
    cache, contents = whole
    restore(cache, contents)
    path = cache.folder / KEY / file
    path.unlink()
    make = {"folder": os.mkdir, "pipe": os.mkfifo, "dangling link": lambda path: os.symlink("nowhere", path)}
    make.get(instead, lambda path: None)(path)
    assert noticed(cache)


@pytest.mark.parametrize("file", FILES[1:])
@pytest.mark.parametrize("instead", ["nothing", "pipe"])
def test_files_that_vanish_while_the_entry_is_used_are_noticed(whole, file, instead):
    cache, contents = whole
    restore(cache, contents)
    entry = cache.find(KEY)
    (cache.folder / KEY / file).unlink()
    if instead == "pipe":
        os.mkfifo(cache.folder / KEY / file)
    with pytest.raises(DamagedFile, match=r"is damaged \(.*\); what it held must be computed again"):
        entry.read(file.removesuffix(".safetensors"))


def test_entries_in_each_others_folders_are_noticed(cache, caplog):
    save(cache, KEY).release()
    save(cache, OTHER).release()
    (cache.folder / KEY).rename(cache.folder / "swap")
    (cache.folder / OTHER).rename(cache.folder / KEY)
    (cache.folder / "swap").rename(cache.folder / OTHER)
    assert cache.find(KEY) is None and cache.find(OTHER) is None
    assert caplog.text.count("its key is that of another folder") == 2


def test_an_entry_that_vanishes_while_it_is_used_is_damaged(cache):
    entry = save(cache)
    shutil.rmtree(cache.folder / KEY)
    with pytest.raises(DamagedFile, match="No such file"):
        entry.read("latents")
    entry.forget()
    entry.release()
    assert remains(cache) == []


def test_an_unusable_entry_is_reported_once_removed_and_made_anew(cache, caplog):
    save(cache).release()
    (cache.folder / KEY / "latents.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        assert cache.find(KEY) is None and cache.find(KEY) is None
    (record,) = caplog.records
    assert str(cache.folder / KEY) in record.getMessage() and "its file latents cannot be read" in record.getMessage()
    assert record.getMessage().endswith("It is removed and will be made anew.")
    assert not (cache.folder / KEY).exists() and remains(cache) == []
    assert holds_its_pages(save(cache))


def test_publishing_replaces_an_unusable_entry(cache):
    draft = cache.begin(KEY, {}, 0)
    draft.write("latents", pages(KEY)["latents"])
    (cache.folder / KEY).mkdir()
    assert same(draft.publish().read("latents"), pages(KEY)["latents"])


@pytest.mark.parametrize("format", [1, 3])
def test_an_entry_of_another_format_is_reported_and_removed(cache, caplog, format):
    save(cache).release()
    path = cache.folder / KEY / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": format}))
    assert cache.entries()[0].problem == f"it is of format {format}, this program reads format 2"
    assert cache.find(KEY) is None and f"of format {format}, this program reads format 2" in caplog.text
    assert cache.entries() == []


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"\xff\xfe",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 5000,
    b" " * (4 * 2**20 + 1),
    b'{"format": true}',
    b'{"format": "1"}',
    b'{"format": 1e400}',
    b'{"format": NaN}',
]
CHANGES = [
    {"key": OTHER},
    {"key": None},
    {"about": []},
    {"about": None},
    {"files": []},
    {"files": {"../../latents": {"nbytes": 1, "blake3": "0" * 64}}},
    {"files": {"/etc/passwd": {"nbytes": 1, "blake3": "0" * 64}}},
    {"files": {"latents\n": {"nbytes": 1, "blake3": "0" * 64}}},
    {"files": {"latents": {"nbytes": -1, "blake3": "0" * 64}}},
    {"files": {"latents": {"nbytes": 1.0, "blake3": "0" * 64}}},
    {"files": {"latents": {"nbytes": True, "blake3": "0" * 64}}},
    {"files": {"latents": {"nbytes": 10**30, "blake3": "0" * 64}}},
    {"files": {"latents": {"nbytes": 1, "blake3": "0" * 63}}},
    {"files": {"latents": {"nbytes": 1, "blake3": "0" * 64, "more": 1}}},
    {"files": {"latents": None}},
    {"more": 1},
    {"blake3": 7},
]


@pytest.mark.parametrize("contents", HOSTILE + CHANGES, ids=lambda contents: str(contents)[:40])
def test_hostile_manifests_are_listed_and_refused_without_a_crash(cache, contents):
    save(cache).release()
    path = cache.folder / KEY / "manifest.json"
    if isinstance(contents, dict):
        contents = json.dumps(json.loads(path.read_text()) | contents, indent=1).encode()
    path.write_bytes(contents)
    (listed,) = cache.entries()
    assert listed.problem and listed.about == {} and not list(cache.verify())[0].sound
    assert cache.find(KEY) is None and not (cache.folder / KEY).exists()


def test_a_strangers_file_with_a_right_checksum_is_damaged(cache):
    entry = save(cache)
    contents = b'\x10\0\0\0\0\0\0\0{"x":{"dtype":7}'
    (cache.folder / KEY / "latents.safetensors").write_bytes(contents)
    line = FileLine(nbytes=len(contents), blake3=blake3(contents).hexdigest())
    manifest = read_manifest(cache.folder / KEY)
    changed = manifest.model_copy(update={"files": {**manifest.files, "latents": line}})
    (cache.folder / KEY / "manifest.json").write_bytes(encode(changed))
    with pytest.raises(DamagedFile, match="its bytes do not match|instead of"):
        entry.read("latents")
    with pytest.raises(DamagedFile, match="holds no tensors"):
        cache.find(KEY).read("latents")


def test_links_are_removed_and_what_they_lead_to_is_kept(cache, tmp_path):
    save(cache).release()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (cache.folder / OTHER).symlink_to(tmp_path / "precious")
    assert cache.find(OTHER) is None
    (cache.folder / OTHER).symlink_to(tmp_path / "precious")
    assert {entry.key for entry in cache.prune(0).removed} == {KEY, OTHER}
    assert not os.path.lexists(cache.folder / OTHER)
    assert (tmp_path / "precious" / "file").read_text() == "kept" and remains(cache) == []


def test_a_forgotten_entry_is_read_by_its_users_and_made_anew_by_others(cache, caplog):
    mine, others = save(cache), cache.find(KEY)
    (cache.folder / KEY / "step-000.safetensors").unlink()
    with pytest.raises(DamagedFile):
        others.read("step-000")
    others.forget()
    mine.forget()
    assert same(mine.read("step-001"), pages(KEY)["step-001"])
    assert cache.find(KEY) is None and "has no manifest.json, as after damage was found in it" in caplog.text
    assert holds_its_pages(save(cache))


def test_what_was_made_anew_meanwhile_is_not_forgotten(cache):
    mine, others = save(cache), cache.find(KEY)
    others.forget()
    save(cache, about={**ABOUT, "prompt": "made anew"}).release()
    mine.forget()
    assert cache.find(KEY).about["prompt"] == "made anew"


def test_forgetting_fails_in_words(cache, monkeypatch):
    entry = save(cache)

    def refuse(*_given, **_named):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match=r"cannot be written \(Permission denied\)"):
            entry.forget()
    assert holds_its_pages(entry) and holds_its_pages(cache.find(KEY))


def test_verify_names_every_damaged_file_and_spares_the_others(cache):
    save(cache, KEY).release()
    save(cache, OTHER).release()
    path = cache.folder / KEY / "step-000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (cache.folder / KEY / "step-001.safetensors").unlink()
    found = {checked.key: checked for checked in cache.verify()}
    assert found[OTHER].sound and found[KEY].damaged == {
        "step-000": "its bytes do not match their checksum",
        "step-001": "No such file or directory",
    }
    assert remains(cache) == []
