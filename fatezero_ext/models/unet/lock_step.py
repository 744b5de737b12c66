"""A UNet that computes all parts of a clip together: each waits wherever a layer sees all frames.

What a part needs later waits in the computer's memory, so that the device holds one part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.models.unets import unet_2d_blocks as blocks
from torch import Tensor, nn

from ...attention.clip_parts import PartAttention
from .forward_context import Call, running
from .temporal import ClipGroupNorm, ClipStatistics

KNOWN_BLOCKS = (
    blocks.CrossAttnDownBlock2D,
    blocks.DownBlock2D,
    blocks.UNetMidBlock2DCrossAttn,
    blocks.CrossAttnUpBlock2D,
    blocks.UpBlock2D,
)
CPU = torch.device("cpu")
Normalise = Callable[[Tensor], Tensor]
Layers = Generator[ClipGroupNorm, Normalise, None]
"""Layers of a UNet up to the next norm over all frames, whose input is then on top; it is sent what normalises it."""


class Waiting:
    """Tensors of one part of a clip, the one computed last on top; each is brought to the device when it is read.

    One that stays is never copied off the device a second time.
    """

    def __init__(self, x: Tensor) -> None:
        self._device, self._tensors = x.device, [x]

    def push(self, x: Tensor) -> None:
        self._tensors.append(x)

    def pop(self) -> Tensor:
        return self._tensors.pop().to(self._device)

    @property
    def top(self) -> Tensor:
        return self._tensors[-1].to(self._device)

    @property
    def size_below(self) -> torch.Size:
        """Height and width of the tensor below the top one."""
        return self._tensors[-2].shape[2:]

    def leave_device(self) -> None:
        self._tensors = [x.to(CPU) for x in self._tensors]


def what_keeps_parts_apart(net: UNet2DConditionModel) -> str:
    """Return why a UNet cannot be computed so, for an error; '' if it can."""
    of_net = [*net.down_blocks, *net.up_blocks, *(() if net.mid_block is None else (net.mid_block,))]
    if unknown := {type(block).__name__ for block in of_net if type(block) not in KNOWN_BLOCKS}:
        return f"has blocks that are not known here ({', '.join(sorted(unknown))})"
    resnets = [resnet for block in of_net for resnet in block.resnets]
    if any(resnet.time_embedding_norm != "default" or resnet.skip_time_act for resnet in resnets):
        return "has residual blocks that take the time step in another way"
    if any(getattr(block, "s1", None) for block in net.up_blocks):
        return "has FreeU"
    norms = [net.conv_norm_out, *(norm for resnet in resnets for norm in (resnet.norm1, resnet.norm2))]
    passed_over: list[nn.Module] = [net, *of_net, *resnets, *(norm for norm in norms if norm is not None)]
    if any(hasattr(each, "_hf_hook") or each._forward_hooks or each._forward_pre_hooks for each in passed_over):
        return "has hooks on its blocks or norms, which would not be called"
    return ""


def values_that_wait(net: Any, height: int, width: int) -> int:  # noqa: ANN401 - diffusers' UNet
    """Return how many numbers of a frame wait at most: what the arm that goes up reads, and a block's input there."""
    cells, waiting, widest = height * width, net.conv_in.out_channels * height * width, 0
    for block, above in zip(net.down_blocks, reversed(net.up_blocks), strict=True):
        waiting += sum(resnet.out_channels * cells for resnet in block.resnets)
        widest = max(widest, *(resnet.in_channels * cells for resnet in above.resnets))
        if block.downsamplers:
            height, width = -(-height // 2), -(-width // 2)
            cells = height * width
            waiting += block.resnets[-1].out_channels * cells
    return int(waiting + widest)


def predict_together(
    net: UNet2DConditionModel,
    samples: Sequence[Tensor],
    calls: Sequence[Call],
    timestep: int | Tensor,
    text: Tensor,
) -> list[Tensor]:
    """Predict for all parts of a clip as `net` does for the whole one.

    samples: of each part, [(chunks frames), channels, height, width], in its own order of chunks
    calls:   of each part
    text:    [chunks, tokens, width]
    """
    waiting = [Waiting(x) for x in samples]
    runs = [_layers(net, parked, net.time_embedding(net.get_time_embed(x, timestep)), text)
            for parked, x in zip(waiting, samples, strict=True)]  # fmt: skip
    following = _advanced(runs, waiting, calls, len(text), None)
    while following is not None:
        following = _advanced(runs, waiting, calls, len(text), following)
    return [parked.pop() for parked in waiting]


def _advanced(
    runs: Sequence[Layers], waiting: Sequence[Waiting], calls: Sequence[Call], chunks: int, normalise: Normalise | None
) -> Normalise | None:
    """Bring each part to its next norm; return what normalises there, or None at the end."""
    norm, found = None, []
    for run, parked, call in zip(runs, waiting, calls, strict=True):
        if isinstance(call.attend, PartAttention):
            call.attend.begin()
        with running(call):
            norm = _next_norm(run, normalise)
        if norm is not None:
            found.append(norm.statistics(parked.top, chunks))
            parked.leave_device()
    return None if norm is None else norm.normaliser(ClipStatistics.of_all(found))


def _next_norm(run: Layers, normalise: Normalise | None) -> ClipGroupNorm | None:
    try:
        return next(run) if normalise is None else run.send(normalise)
    except StopIteration:
        return None


# Between a push and the next norm no name may hold a tensor of the part: it would stay on the device.


def _layers(net: Any, parked: Waiting, emb: Tensor, text: Tensor) -> Layers:  # noqa: ANN401 - diffusers' UNet
    """Do what the UNet's own `forward` does, for one part.

    Source: diffusers, UNet2DConditionModel and its blocks.
    """
    odd = any(side % 2**net.num_upsamplers for side in parked.top.shape[-2:])
    emb = emb if net.time_embed_act is None else net.time_embed_act(emb)
    parked.push(net.conv_in(2 * parked.pop() - 1.0 if net.config.center_input_sample else parked.pop()))
    for block in net.down_blocks:  # each tensor stays, for the arm that goes up
        for resnet, attention in _units(block):
            yield from _resnet(resnet, parked, emb, stays=True)
            _attend(attention, parked, text)
        for sampler in block.downsamplers or ():
            parked.push(sampler(parked.top))
    if net.mid_block is None:
        parked.push(parked.top)
    else:
        first, *others = net.mid_block.resnets
        yield from _resnet(first, parked, emb, stays=True)
        for attention, resnet in zip(net.mid_block.attentions, others, strict=True):
            _attend(attention, parked, text)
            yield from _resnet(resnet, parked, emb)
    for block in net.up_blocks:
        for resnet, attention in _units(block):
            parked.push(torch.cat([parked.pop(), parked.pop()], dim=1))
            yield from _resnet(resnet, parked, emb)
            _attend(attention, parked, text)
        for sampler in block.upsamplers or ():
            size = parked.size_below if odd else None
            parked.push(sampler(parked.pop(), size))
    if net.conv_norm_out is not None:
        normalise = yield net.conv_norm_out
        parked.push(net.conv_act(normalise(parked.pop())))
    parked.push(net.conv_out(parked.pop()))


def _units(block: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - diffusers' blocks
    """Yield each residual block with the transformer behind it, or None."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _resnet(resnet: Any, parked: Waiting, emb: Tensor, *, stays: bool = False) -> Layers:  # noqa: ANN401 - diffusers'
    """Put a residual block's output on top; in place of its input, unless that `stays`."""
    normalise = yield resnet.norm1
    parked.push(_first_half(resnet, normalise(parked.top), emb))
    normalise = yield resnet.norm2
    second = resnet.conv2(resnet.dropout(resnet.nonlinearity(normalise(parked.pop()))))
    x = parked.top if stays else parked.pop()
    x = x if resnet.conv_shortcut is None else resnet.conv_shortcut(x)
    parked.push((x + second) / resnet.output_scale_factor)


def _first_half(resnet: Any, x: Tensor, emb: Tensor) -> Tensor:  # noqa: ANN401 - diffusers' block
    x = resnet.conv1(resnet.nonlinearity(x))
    if resnet.time_emb_proj is None:
        return x
    return x + resnet.time_emb_proj(resnet.nonlinearity(emb))[:, :, None, None]


def _attend(transformer: Any, parked: Waiting, text: Tensor) -> None:  # noqa: ANN401 - diffusers' module
    if transformer is not None:
        parked.push(transformer(parked.pop(), encoder_hidden_states=text, return_dict=False)[0])
