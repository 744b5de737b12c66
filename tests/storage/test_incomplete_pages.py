"""A page without one of its layers is written nowhere, and on disk it is damage."""

import re
import shutil

import pytest
from blake3 import blake3

from fatezero_ext import Capture, Storage
from fatezero_ext.attention.records import named_tensors
from fatezero_ext.cli.main import main
from fatezero_ext.errors import StoreError
from fatezero_ext.storage.disk_cache import entry as cache_entry
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.completeness import incomplete_pages, layers_of, page_name
from fatezero_ext.storage.disk_cache.manifest import FileLine
from fatezero_ext.storage.disk_store import DiskDraft
from fatezero_ext.storage.record_store import MemoryStore

from ..small_runs import STEPS, edited, inverted
from .disk_cache.saved import rewrite

KEY = "ab" * 32


@pytest.fixture(scope="module")
def page(model):
    """One step's page of the reference model."""
    return inverted(model, Storage("features", "ram"), steps=1).trace.store.read(0)


@pytest.fixture(scope="module")
def once_saved(model, tmp_path_factory):
    """A folder with a saved inversion, and its edit."""
    folder = tmp_path_factory.mktemp("saved")
    inverted(model, Storage("features", "disk", cache=InversionCache(folder)))
    return folder, edited(model, inverted(model, Storage("features", "ram")))


@pytest.fixture
def saved(model, once_saved, tmp_path):
    """A controller whose inversion is on disk, its cache, and its edit."""
    folder, wanted = once_saved
    told, cache = [], InversionCache(shutil.copytree(folder, tmp_path / "saved"))
    controller = inverted(model, Storage("features", "disk", cache=cache), on_plan=told.append)
    assert told[0].startswith("found on disk")
    return controller, cache, wanted


def without(page, layer):
    return {at: record for at, record in page.items() if at != layer}


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_store_refuses_a_page_that_lacks_a_layer(page, tmp_path, place):
    layers, cache = frozenset(page), InversionCache(tmp_path)
    last = list(page)[-1]
    with cache.begin(KEY, {}, 0) as draft:
        store = MemoryStore(layers=layers) if place == "ram" else DiskDraft(draft, "as computed", layers)
        with pytest.raises(
            StoreError, match=rf"records of step 3 lack the attention of {last}; all of {len(page)} layers"
        ):
            store.write(3, without(page, last))
        store.write(3, page)
        store.seal()


def test_a_saved_page_that_lacks_a_layer_is_computed_again_and_saved_anew(model, saved, caplog, capsys):
    controller, cache, wanted = saved
    store = controller.trace.store
    page = store.read(2)
    lost = list(page)[3]
    rewrite(store.entry, page_name(2), named_tensors(without(page, lost)))
    (checked,) = cache.verify()
    assert checked.damaged == {"step-002": f"it has no attention of {lost}"}
    assert main(["cache", "verify", "--folder", str(cache.folder)]) == 1
    assert f"step-002: it has no attention of {lost}" in capsys.readouterr().out
    storage = Storage("features", "disk", cache=cache)
    assert edited(model, inverted(model, storage)).equal(wanted)
    (said,) = caplog.messages
    assert f"is damaged (it has no attention of {lost})" in said and said.endswith("Step 2 is computed again.")
    assert edited(model, inverted(model, storage)).equal(wanted)
    (checked,) = cache.verify()
    assert checked.sound


def saved_again(cache, entry, *, about, files, key=KEY):
    """Other entries of the same tensors, under KEY."""
    with cache.begin(key, about, 0) as draft:
        for name, tensors in files.items():
            draft.write(name, tensors)
        return draft.publish()


def test_a_saved_page_that_is_not_there_is_damage(model, saved):
    controller, cache, _ = saved
    entry = controller.trace.store.entry
    files = {name: entry.read(name) for name in entry.names if name != page_name(STEPS - 1)}
    again = saved_again(cache, entry, about=entry.about, files=files)
    checked = {checked.key: checked for checked in cache.verify()}
    assert checked[KEY].damaged == {page_name(STEPS - 1): "it is not there"}
    object.__setattr__(controller.trace.store, "entry", again)
    with pytest.raises(StoreError, match="it is not there.*must be computed again"):
        controller.trace.store.read(STEPS - 1)


def test_pages_of_an_entry_that_does_not_say_its_layers_are_held_against_each_other(model, saved):
    controller, cache, _ = saved
    entry = controller.trace.store.entry
    files = {name: entry.read(name) for name in entry.names}
    lost = sorted(files[page_name(1)])[0]
    del files[page_name(1)][lost]
    about = {name: value for name, value in entry.about.items() if name != "layers"}
    saved_again(cache, entry, about=about, files=files)
    (checked,) = (checked for checked in cache.verify() if checked.key == KEY)
    assert checked.damaged == {page_name(1): f"it has no attention of {lost.partition(':')[0]}"}


def test_a_saved_page_that_holds_no_tensors_under_a_true_checksum_is_damage(model, saved, monkeypatch):
    """As a stranger may write it: the bytes match the manifest, and mean nothing."""
    controller, cache, _ = saved
    entry = controller.trace.store.entry
    files = {name: entry.read(name) for name in entry.names}
    written = cache_entry.write_tensors

    def nothing(path, tensors):
        path.write_bytes(b"nothing")
        return FileLine(nbytes=7, blake3=blake3(b"nothing").hexdigest())

    monkeypatch.setattr(
        cache_entry, "write_tensors", lambda path, x: (nothing if page_name(3) in path.name else written)(path, x)
    )
    saved_again(cache, entry, about=entry.about, files=files)
    (checked,) = (checked for checked in cache.verify() if checked.key == KEY)
    assert checked.damaged == {page_name(3): "it holds no tensors"}


LEVELS_AT_FAULT = {
    "without the noise": (lambda kept: {"latents": kept["latents"]}, "it holds latents, and latents and noise"),
    "of another clip": (
        lambda kept: {name: x[..., :8] for name, x in kept.items()},
        r"its levels are shaped \[6, 3, 4",
    ),
    "too few": (lambda kept: {**kept, "latents": kept["latents"][:3]}, r"its levels are shaped \[3, 3, 4, 16, 16\]"),
    "one too many": (lambda kept: {**kept, "more": kept["noise"]}, "it holds latents, more, noise, and"),
    "of no axes": (lambda kept: {name: x.mean() for name, x in kept.items()}, r"its levels are shaped \[\] and \[\]"),
    "whole numbers": (lambda kept: {name: x.int() for name, x in kept.items()}, "levels in another precision"),
    "not there": (lambda _kept: None, "it is not there"),
}


@pytest.mark.parametrize("fault", LEVELS_AT_FAULT)
def test_saved_levels_that_are_not_whole_are_told_of_and_inverted_anew(model, saved, caplog, fault):
    controller, cache, wanted = saved
    entry, (spoil, reason) = controller.trace.store.entry, LEVELS_AT_FAULT[fault]
    files = {name: entry.read(name) for name in entry.names}
    files["levels"] = spoil(files["levels"])
    about, key = entry.about, entry.key
    entry.release()
    assert cache.remove(key)
    with cache.begin(key, about, 0) as draft:
        for name, tensors in files.items():
            if tensors is not None:
                draft.write(name, tensors)
        draft.publish().release()
    (checked,) = cache.verify()
    if fault != "of another clip":  # which only who inverts it knows
        assert list(checked.damaged) == ["levels"] and re.search(reason, checked.damaged["levels"])
    again = inverted(model, Storage("features", "disk", cache=cache))
    assert re.search(reason, caplog.text) and "The clip is inverted again." in caplog.text
    assert edited(model, again).equal(wanted)
    assert [checked.sound for checked in cache.verify()] == [True]


def test_a_saved_inversion_that_records_no_layer_is_found_again(model, tmp_path, caplog):
    """As of frames so large, or of a capture so narrow, that every layer is left alone: it has no pages."""
    told, storage = [], Storage("features", "disk", cache=InversionCache(tmp_path))
    for _ in range(2):
        inverted(model, storage, capture=Capture(most_cells=1), steps=1, on_plan=told.append)
    assert told[1].startswith("found on disk") and caplog.messages == []


def test_steps_that_an_entry_says_of_itself_are_not_counted_to_without_end():
    about = {"layers": ["up.1.0.cross"], "steps": 10**15}
    assert len(incomplete_pages(about, {})) == 1000


def test_a_scale_alone_is_no_layer():
    assert layers_of(["up.1.0.cross:features:scale", "up.1.0.self:features"]) == {"up.1.0.self"}


def test_a_saved_inversion_whose_manifest_lacks_a_page_is_made_anew(model, saved, caplog):
    """A page that is not named there would be computed again at every edit."""
    controller, cache, wanted = saved
    entry = controller.trace.store.entry
    files = {name: entry.read(name) for name in entry.names if name != page_name(1)}
    key, about = entry.key, entry.about
    entry.release()
    assert cache.remove(key)
    saved_again(cache, entry, about=about, files=files, key=key).release()
    again = inverted(model, Storage("features", "disk", cache=cache))
    (said,) = caplog.messages
    assert "step-001.safetensors is damaged (it is not there)" in said and said.endswith("The clip is inverted again.")
    assert edited(model, again).equal(wanted) and len(caplog.messages) == 1
    assert [checked.sound for checked in cache.verify()] == [True]
