"""A model to put LoRAs on, and the comparison by hand."""

import copy

import pytest
import torch
from safetensors.torch import save_file

from fatezero_ext import load_toy

from .files import delta, weights_of


@pytest.fixture(scope="session")
def toy():
    return load_toy()


@pytest.fixture
def saved(tmp_path):
    """Write tensors to a safetensors file."""

    def save(weights, name="lora.safetensors", **metadata):
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / name, metadata or None)
        return tmp_path / name

    return save


@pytest.fixture
def merged():
    """The weights of a network with deltas added by hand."""

    def merge(net, pairs, strength=1.0):
        weights = copy.deepcopy(weights_of(net))
        for layer, (up, down) in pairs.items():
            weights[layer] += strength * delta(up, down)
        return weights

    return merge


@pytest.fixture
def same():
    """Check that a network has these weights, to 1e-5."""

    def check(net, wanted):
        got = weights_of(net)
        assert got.keys() == wanted.keys()
        differing = [name for name in got if not torch.allclose(got[name], wanted[name], rtol=1e-5, atol=1e-5)]
        assert differing == []

    return check
