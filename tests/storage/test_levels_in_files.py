"""Latents of all levels of a long clip, which lie in a file where its inversion is on disk."""

import errno
import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fatezero_ext.inversion import trace
from fatezero_ext.storage import paged_tensor
from fatezero_ext.storage.disk_cache.eviction import claimed_bytes

from ..resumed_inversions import digest
from ..small_runs import edited
from .test_resumed_inversions import WAYS, cache, model, run, stopped, wanted

__all__ = ["cache", "model", "wanted"]


@pytest.mark.parametrize("way", ["features", "recompute", "same level", "reconstruction in parts"])
def test_latents_of_long_clips_lie_in_files_with_the_same_bits(model, cache, wanted, monkeypatch, way):
    """In a run, in one that goes on where it was stopped, and in one that finds them."""
    options = WAYS[way]
    in_memory = wanted(model, **options)
    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    stopped(model, cache, 2, **options)
    went_on, found = (run(model, cache, **options) for _ in range(2))
    for each in (went_on, found):
        assert digest(each.trace) == in_memory
        in_files = {name for name in ("latents", "evaluated") if getattr(each.trace, name) is not None}
        assert in_files <= set(each.trace.paged)
        assert not any(x is each.trace.latents or x is each.trace.evaluated for x in each.trace.held_tensors())
    assert edited(model, found).equal(edited(model, went_on))
    if os.name != "nt":  # where a file that is open keeps its name
        assert not list(cache.folder.glob("tmp*"))


def test_a_disk_without_room_for_such_a_file_leaves_latents_in_memory(model, cache, wanted, monkeypatch, caplog):
    def full(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    monkeypatch.setattr(paged_tensor, "_allocate", full)
    kept = run(model, cache, "recompute")
    assert not kept.trace.paged and digest(kept.trace) == wanted(model, "recompute")
    assert "(No space left on device): they stay in memory" in caplog.text


class MasksAxes(TorchDispatchMode):
    """The numbers of axes of all truth values that are made: a check of all levels makes several of their size."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.bool:
            self.found.add(out.ndim)
        return out


def test_levels_that_are_found_are_in_memory_one_at_a_time(model, cache, monkeypatch):
    let_go, times = paged_tensor.PagedTensor.let_go, []
    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    monkeypatch.setattr(paged_tensor.PagedTensor, "let_go", lambda paged: (times.append(paged), let_go(paged)))
    run(model, cache, "recompute")
    times.clear()
    with MasksAxes() as masks:
        found = run(model, cache, "recompute").trace
    assert max(masks.found) == found.latents.ndim - 1
    assert times.count(found.paged["latents"]) > len(found.latents)


def test_a_copy_of_a_trace_has_the_latents_of_its_files(model, cache, monkeypatch):
    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    kept = run(model, cache, "recompute").trace
    copied = pickle.loads(pickle.dumps(kept))
    assert kept.paged and not copied.paged and copied.latents.equal(kept.latents)
    assert any(x is copied.latents for x in copied.held_tensors())


@pytest.mark.parametrize("way", ["recompute", "reconstruction"])
def test_files_of_levels_take_no_room_that_unfinished_inversions_were_promised(
    model, cache, wanted, monkeypatch, caplog, way
):
    """A disk that then fills loses what they have, and the steps of the run itself."""
    options = WAYS[way]
    in_memory = wanted(model, **options)
    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _at: SimpleNamespace(free=claimed_bytes(cache.folder) or 2**40))
    kept = run(model, cache, **options).trace
    assert not kept.paged and digest(kept) == in_memory
    assert "(No space left on device): they stay in memory" in caplog.text
    with cache.begin("0" * 64, {}, 2**20):  # as by another process
        found = run(model, cache, **options).trace
    assert not found.paged and digest(found) == in_memory
