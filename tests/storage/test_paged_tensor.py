"""Tensors in files of their own: like others, but not in memory."""

import mmap

import psutil
import pytest
import torch

from fatezero_ext.storage import paged_tensor
from fatezero_ext.storage.paged_tensor import PagedTensor, pieces

MIB = 2**20


def resident():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages leave where the system is told so")
def test_what_was_written_and_read_leaves_memory_and_is_there_again(tmp_path):
    paged = PagedTensor((64, MIB), torch.uint8, tmp_path)
    before = resident()
    paged.tensor.fill_(7)
    filled = resident()
    assert filled - before > 48 * MIB
    paged.let_go()
    assert filled - resident() > 48 * MIB
    assert all(bytes(piece) == b"\7" * len(piece) for piece in pieces(paged))
    assert resident() - before < 16 * MIB
    assert not list(tmp_path.iterdir())


def test_it_is_like_any_other_tensor_and_outlives_its_maker(tmp_path):
    tensor = PagedTensor((3, 2), torch.float16, tmp_path).tensor
    tensor[1] = torch.tensor([1.5, -2])
    assert tensor[1].tolist() == [1.5, -2] and tensor.shape == (3, 2) and tensor.dtype == torch.float16


def test_no_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    """Some systems allocate by writing zeros until the disk is full."""
    monkeypatch.setattr(paged_tensor, "_allocate", lambda *_given: pytest.fail("it was allocated"))
    for size, promised in ((2**60, 0), (1, 2**60)):
        with pytest.raises(OSError, match="No space left"):
            PagedTensor((size,), torch.uint8, tmp_path, promised=promised)
