"""Models that differ in a few weights and share the memory of all others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Value = TypeVar("Value")


def sharing_copy(value: Value, net: nn.Module) -> Value:
    """A deep copy of `value`, of which `net` is a part, that takes over the tensors of `net` as they are."""
    kept = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(value, kept)


def renew(net: nn.Module, changes: Mapping[str, Tensor]) -> None:
    """Give `net` parameters of its own: those in `changes`, and for the rest new ones over the same memory.

    Moving one of two models to a device then leaves the other where it is.
    """
    for name, parameter in list(net.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        weight = changes.get(name, parameter.data)
        net.get_submodule(owner)._parameters[leaf] = nn.Parameter(weight, requires_grad=False)
