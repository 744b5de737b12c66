"""A copy of a UNet that can be trained: layers over time are there, and the weights that are trained are its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import SettingsError
from ..models.unet.forward_context import current, running
from ..models.unet.inflate import TemporalLayers
from ..models.unet.model import Pseudo3DUNet
from ..models.unet.temporal import LowRankTemporalConv, Pseudo3DTransformerBlock, PseudoConv3d
from .settings import TuningSettings

SAVED_POSITION = "after_feedforward"
BLOCKS = (ResnetBlock2D, Transformer2DModel)
"""Modules that gradient checkpointing computes again, one at a time."""


def structure(unet: Pseudo3DUNet, settings: TuningSettings, name: str) -> Pseudo3DUNet:
    """Build a UNet of the same kind with layers over time, without memory for its weights.

    Raises SettingsError for the recipe "fatezero" with a UNet that attends over time and has no convolutions, and for
    attention over time in another place than behind the feed-forward: saved folders cannot say so.
    """
    temporal = _layers_over_time(unet, settings)
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(unet.net.config)
        assert isinstance(net, UNet2DConditionModel)
        nn.Module.to(net, unet.dtype)
        twin = Pseudo3DUNet(
            net,
            replace(unet.settings, temporal=temporal),
            unet.latent_format,
            unet.scheduler,
            name,
            unet.built_in,
            unet.objects,
            unet.kernel,
        )
    ranks = _ranks(net)
    # As of the same UNet loaded from its folder, so that both have one digest.
    found = replace(temporal, ranks=ranks, rank=max(ranks.values(), default=None))
    twin.settings = replace(twin.settings, temporal=found)
    return twin


def _ranks(net: nn.Module) -> dict[str, int]:
    """Return the ranks of all low-rank convolutions over time by their places."""
    low_rank = {name: module for name, module in net.named_modules() if isinstance(module, LowRankTemporalConv)}
    return {name.removesuffix(".conv_temporal"): module.down.out_channels for name, module in low_rank.items()}


def trainable(unet: Pseudo3DUNet, settings: TuningSettings, name: str) -> Pseudo3DUNet:
    """Copy a UNet for training. Call it outside of inference mode.

    Weights that are not trained share the memory of `unet`, which stays as it is; those of new layers over time are
    drawn from the number behind the settings' seed (the noise has that), and leave the result as it was, until trained.
    """
    twin = structure(unet, settings, name)
    trained = set(trained_names(twin, settings))
    weights = {
        key: normal(x).clone() if key in trained else normal(x)
        for key, x in unet.net.state_dict(keep_vars=True).items()
    }
    if unet.settings.temporal is None:
        weights |= {key: x.to(unet.device, unet.dtype) for key, x in _new_weights(twin, settings.seed + 1).items()}
    twin.net.load_state_dict(weights, assign=True)
    twin.net.requires_grad_(False)
    for key, parameter in twin.net.named_parameters():
        parameter.requires_grad_(key in trained)
    if settings.gradient_checkpointing:
        recompute_blocks(twin.net)
    return twin


def trained_names(unet: Pseudo3DUNet, settings: TuningSettings) -> tuple[str, ...]:
    """Return the names of all weights that are trained: those of modules whose names end so."""
    return tuple(
        f"{name}.{parameter}"
        for name, module in unet.net.named_modules()
        if name.endswith(tuple(settings.trained)) and not _inside_of(name, settings.trained)
        for parameter, _ in module.named_parameters()
    )


def _inside_of(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a module lies in another one that is trained as a whole."""
    parts = name.split(".")
    return any(".".join(parts[:count]).endswith(endings) for count in range(1, len(parts)))


def normal(x: Tensor) -> Tensor:
    """Return a tensor over the same memory that automatic differentiation may keep.

    Programs load models in inference mode; tensors that are made there cannot be kept for a backward pass. Those that
    were moved to another device since cannot either, though they no longer say so: hence all are made anew.
    """
    x = x.detach()
    shared = torch.empty(0, dtype=x.dtype, device=x.device)
    return shared.set_(x.untyped_storage(), x.storage_offset(), x.size(), x.stride())


def _layers_over_time(unet: Pseudo3DUNet, settings: TuningSettings) -> TemporalLayers:
    there = unet.settings.temporal
    layers = there or settings.new_layers
    if layers.position != SAVED_POSITION:
        raise SettingsError(
            f"the UNet is to attend over time at {layers.position!r}; a model is tuned and saved with "
            f"{SAVED_POSITION!r} alone, as the authors' program reads it. Use that."
        )
    if there is None:
        return layers
    if settings.recipe == "fatezero" and not there.convolutions:
        raise SettingsError(
            f"{unet.name} has no convolutions over time, which the recipe 'fatezero' trains. Use 'tune-a-video'."
        )
    return there


def _new_weights(unet: Pseudo3DUNet, seed: int) -> dict[str, Tensor]:
    """Draw the weights of all layers over time; together they are the identity."""
    generator = torch.Generator().manual_seed(seed)
    return {f"{name}.{key}": x for name, module in unet.net.named_modules() for key, x in _initial(module, generator)}


def _initial(module: nn.Module, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield initial weights of the layers over time that a module of the UNet has.

    Attention starts with a zero output, a convolution as the identity.
    """
    if isinstance(module, Pseudo3DTransformerBlock):
        for name, x in module.attn_temporal.named_parameters():
            is_output = name.startswith("to_out")
            yield f"attn_temporal.{name}", torch.zeros(x.shape) if is_output else _uniform(x.shape, generator)
        yield "norm_temporal.weight", torch.ones(module.norm_temporal.weight.shape)
        yield "norm_temporal.bias", torch.zeros(module.norm_temporal.bias.shape)
    if isinstance(module, PseudoConv3d):
        added = module.conv_temporal
        if isinstance(added, LowRankTemporalConv):
            down = added.down.weight.shape
            yield "conv_temporal.down.weight", torch.randn(down, generator=generator) / down[0]
            yield "conv_temporal.up.weight", torch.zeros(added.up.weight.shape)
        else:
            assert isinstance(added, nn.Conv1d) and added.bias is not None
            yield "conv_temporal.weight", nn.init.dirac_(torch.empty(added.weight.shape))
            yield "conv_temporal.bias", torch.zeros(added.bias.shape)


def _uniform(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a linear layer's weights as PyTorch does by default."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def recompute_blocks(net: nn.Module) -> None:
    """Let the blocks of a network keep their inputs alone, and be computed once more in the backward pass."""
    for module in net.modules():
        if isinstance(module, BLOCKS):
            module.forward = partial(_recomputed, module.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:  # noqa: ANN401 - any block's
    """Call a block whose activations are not kept; in the backward pass it sees the same call of the UNet.

    Backward passes on a GPU run in a thread of their own, where that call would not be known.
    """
    call = current()

    def again(*given: Any, **also: Any) -> Any:  # noqa: ANN401
        with running(call):
            return forward(*given, **also)

    return checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
