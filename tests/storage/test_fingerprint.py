"""The digest of weights notices every change, and nothing else."""

import json

import pytest
import torch
from blake3 import blake3

from fatezero_ext import digests
from fatezero_ext.digests import combined, tensor_digest, weights_digest

BLOCK = 1024  # bytes that BLAKE3 hashes as one leaf of its tree
MANY = 2**18  # bytes that are hashed in several threads
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8, torch.bool)


def random_bytes(count, seed=0):
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def digest(x):
    return weights_digest({"w": x})


@pytest.mark.parametrize("count", [0, 1, BLOCK, MANY + 13])
def test_it_is_blake3_of_name_dtype_shape_and_bytes(count):
    content = random_bytes(count)
    head = json.dumps(["w", "torch.uint8", [count]]).encode()
    assert digest(content) == blake3(head + content.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_it(threads, monkeypatch):
    content = random_bytes(3 * MANY + 5)
    wanted = digest(content)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert digest(content) == wanted


@pytest.mark.parametrize("size", [1, BLOCK, 3 * BLOCK + 5, MANY])
def test_pieces_do_not_change_it(size, monkeypatch):
    content = random_bytes(3 * BLOCK + 5)
    wanted = digest(content)
    monkeypatch.setattr(digests, "PIECE_BYTES", size)
    assert digest(content) == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_weights_on_an_accelerator_have_the_same_digest(monkeypatch):
    monkeypatch.setattr(digests, "PIECE_BYTES", MANY)
    x = random_bytes(3 * MANY + 5)
    assert digest(x.cuda()) == digest(x)


@pytest.mark.parametrize("count", [5, BLOCK, MANY + 3])
def test_every_single_bit_changes_it(count):
    content = random_bytes(count)
    found = {digest(content)}
    places = range(count) if count < 100 else [0, 7, 8, count // 2, count - 9, count - 1]
    for place in places:
        for bit in range(8):
            other = content.clone()
            other[place] ^= 1 << bit
            found.add(digest(other))
    assert len(found) == 1 + 8 * len(places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_signs_of_any_weights_change_it(dtype):
    x = torch.randn(3 * BLOCK, generator=torch.Generator().manual_seed(0)).to(dtype)
    pairs = [[1, 3], [0, 1], [0, 1, 2, 3], [5, 9, 1001, 1003], [3, 7, 11, 15]]
    others = [-x]
    for pair in pairs:
        other = x.clone()
        other[pair] *= -1
        others.append(other)
    assert len({digest(each) for each in (x, *others)}) == 2 + len(pairs)


def test_order_changes_it():
    x = torch.randn(512, 64, 3, generator=torch.Generator().manual_seed(0))
    swapped = x.clone()
    swapped[0, 0, 0], swapped[0, 0, 1] = x[0, 0, 1], x[0, 0, 0]
    far = x.clone()
    far[0], far[-1] = x[-1], x[0]
    others = [swapped, far, x.flip(0), x.roll(1, 0), x[torch.randperm(512, generator=torch.Generator().manual_seed(1))]]
    assert len({digest(each) for each in (x, *others)}) == 6


def test_name_dtype_shape_and_owner_of_the_same_bytes_change_it():
    x, y = torch.ones(4, 6, dtype=torch.float16), torch.zeros(4, 6, dtype=torch.float16)
    named = [
        {"a": x, "b": y},
        {"a": y, "b": x},
        {"a": x, "c": y},
        {"a": x},
        {"a": x.view(6, 4), "b": y},
        {"a": x.view(torch.bfloat16), "b": y},
        {"a": x.view(torch.int16), "b": y},
        {"a": x, "b": y, "c": torch.empty(0)},
        {"a": x, "b": y, "c": torch.empty(0, 2)},
        {},
    ]
    assert len({weights_digest(each) for each in named}) == len(named)


def test_a_name_that_looks_like_the_next_tensor_is_another_name():
    empty, x = torch.empty(0), torch.ones(3)
    heads = ['a", "torch.float32", [0]]["b', "a torch.float32 [0]\nb"]
    assert len({weights_digest(each) for each in ({"a": empty, "b": x}, *({head: x} for head in heads))}) == 3


def test_zeros_of_other_counts_differ():
    assert len({digest(torch.zeros(count)) for count in range(20)}) == 20


def test_order_of_names_does_not_matter():
    x, y = torch.ones(2), torch.zeros(3)
    assert weights_digest({"a": x, "b": y}) == weights_digest({"b": y, "a": x})


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_in_memory_does_not_matter(dtype):
    content = random_bytes(64 * 96 * 8 + 64)
    if dtype is torch.bool:
        content &= 1
    x = content[: 64 * 96 * dtype.itemsize].view(dtype).view(64, 96)
    aside = torch.cat([x.view(torch.uint8)[:, :8], x.view(torch.uint8)], 1).view(dtype)[:, 8 // dtype.itemsize :]
    wanted = digest(x)
    assert digest(x.t().contiguous().t()) == wanted
    assert not aside.is_contiguous() and digest(aside) == wanted
    if dtype.itemsize == 1:
        moved = torch.cat([content[:1], content])[1 : 1 + 64 * 96]
        assert digest(moved.view(dtype).view(64, 96)) == wanted
    assert digest(x.t()) != wanted


def test_a_view_that_starts_between_words_has_the_digest_of_its_copy():
    x = torch.randn(3 * BLOCK).half()
    for start in (1, 2, 3, 4):
        assert digest(x[start:]) == digest(x[start:].clone())


def test_scalars_and_empty_tensors_have_one():
    assert len({digest(torch.tensor(value)) for value in (0.0, -0.0, 1.0)}) == 3
    assert digest(torch.tensor(1.0)) != digest(torch.tensor([1.0]))


def test_parts_are_combined_by_name_and_value():
    x = torch.ones(2)
    parts = [{"a": x, "b": 1}, {"a": x, "b": 2}, {"a": x + 1, "b": 1}, {"b": x, "a": 1}, {"a": x}]
    assert len({combined(each) for each in parts}) == len(parts)
    assert combined({"b": 1, "a": x}) == combined({"a": tensor_digest(x), "b": 1})


def test_it_stays_what_it_is():
    """Inversions saved by an earlier program are found by it."""
    x = torch.arange(3000, dtype=torch.int32)
    assert weights_digest({"conv.weight": x, "bias": x[:3]})[:16] == "95e4c982ca6f0db9"
