"""Copies of networks that share the memory of the weights they do not change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import ModelError

Structure = TypeVar("Structure")


@torch.no_grad()
def with_weights(net: nn.Module, structure: Structure, changes: Mapping[str, Tensor]) -> Structure:
    """Copy `structure`, whose networks are `net` or parts of it, deeply with some of the weights changed.

    structure: `net` itself, or what refers to it and to its modules
    changes:   new weights by their names in `net`, each of its old shape; cast to the old dtype and device
    The copy has its own parameter objects, so that moving one network leaves the other in place; unchanged ones share
    the old memory. Raises ModelError for a name or a shape that `net` does not have.
    """
    weights = dict(net.named_parameters())
    for name, value in changes.items():
        found = list(weights[name].shape) if name in weights else "not there"
        if found != list(value.shape):
            raise ModelError(
                f"the new weight {name} is {list(value.shape)}; in the model it is {found}. Give weights of this model."
            )
    twins: dict[int, object] = {id(old): _over_the_same_memory(old) for old in (*net.parameters(), *net.buffers())}
    twins |= {
        id(weights[name]): nn.Parameter(new.to(weights[name]), requires_grad=False) for name, new in changes.items()
    }
    return copy.deepcopy(structure, twins)


def _over_the_same_memory(old: Tensor) -> Tensor:
    view = old.detach()
    return nn.Parameter(view, requires_grad=False) if isinstance(old, nn.Parameter) else view
