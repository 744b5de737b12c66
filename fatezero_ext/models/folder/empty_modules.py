"""Modules built without memory and filled with weights from files, once these are known to fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...untrusted.plain_files import shown
from ..file_kinds import Shapes
from ..weight_files import brief
from .weights import Weights

Net = TypeVar("Net", bound=nn.Module)
Built = TypeVar("Built")


def empty(build: Callable[[], Built], source: Path | str) -> Built:
    """Build a module that has shapes and no memory, or what consists of such modules.

    source: the config it is made from, for the error
    Raises ModelError if it cannot be built.
    """
    try:
        with torch.device("meta"):
            return build()
    except ModelError:
        raise
    except Exception as error:  # diffusers and transformers raise anything; what they say is of their own arguments
        raise ModelError(
            f"{source} describes no model that can be built ({type(error).__name__}); the config of the weights "
            f"beside it is needed. Restore the file."
        ) from error


def check_fit(wanted: Shapes, found: Shapes, source: Path | str, kind: str) -> None:
    """Raise ModelError unless these tensors are a module's, by name and by shape.

    source: where they are from; kind: what they are meant to be
    """
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        raise ModelError(
            f"{source} is no complete {kind}: {brief(missing)} missing, {brief(foreign)} unknown. What is missing "
            f"would be left random; use a complete checkpoint, with the config it was saved with."
        )
    if odd := [name for name in wanted if tuple(wanted[name]) != tuple(found[name])]:
        name = odd[0]
        raise ModelError(
            f"{source} does not fit its config: {shown(name)} is {list(found[name])}, and {list(wanted[name])} is "
            f"needed{f'; so {len(odd) - 1} more' if len(odd) > 1 else ''}. Use weights and config of one checkpoint."
        )


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights of a module by name."""
    return {name: tuple(x.shape) for name, x in net.state_dict().items()}


def fill(net: Net, weights: Mapping[str, Tensor], dtype: torch.dtype, source: Path | str) -> Net:
    """Give an empty module these weights, not copied; `check_fit` has checked them."""
    if odd := [name for name, x in weights.items() if not x.is_floating_point()]:
        raise ModelError(
            f"{source} has {shown(odd[0])} in {weights[odd[0]].dtype}, as quantised files do; float16, bfloat16 or "
            f"float32 are needed. Use the model's plain file."
        )
    net.load_state_dict(dict(weights), assign=True)
    for name, buffer in list(net.named_buffers()):
        if buffer.is_meta:  # no file has them: the text encoder's numbers of its positions
            owner = net.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.arange(buffer.shape[-1]).expand(buffer.shape).clone())
    return nn.Module.to(net, dtype).eval()


def fill_known(net: Net, file: Weights, names: Mapping[str, str], dtype: torch.dtype) -> Net:
    """Read the weights of an empty module and skip others, which programs leave beside them.

    names: the module's name -> the file's, of each tensor
    """
    wanted = shapes_of(net)
    return fill_exactly(net, file, {name: key for name, key in names.items() if name in wanted}, dtype)


def fill_exactly(net: Net, file: Weights, names: Mapping[str, str], dtype: torch.dtype) -> Net:
    """Read the weights of an empty module, which are its own and no others.

    names: the module's name -> the file's, of each tensor
    """
    folder = file.path.parent
    check_fit(shapes_of(net), {name: file.shapes[key] for name, key in names.items()}, folder, type(net).__name__)
    weights = file.read(names.values(), dtype)
    return fill(net, {name: weights[key] for name, key in names.items()}, dtype, folder)
