"""Inversions that were stopped: the next run goes on behind the last finished step, with the same bits."""

import argparse
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from fatezero_ext import InflationSettings, Storage, load_model
from fatezero_ext.errors import ModelError, StoreError, VideoError
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.printable import format_bytes
from fatezero_ext.storage.disk_cache import entry as entries
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.completeness import FINISHED
from fatezero_ext.storage.disk_cache.manifest import MANIFEST

from ..conftest import GOLDEN, relative
from ..resumed_inversions import chains, digest
from ..small_runs import ROUNDING, STEPS, calls_of, clip, edited, inverted

FRAMES = 4


@pytest.fixture(scope="module")
def model():
    """The reference model with norms of each frame, so that a clip may be computed in parts."""
    return load_model(GOLDEN / "model", InflationSettings(norm="frame"))


@pytest.fixture
def cache(tmp_path):
    return InversionCache(tmp_path / "inversions")


@pytest.fixture
def wanted(tmp_path):
    """What a run that nothing stops gives, with its pages."""

    def wanted(model, policy="features", **options):
        return digest(run(model, InversionCache(tmp_path / "clean"), policy, **options).trace)

    return wanted


def run(model, cache, policy="features", precision="as computed", **options):
    return inverted(model, Storage(policy, "disk", precision, cache=cache), latents=clip(1, FRAMES, 8, 8), **options)


def stopped(model, cache, when, error=KeyboardInterrupt, **options):
    """An inversion that is stopped after so many steps."""

    def stop(step):
        if step.done == when:
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        run(model, cache, **options, on_step=stop)


def draft_of(cache):
    (draft,) = [path for path in cache.folder.glob(".drafts/*") if path.is_dir()]
    return draft


def dones(steps, behind=0):
    """The steps that a run reports, without those that it did not compute; give `append` as on_step."""
    found = [step.done for step in steps]
    assert not behind or behind in found  # reported at once
    assert behind < 2 or 1 not in found  # as a run that begins anew reports it
    return [done for done in found if done > behind]


WAYS = {
    "features": {"inversion_passes": 1},
    "plain": {"inversion_passes": 0},
    "maps": {"policy": "maps"},
    "8 bits": {"precision": "int8"},
    "recompute": {"policy": "recompute", "inversion_passes": 1},
    "same level": {"policy": "recompute same level", "inversion_passes": 2},
    "in parts": {"frames_at_once": 3, "inversion_passes": 1},
    "reconstruction": {"reconstruct": Reconstruction(3.0)},
    "reconstruction in parts": {"reconstruct": Reconstruction(3.0), "frames_at_once": 2, "policy": "maps"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_inversion_goes_on_to_the_same_bits_and_computes_no_step_twice(model, cache, wanted, way):
    options = WAYS[way]
    total = STEPS * (2 if "reconstruct" in options else 1)
    for when in (1, total - 2):
        stopped(model, cache, when, **options)
        steps, said = [], []
        run_again = run(model, cache, **options, on_step=steps.append, on_plan=said.append)
        assert dones(steps, when) == list(range(when + 1, total + 1))
        assert said[0].startswith(f"goes on behind step {when} of {total}, where a run of it ended: ")
        assert digest(run_again.trace) == wanted(model, **options)
        (entry,) = cache.entries()
        assert not list(cache.folder.glob(".drafts/*")) and not list(cache.folder.glob(f"*/{FINISHED}*"))
        del run_again
        assert cache.remove(entry.key)


def test_an_inversion_that_is_stopped_again_and_again_ends(model, cache, wanted):
    for when in range(1, STEPS + 1):
        stopped(model, cache, when)
    with calls_of(model.unet.net) as calls:
        last = run(model, cache)
    assert calls == [] and digest(last.trace) == wanted(model)  # all was computed, and only had to be published


def test_edits_of_an_inversion_that_went_on_are_those_of_one_that_did_not(model, cache, tmp_path):
    stopped(model, cache, 2)
    again, clean = run(model, cache), run(model, InversionCache(tmp_path / "clean"))
    assert edited(model, again).equal(edited(model, clean))


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, StoreError, VideoError])
def test_a_run_that_runs_out_of_memory_or_fails_beside_its_numbers_leaves_what_it_finished(model, cache, error):
    stopped(model, cache, 2, error)
    steps = []
    run(model, cache, on_step=steps.append)
    assert dones(steps, 2) == [3, 4, 5]


def test_numbers_that_were_refused_are_not_gone_on_from(model, cache):
    stopped(model, cache, 2, ModelError)
    assert not list(cache.folder.glob(".drafts/*"))


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (0, 2), (2, 0)])
def test_a_run_in_parts_of_other_sizes_goes_on_with_the_pages_in_those_of_the_first(model, cache, before, after):
    """As where a device has less memory free than it had: no more than rounding differs."""
    stopped(model, cache, 3, frames_at_once=before)
    steps = []
    again = run(model, cache, frames_at_once=after, on_step=steps.append)
    assert dones(steps, 3) == [4, 5] and (again.trace.store.parts or [[0, 1, 2, 3]])[0] == list(range(before or 4))
    whole = run(model, InversionCache(cache.folder.parent / "whole"))
    torch.testing.assert_close(again.trace.latents, whole.trace.latents, atol=ROUNDING, rtol=0)
    for step in range(STEPS):
        wanted, parts = whole.trace.store.read(step), range(len(again.trace.store.parts) or 1)
        found = [again.trace.store.read(step, part) for part in parts]
        for at, record in wanted.items():
            values = torch.cat([page[at].kept.values for page in found])
            assert relative(values, record.kept.values) < 1e-3  # frames in another order would differ altogether


def test_latents_alone_go_on_in_parts_of_other_sizes(model, cache):
    stopped(model, cache, 3, policy="recompute", frames_at_once=3)
    steps = []
    run(model, cache, policy="recompute", frames_at_once=2, on_step=steps.append)
    assert dones(steps, 3) == [4, 5]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


HARMS = {"changed": flip, "cut": lambda path: path.write_bytes(b"short"), "missing": Path.unlink}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    ("name", "sound"), [("step-003", 1), ("done-002", 1), ("step-002", 2), ("done-003", 2), ("step-004", 0)]
)
def test_steps_behind_a_damaged_file_are_computed_again(model, cache, wanted, caplog, harm, name, sound):
    """As a power loss leaves them; the second step of the run is the noise schedule's step 3."""
    stopped(model, cache, 3)
    HARMS[harm](draft_of(cache) / f"{name}.safetensors")
    assert cache.prune().removed == ()
    steps = []
    again = run(model, cache, on_step=steps.append)
    assert dones(steps, sound) == list(range(sound + 1, STEPS + 1))
    assert f"Of the unfinished inversion {sound} steps are used" in caplog.text
    assert digest(again.trace) == wanted(model)


def test_a_power_loss_leaves_a_manifest(model, cache, monkeypatch):
    """What was not flushed before its renaming may be empty after it."""
    flushed, fsync, replace = set(), os.fsync, os.replace

    def noted(file):
        flushed.add(os.fstat(file).st_ino)
        fsync(file)

    def lossy(source, target):
        if os.stat(source).st_ino not in flushed:
            Path(source).write_bytes(b"")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lossy)
    stopped(model, cache, 2)
    steps = []
    run(model, cache, on_step=steps.append)
    assert dones(steps, 2) == [3, 4, 5]


@pytest.mark.parametrize("harm", ["changed", "other version"])
def test_a_draft_that_cannot_be_used_is_begun_anew_in_words(model, cache, wanted, caplog, harm):
    stopped(model, cache, 3)
    draft = draft_of(cache)
    if harm == "changed":
        flip(draft / MANIFEST)
    else:
        (draft / MANIFEST).write_text('{"format": 1}')
    steps = []
    again = run(model, cache, on_step=steps.append)
    assert dones(steps) == [1, 2, 3, 4, 5] and digest(again.trace) == wanted(model)
    assert "cannot be used" in caplog.text and "It is begun anew." in caplog.text
    assert not list(cache.folder.glob(".drafts/*"))


def test_what_a_killed_run_was_writing_is_not_part_of_the_inversion(model, cache, wanted):
    stopped(model, cache, 2)
    for stray in ("step-002.safetensors", ".manifest.json.1.partial"):
        (draft_of(cache) / stray).write_bytes(b"half")
    again = run(model, cache)
    assert digest(again.trace) == wanted(model) and all(checked.sound for checked in cache.verify())
    assert not list(cache.folder.glob("*/.*"))


def test_a_living_run_keeps_its_draft_and_another_begins_its_own(model, cache):
    """The second run starts inside a step of the first; both end with the same entry."""
    steps = []

    def start_another(step):
        if step.done == 2:
            run(model, cache, on_step=steps.append)

    first = run(model, cache, on_step=start_another)
    assert dones(steps) == [1, 2, 3, 4, 5] and len(cache.entries()) == 1
    assert digest(first.trace) == digest(run(model, cache).trace)


@pytest.mark.parametrize("way", ["features", "same level", "reconstruction"])
def test_the_bytes_that_a_run_fills_on_disk_are_said_before_it(model, cache, way):
    said, filled = [], []

    def look(step):
        if step.done == STEPS:
            draft = draft_of(cache)
            filled.append((int(draft.name.split(".")[1]), sum(path.stat().st_size for path in draft.iterdir())))

    run(model, cache, **WAYS[way], on_plan=said.append, on_step=look)
    planned, written = filled[0]
    assert f"({format_bytes(planned)} until it is done)" in said[0] and written <= planned + entries.SLACK


def test_an_unfinished_inversion_counts_and_goes_when_it_is_old_or_room_is_needed(model, cache):
    stopped(model, cache, 3)
    draft = draft_of(cache)
    size = sum(path.stat().st_size for path in draft.iterdir())
    assert cache.prune().removed == () and cache.nbytes == size  # no longer as large as it was to be
    assert [gone.nbytes for gone in cache.prune(0).removed] == [size] and cache.nbytes == 0
    stopped(model, cache, 3)
    week = 7 * 24 * 3600
    os.utime(draft_of(cache) / MANIFEST, (time.time() - week - 60,) * 2)
    assert cache.prune().leftovers > 0 and cache.nbytes == 0


def test_an_unfinished_inversion_is_evicted_in_its_turn(model, tmp_path):
    whole = InversionCache(tmp_path / "whole")
    run(model, whole)
    cache = InversionCache(tmp_path / "small", int(whole.nbytes * 1.7))
    stopped(model, cache, 4)
    first = draft_of(cache).name.partition(".")[0]
    inverted(model, Storage("features", "disk", cache=cache), latents=clip(2, FRAMES, 8, 8))
    assert first not in [entry.key for entry in cache.entries()] and not list(cache.folder.glob(".drafts/*"))


def test_a_finished_inversion_makes_unfinished_ones_of_it_worthless(model, cache):
    stopped(model, cache, 2)

    def stop_another(step):
        if step.done == 4:
            stopped(model, cache, 3)

    run(model, cache, on_step=stop_another)  # takes over the first; the second run's own draft stays behind
    assert draft_of(cache)
    cache.prune()
    assert not list(cache.folder.glob(".drafts/*")) and len(cache.entries()) == 1


@pytest.mark.parametrize("step", [1, 3])
def test_a_disk_that_fills_goes_on_by_recompute_and_leaves_nothing(model, cache, caplog, monkeypatch, step):
    stopped(model, cache, step)
    write = entries.write_tensors

    def full(path, tensors):
        if path.name.startswith(f"{FINISHED}00{step + 1}"):
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    monkeypatch.setattr(entries, "write_tensors", full)
    controller = run(model, cache)
    assert "No space left on device" in caplog.text and "edits run the source again" in caplog.text
    assert edited(model, controller).isfinite().all() and not list(cache.folder.glob(".drafts/*"))


def interrupted(_folder):
    raise KeyboardInterrupt


def locked(_folder):
    raise StoreError("the folder has been locked for 60 s.")


@pytest.mark.parametrize("moment", ["levels", "lock", "locked for long"])
def test_what_ends_a_run_while_it_is_published_costs_no_step(model, cache, wanted, caplog, monkeypatch, moment):
    write = entries.write_tensors

    def half(path, tensors):
        if path.name.startswith("levels"):
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        return write(path, tensors)

    with monkeypatch.context() as patched:
        if moment == "levels":
            patched.setattr(entries, "write_tensors", half)
        else:
            patched.setattr(entries, "folder_lock", interrupted if moment == "lock" else locked)
        with nullcontext() if moment == "locked for long" else pytest.raises(KeyboardInterrupt):
            run(model, cache)
    assert cache.entries() == [] and ("edits run the source again" in caplog.text) == (moment == "locked for long")
    with calls_of(model.unet.net) as calls:
        again = run(model, cache)
    assert calls == [] and digest(again.trace) == wanted(model)


def test_a_disk_that_is_full_when_a_run_goes_on_lets_it_recompute_and_costs_no_step(model, cache, monkeypatch):
    stopped(model, cache, 3)
    flip(draft_of(cache) / "step-002.safetensors")  # so that the manifest is written without it

    def full(_path):
        raise OSError(28, "No space left on device")

    said = []
    with monkeypatch.context() as patched:
        patched.setattr(entries, "whole_file", full)
        with pytest.raises(StoreError, match="No space left on device") as _refused:
            run(model, cache)
        controller = run(model, cache, "auto", on_plan=said.append)
    assert "No space left on device" in said[-1] and said[-1].endswith("edits run the source again.")
    assert edited(model, controller).isfinite().all()
    steps = []
    run(model, cache, on_step=steps.append)
    assert dones(steps, 2) == [3, 4, 5]


def test_no_room_for_the_rest_leaves_what_is_there(model, cache, monkeypatch):
    stopped(model, cache, 3)
    small = InversionCache(cache.folder, cache.nbytes // 2)
    with pytest.raises(StoreError, match="raise the limit with FATEZERO_CACHE_GB"):
        run(model, small)
    steps = []
    run(model, cache, on_step=steps.append)
    assert dones(steps, 3) == [4, 5]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to start quickly")
@pytest.mark.parametrize("policy", ["features", "recompute"])
def test_killed_runs_go_on_to_the_clean_bits_and_no_step_on_disk_is_computed_again(model, tmp_path, policy):
    """The whole of it is `python -m tests.resumed_inversions`."""
    options = argparse.Namespace(kills=4, frames=3, side=8, steps=8, passes=1, frames_at_once=2, policy=policy, seed=1)
    found = chains(model, options, tmp_path)
    assert found["kills"] == 4 and found["same_bits"] == found["inversions"] and not found["twice"]
