"""Saved inversions that are damaged, or that could not be saved as a whole: edits stay right."""

import errno
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fatezero_ext import Storage
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.tensor_file import DamagedFile
from fatezero_ext.storage.disk_store import DiskStore
from fatezero_ext.storage.record_store import Recomputed

from ..conftest import relative
from ..small_runs import STEPS, calls_of, edited, inverted

KINDS = [("features", "as computed"), ("features", "int8"), ("maps", "float16")]
PAGE = 829_000  # bytes at least of a page of features of the reference model; levels are smaller


def on_disk(cache, policy="features", precision="as computed"):
    return Storage(policy, "disk", precision, cache=cache)


@pytest.fixture
def cache(tmp_path):
    return InversionCache(tmp_path / "inversions")


@pytest.fixture(scope="module")
def clean(model):
    """Edits of attention in memory."""
    return {kind: edited(model, inverted(model, Storage(kind[0], precision=kind[1]))) for kind in KINDS}


def file_of(cache, name):
    (found,) = cache.folder.glob(f"*/{name}")
    return found


def flip(path, share=0.5):
    """Change some bytes of a file."""
    contents = bytearray(path.read_bytes())
    at = int(len(contents) * share)
    contents[at : at + 4] = bytes(byte ^ 0xFF for byte in contents[at : at + 4])
    path.write_bytes(contents)


def all_sound(cache):
    return all(checked.sound for checked in cache.verify())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_page_is_computed_again_and_its_inversion_saved_anew(model, cache, clean, caplog, kind):
    controller = inverted(model, on_disk(cache, *kind))
    flip(file_of(cache, "step-002.safetensors"))
    assert not all_sound(cache)
    assert edited(model, controller).equal(clean[kind])
    (said,) = caplog.messages
    assert "step-002.safetensors is damaged" in said and said.endswith("Step 2 is computed again.")
    with calls_of(model.unet.net) as calls:
        again = inverted(model, on_disk(cache, *kind))
    assert len(calls) == STEPS and caplog.messages[1].endswith("It is removed and will be made anew.")
    assert edited(model, again).equal(clean[kind]) and all_sound(cache)
    assert edited(model, controller).equal(clean[kind])  # which reads what was made anew, or computes it
    with calls_of(model.unet.net) as calls:
        assert edited(model, inverted(model, on_disk(cache, *kind))).equal(clean[kind])
    assert calls == [6] * STEPS


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_pages_cut_short_or_gone_while_in_use_are_computed_again(model, cache, clean, damage):
    controller = inverted(model, on_disk(cache))
    for step in (0, 3):
        path = file_of(cache, f"step-{step:03d}.safetensors")
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: 1000 if damage == "cut" else 0])
    assert edited(model, controller).equal(clean[KINDS[0]])
    assert edited(model, inverted(model, on_disk(cache))).equal(clean[KINDS[0]]) and all_sound(cache)


def test_every_page_damaged_is_every_page_computed_again(model, cache, clean, caplog):
    controller = inverted(model, on_disk(cache))
    for step in range(STEPS):
        flip(file_of(cache, f"step-{step:03d}.safetensors"), 0.9)
    assert edited(model, controller).equal(clean[KINDS[0]])
    assert len(caplog.messages) == STEPS - 1  # one step reads nothing


def test_an_entry_deleted_under_its_controller_is_computed_again(model, cache, clean, caplog):
    controller = inverted(model, on_disk(cache))
    (entry,) = cache.entries()
    shutil.rmtree(cache.folder / entry.key)
    assert edited(model, controller).equal(clean[KINDS[0]])
    assert len(caplog.messages) == STEPS - 1 and caplog.messages[0].endswith("Step 0 is computed again.")


@pytest.mark.parametrize("name", ["levels.safetensors", "manifest.json"])
def test_damaged_levels_or_a_damaged_manifest_are_inverted_anew(model, cache, clean, caplog, name):
    inverted(model, on_disk(cache))
    flip(file_of(cache, name))
    with calls_of(model.unet.net) as calls:
        controller = inverted(model, on_disk(cache))
    assert len(calls) == STEPS and len(caplog.messages) == 1
    assert edited(model, controller).equal(clean[KINDS[0]]) and all_sound(cache)


def test_damaged_levels_of_an_inversion_in_use_hurt_neither_user(model, cache, clean):
    first = inverted(model, on_disk(cache))
    flip(file_of(cache, "levels.safetensors"))
    second = inverted(model, on_disk(cache))
    assert edited(model, first).equal(clean[KINDS[0]]) and edited(model, second).equal(clean[KINDS[0]])
    with calls_of(model.unet.net) as calls:  # it was saved anew, though the first user still had it
        inverted(model, on_disk(cache))
    assert len(calls) == 0 and all_sound(cache)


def test_records_that_could_not_be_read_once_are_read_again_and_nothing_is_forgotten(
    model, cache, clean, caplog, monkeypatch
):
    controller, failed, read = inverted(model, on_disk(cache)), [], DiskStore.read

    def failing(store, step, part):
        if step not in failed:
            failed.append(step)
            raise DamagedFile(cache.folder / f"step {step}", "Too many open files")
        return read(store, step, part)

    monkeypatch.setattr(DiskStore, "read", failing)
    assert edited(model, controller).equal(clean[KINDS[0]])
    assert failed and caplog.messages == [] and all_sound(cache)


def test_a_damaged_page_of_a_reconstruction_is_computed_again(model, cache):
    options = {"reconstruct": Reconstruction(guidance=3.0), "steps": 3}
    wanted = edited(model, inverted(model, Storage("features"), **options))
    controller = inverted(model, on_disk(cache), **options)
    flip(file_of(cache, "step-001.safetensors"))
    assert relative(edited(model, controller), wanted) < 1e-4
    assert [checked.problem for checked in cache.verify()] == [
        "it has no manifest.json, as after damage was found in it"
    ]


@contextmanager
def files_no_larger_than(nbytes):
    """As on a disk that is full from there on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most", [0, PAGE // 2])
def test_a_full_disk_keeps_the_inversion_and_edits_run_the_source_again(model, cache, clean, caplog, most):
    cache.begin("ab" * 32, {}, 1).abandon()  # the folder is there, with its tag
    caplog.clear()
    with files_no_larger_than(most):
        controller = inverted(model, on_disk(cache))
    (said,) = caplog.messages
    assert "cannot be saved" in said and "its edits run the source again" in said
    assert isinstance(controller.trace.store, Recomputed)
    assert edited(model, controller).equal(clean[KINDS[0]])
    assert cache.entries() == [] and list((cache.folder / ".drafts").iterdir()) == []


@pytest.mark.slow
def test_a_damaged_page_of_a_cache_that_cannot_be_changed_is_computed_again_each_time(
    model, cache, clean, caplog, monkeypatch
):
    controller = inverted(model, on_disk(cache))
    flip(file_of(cache, "step-001.safetensors"))

    def refuse(*_given, **_named):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for _ in range(2):
            assert edited(model, controller).equal(clean[KINDS[0]])
    assert [said.endswith("The damaged inversion stays in the cache.") for said in caplog.messages] == [False, True] * 2


def test_pages_on_disk_are_aligned_as_torch_s_own(model, cache):
    store = inverted(model, on_disk(cache, "features", "float16"), steps=1).trace.store
    values = [record.kept.values for record in store.read(0).values()]
    assert all(value.data_ptr() % 64 == 0 for value in values) and values[0].dtype == torch.float16
