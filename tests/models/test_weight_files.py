"""Files of weights as training programs leave them, and pickles that take far more memory than they have bytes."""

import random
import struct
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pickle import BINGET, BINPUT, BINUNICODE, EMPTY_DICT, EMPTY_LIST, GLOBAL, MARK, PROTO, REDUCE, STOP, TUPLE, TUPLE1

import numpy as np
import pytest
import torch

from fatezero_ext.errors import ModelError
from fatezero_ext.models.weight_files import WeightFile


@pytest.fixture
def trained(tmp_path):
    """A checkpoint with a number of numpy's beside its tensors."""
    path = tmp_path / "trained.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(2)}, "loss": np.float64(1)}, path)
    return path


def test_names_that_another_program_allowed_stay_allowed(trained):
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([np.dtype, np.dtypes.Float64DType])
    try:
        before = set(torch.serialization.get_safe_globals())
        WeightFile(trained)
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def test_threads_that_load_at_once_do_not_take_names_from_each_other(trained):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: WeightFile(trained).shapes, range(60)))
    assert found == [{"x": (2,)}] * 60


def number(value):
    return b"J" + struct.pack("<i", value)


def text(letters):
    return BINUNICODE + struct.pack("<I", len(letters)) + letters.encode()


def named(module, name):
    return GLOBAL + f"{module}\n{name}\n".encode()


def kept(place):
    return BINPUT + bytes([place])


def again(place):
    return BINGET + bytes([place])


STORAGE = MARK + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(1) + TUPLE + b"Q"
SHAPE = MARK + number(1) * 99 + TUPLE
ENCODINGS = (
    named("_codecs", "encode") + kept(0) + text("x" * 2000) + text("latin1") + b"\x86" + kept(1),
    again(0) + again(1) + REDUCE,
)
SIZES = (named("torch", "Size") + kept(0) + SHAPE + TUPLE1 + kept(1), again(0) + again(1) + REDUCE)
TENSORS = (
    named("torch._utils", "_rebuild_tensor_v2")
    + kept(0)
    + MARK
    + STORAGE
    + number(0)
    + SHAPE
    + SHAPE
    + b"\x89"
    + named("collections", "OrderedDict")
    + b")"
    + REDUCE
    + TUPLE
    + kept(1),
    again(0) + again(1) + REDUCE,
)
LISTED = (TENSORS[0].replace(SHAPE, EMPTY_LIST + MARK + number(1) * 99 + b"e"), TENSORS[1])
ONE_CELL = TENSORS[0].replace(SHAPE, number(1) + TUPLE1)
RESHAPED = (
    ONE_CELL + MARK + STORAGE + number(0) + (EMPTY_LIST + MARK + number(1) * 99 + b"e") * 2 + TUPLE + kept(2),
    again(0) + again(1) + REDUCE + again(2) + b"b",
)


def archive(path, content):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/byteorder", "little")
        file.writestr("a/data/0", bytes(4))
        file.writestr("a/version", "3\n")
    return path


@pytest.mark.parametrize("first, repeated", [ENCODINGS, SIZES, TENSORS, LISTED, RESHAPED])
def test_a_small_pickle_that_makes_large_things_again_and_again_is_refused(tmp_path, first, repeated):
    content = PROTO + b"\x02" + b"}" + text("x") + EMPTY_LIST + MARK + first + repeated * 3 + b"e" + b"s" + STOP
    with pytest.raises(ModelError, match="damaged pickle, or one that holds more than tensors|over and over"):
        WeightFile(archive(tmp_path / "bomb.ckpt", content))


@pytest.mark.parametrize(
    "beside",
    [
        {"global_step": 5},
        {
            "epoch": 1.5,
            "name": "mine",
            "best": None,
            "loss": np.float64(1),
            "history": [1, 2],
            "ema": {"x": torch.ones(1)},
        },
        {"state_dict": {}},
        {"state_dict": {"step": 3}},
    ],
)
def test_what_stands_beside_the_tensors_is_passed_over(tmp_path, beside):
    torch.save({"x": torch.zeros(2), **beside}, tmp_path / "x.ckpt")
    assert WeightFile(tmp_path / "x.ckpt").shapes == {"x": (2,)}
    torch.save({"state_dict": {"x": torch.zeros(2), **beside}, "y": torch.zeros(3)}, tmp_path / "x.ckpt")
    assert WeightFile(tmp_path / "x.ckpt").shapes == {"x": (2,)}


@pytest.mark.parametrize(
    "held", [{}, {"step": 5}, {"state_dict": {}}, {5: torch.zeros(1)}, {"state_dict": {"a": 1}, "b": 2}]
)
def test_a_pickle_without_tensors_by_name_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="a state dict is needed"):
        WeightFile(tmp_path / "x.ckpt")


def test_schedules_and_devices_beside_a_state_dict_are_passed_over(tmp_path):
    """Lightning's checkpoints hold the milestones of a MultiStepLR as a Counter."""
    weights = {"x": torch.zeros(2)}
    schedule = {"milestones": Counter([30, 30, 80]), "gamma": 0.1}
    devices = [torch.device("cpu"), torch.device("cuda", 1)]
    torch.save({"state_dict": weights, "lr_schedulers": [schedule] * 3, "devices": devices}, tmp_path / "x.ckpt")
    assert WeightFile(tmp_path / "x.ckpt").shapes == {"x": (2,)}


def test_the_state_of_random_numbers_beside_a_state_dict_is_passed_over(tmp_path):
    """Python's own is a tuple of 625 numbers."""
    states = {"python": random.getstate(), "torch": torch.get_rng_state()}
    torch.save({"state_dict": {"x": torch.zeros(2)}, "random": states}, tmp_path / "x.ckpt")
    assert WeightFile(tmp_path / "x.ckpt").shapes == {"x": (2,)}


def test_tuples_that_are_too_long_are_called_so(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(2)}, "seen": tuple(range(1000))}, tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="tuples of more than 1,000 things, with all that they hold"):
        WeightFile(tmp_path / "x.ckpt")


COUNTER = named("collections", "Counter") + kept(0)
LARGE = EMPTY_DICT + MARK + b"".join(number(each) + number(0) for each in range(20_000)) + b"u" + TUPLE1 + kept(1)


@pytest.mark.parametrize(
    "content",
    [
        COUNTER + LARGE + (again(0) + again(1) + REDUCE) * 500,
        COUNTER + text("abc") + TUPLE1 + REDUCE,
        COUNTER + EMPTY_LIST + MARK + (MARK + number(1) * 900 + TUPLE) * 9 + b"e" + TUPLE1 + REDUCE,
        COUNTER + b")" + REDUCE + MARK + EMPTY_DICT + TUPLE + b"b",
        named("torch", "device") + text("cuda" * 99) + TUPLE1 + REDUCE,
        named("torch", "device") + EMPTY_LIST + TUPLE1 + REDUCE,
    ],
)
def test_counters_and_devices_of_other_arguments_are_refused(tmp_path, content):
    content = PROTO + b"\x02" + b"}" + text("x") + EMPTY_LIST + MARK + content + b"e" + b"s" + STOP
    with pytest.raises(ModelError, match="damaged pickle, or one that holds more than tensors"):
        WeightFile(archive(tmp_path / "bomb.ckpt", content))
