"""What is saved is what is read."""

import gc
import json
import threading
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file

from fatezero_ext.errors import FateZeroError, StoreError
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.tensor_file import DamagedFile

from .saved import ABOUT, KEY, LIMIT, NAMES, holds_its_pages, page, pages, remains, same, save

DTYPES = "float64 float32 float16 bfloat16 int64 int32 int8 uint8 bool".split()


def test_a_saved_inversion_is_found_with_its_tensors_and_what_it_is_about(cache):
    save(cache).release()
    entry = cache.find(KEY)
    assert holds_its_pages(entry) and entry.about == ABOUT and entry.names == NAMES and entry.key == KEY
    assert entry.nbytes == sum(path.stat().st_size for path in (cache.folder / KEY).glob("*.safetensors"))


def test_a_published_entry_equals_the_one_found_later(cache):
    draft = cache.begin(KEY, {"size": (512, 512), 3: None, "ü": [1.5, True]}, 0)
    published, found = draft.publish(), cache.find(KEY)
    assert published.about == found.about == {"size": [512, 512], "3": None, "ü": [1.5, True]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_every_dtype_as_it_was(cache, dtype):
    dtype = getattr(torch, dtype)
    values = torch.arange(-30, 30).to(dtype)
    tensors = {"flat": values, "deep": values.view(3, 4, 5), "single": values[7], "none": values[:0].view(0, 5)}
    with cache.begin(KEY, {}, 0) as draft:
        draft.write("all", tensors)
        entry = draft.publish()
    assert same(load_file(cache.folder / KEY / "all.safetensors"), tensors) and same(entry.read("all"), tensors)


def test_mixed_dtypes_and_odd_sizes_stay_aligned(cache):
    tensors = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.randn(3), "c": torch.randn(5).half()}
    with cache.begin(KEY, {}, 0) as draft:
        draft.write("all", tensors)
        assert same(draft.publish().read("all"), tensors)
    assert same(load_file(cache.folder / KEY / "all.safetensors"), tensors)


def test_views_and_shared_and_learned_tensors_are_saved_as_their_values(cache):
    whole = torch.randn(6, 8)
    tensors = {"turned": whole.T, "half": whole[:, 4:], "again": whole, "same": whole, "grown": whole[:1].expand(5, 8)}
    learned = torch.nn.Parameter(whole)
    with cache.begin(KEY, {}, 0) as draft:
        draft.write("all", {**tensors, "learned": learned})
        got = draft.publish().read("all")
    assert same(got, {**tensors, "learned": whole})


def test_tensors_that_cannot_be_saved_are_refused_and_nothing_is_left(cache):
    draft = cache.begin(KEY, {}, 0)
    with pytest.raises(StoreError, match=r"'x' is of torch.complex64; saving takes .* float16"):
        draft.write("all", {"x": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(StoreError, match="was published or abandoned"):
        draft.publish()
    assert remains(cache) == [] and cache.find(KEY) is None


def test_writing_copies_nothing_and_reading_no_more_than_the_file_once(cache):
    size = 2**20
    draft, large = cache.begin(KEY, {}, size * 4), {"x": torch.zeros(size)}
    tracemalloc.start()
    draft.write("all", large)
    written = tracemalloc.get_traced_memory()[1]
    entry = draft.publish()
    tracemalloc.reset_peak()
    tensors = entry.read("all")
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same(tensors, large) and written < size and read < 2.2 * 4 * size


def test_finding_and_reading_leave_other_files_alone(cache):
    save(cache).release()
    path = cache.folder / KEY / "step-001.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    entry = cache.find(KEY)
    assert same(entry.read("step-000"), pages(KEY)["step-000"])
    with pytest.raises(DamagedFile):
        entry.read("step-001")


def test_what_is_not_there_is_none_and_makes_no_folder(cache):
    assert cache.find(KEY) is None and cache.entries() == [] and list(cache.verify()) == [] and cache.nbytes == 0
    assert cache.prune(0).removed == () and not cache.folder.exists()


def test_a_file_that_the_inversion_does_not_have_is_refused_by_name(cache):
    with pytest.raises(StoreError, match="has no file 'step-009'; it has latents, step-000, step-001"):
        save(cache).read("step-009")


def test_a_draft_left_by_an_exception_leaves_nothing(cache):
    with pytest.raises(ZeroDivisionError), cache.begin(KEY, {}, 0) as draft:
        draft.write("latents", page(0))
        _ = 1 / 0
    assert cache.find(KEY) is None and remains(cache) == []


def test_a_forgotten_draft_leaves_nothing(cache):
    draft = cache.begin(KEY, {}, 0)
    draft.write("latents", page(0))
    assert remains(cache) != []
    del draft
    gc.collect()
    assert remains(cache) == []


def test_a_draft_is_written_once_per_name_and_not_after_its_end(cache):
    draft = cache.begin(KEY, {}, 0)
    draft.write("latents", page(0))
    with pytest.raises(StoreError, match="'latents' was written already"):
        draft.write("latents", page(1))
    entry = draft.publish()
    draft.abandon()
    for late in (lambda: draft.write("more", page(1)), draft.publish):
        with pytest.raises(StoreError, match="published or abandoned"):
            late()
    assert same(entry.read("latents"), page(0)) and same(cache.find(KEY).read("latents"), page(0))


def test_one_thread_begins_another_writes_a_third_publishes_and_releases(cache):
    draft, entries = cache.begin(KEY, {}, 0), []
    for step in (
        lambda: draft.write("latents", page(0)),
        lambda: entries.append(draft.publish()),
        lambda: entries[0].release(),
    ):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert remains(cache) == [] and same(cache.find(KEY).read("latents"), page(0))


def test_saving_a_key_that_is_there_gives_the_entry_that_is_there(cache):
    first = save(cache)
    with cache.begin(KEY, {}, 0) as draft:
        draft.write("other", page(7))
        second = draft.publish()
    assert second.names == first.names and holds_its_pages(second) and not list(cache.folder.glob(".drafts/*"))


def test_the_manifest_is_readable_json(cache):
    with cache.begin(KEY, {"prompt": "une voiture argentée"}, 0) as draft:
        draft.publish()
    text = (cache.folder / KEY / "manifest.json").read_text(encoding="utf-8")
    assert "argentée" in text and json.loads(text)["format"] == 2


@pytest.mark.parametrize(
    "key", ["", "0123456789abcde", "0123456789ABCDEF", "../../etc/passwd0", "g" * 16, KEY + "\n", 7]
)
def test_keys_that_are_no_hexadecimal_digits_are_refused(cache, key):
    for use in (cache.find, cache.remove, lambda key: cache.begin(key, {}, 0)):
        with pytest.raises(StoreError, match="16 to 128 of 0-9 a-f"):
            use(key)
    assert not cache.folder.exists()


@pytest.mark.parametrize("name", ["", "../step", "a/b", "A", "a.b", "a\n", "x" * 101])
def test_file_names_with_other_characters_are_refused(cache, name):
    with pytest.raises(StoreError, match="a-z 0-9 and -"):
        cache.begin(KEY, {}, 0).write(name, {})


@pytest.mark.parametrize("value", [object(), float("nan"), b"x", "\ud800", {1: 1, "1": 2}])
def test_what_cannot_be_read_back_as_json_is_refused_before_any_work(cache, value):
    with pytest.raises(StoreError, match="plain JSON"):
        cache.begin(KEY, {"prompt": value}, 0)
    assert not cache.folder.exists()


def test_errors_are_of_the_one_family():
    assert issubclass(DamagedFile, StoreError) and issubclass(StoreError, FateZeroError)


def test_caches_of_the_same_folder_are_equal_values(cache):
    assert cache == InversionCache(cache.folder, LIMIT) and hash(cache) == hash(InversionCache(cache.folder, LIMIT))
