"""Latents of all levels of a long clip, which lie in a file where its inversion is on disk."""

import errno

import pytest

from fatezero_ext.inversion import trace
from fatezero_ext.storage import paged_tensor

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
    assert not list(cache.folder.glob("tmp*"))  # their files have no names


def test_a_disk_without_room_for_such_a_file_leaves_latents_in_memory(model, cache, wanted, monkeypatch, caplog):
    def full(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trace, "WORTH_A_FILE", 1)
    monkeypatch.setattr(paged_tensor, "_allocate", full)
    kept = run(model, cache, "recompute")
    assert not kept.trace.paged and digest(kept.trace) == wanted(model, "recompute")
    assert "(No space left on device): they stay in memory" in caplog.text
