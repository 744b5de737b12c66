"""A UNet that computes all parts of a clip together: each waits wherever a layer sees all frames.

What a part needs later waits in the computer's memory, so that the device holds one part at a time. A norm needs the
statistics of all parts; a layer over time is computed for some cells of all frames, then for others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets import unet_2d_blocks as blocks
from torch import Tensor, nn

from ...attention.clip_parts import PartAttention, rows_of
from .forward_context import Call, current, running
from .temporal import ClipGroupNorm, ClipStatistics, OverTime, Pseudo3DTransformerBlock

KNOWN_BLOCKS = (
    blocks.CrossAttnDownBlock2D,
    blocks.DownBlock2D,
    blocks.UNetMidBlock2DCrossAttn,
    blocks.CrossAttnUpBlock2D,
    blocks.UpBlock2D,
)
CPU = torch.device("cpu")
Normalise = Callable[[Tensor], Tensor]
JointLayer: TypeAlias = ClipGroupNorm | OverTime
Layers = Generator[JointLayer, Normalise | None, None]
"""Layers of a UNet up to the next one that sees all frames, whose input is then on top. Behind a norm it is sent what
normalises that; the output of a layer over time takes the input's place."""


class Waiting:
    """Tensors of one part of a clip, the one computed last on top; each is brought to the device when it is read.

    One that stays is never copied off the device a second time.
    """

    def __init__(self, x: Tensor) -> None:
        self.device, self._tensors = x.device, [x]

    def push(self, x: Tensor) -> None:
        self._tensors.append(x)

    def pop(self) -> Tensor:
        return self._tensors.pop().to(self.device)

    @property
    def top(self) -> Tensor:
        return self._tensors[-1].to(self.device)

    @property
    def waiting_top(self) -> Tensor:
        """The tensor on top where it waits."""
        return self._tensors[-1]

    @property
    def size_below(self) -> torch.Size:
        """Height and width of the tensor below the top one."""
        return self._tensors[-2].shape[2:]

    def leave_device(self) -> None:
        self._tensors = [x.to(CPU) for x in self._tensors]


def what_keeps_parts_apart(net: UNet2DConditionModel) -> str:
    """Return why a UNet cannot be computed so, for an error; '' if it can."""
    of_net = [*net.down_blocks, *net.up_blocks, *(() if net.mid_block is None else (net.mid_block,))]
    transformers = [each for block in of_net for each in getattr(block, "attentions", None) or ()]
    over_time = [each for each in transformers if any(isinstance(m, Pseudo3DTransformerBlock) for m in each.modules())]
    if unknown := _unknown(of_net, KNOWN_BLOCKS) | _unknown(over_time, (Transformer2DModel,)):
        return f"has blocks that are not known here ({', '.join(sorted(unknown))})"
    resnets = [resnet for block in of_net for resnet in block.resnets]
    if any(resnet.time_embedding_norm != "default" or resnet.skip_time_act for resnet in resnets):
        return "has residual blocks that take the time step in another way"
    if any(getattr(block, "s1", None) for block in net.up_blocks):
        return "has FreeU"
    norms = [net.conv_norm_out, *(norm for resnet in resnets for norm in (resnet.norm1, resnet.norm2))]
    passed_over: list[nn.Module] = [net, *of_net, *resnets, *(norm for norm in norms if norm is not None)]
    passed_over += [*over_time, *(block for each in over_time for block in each.transformer_blocks)]
    if any(hasattr(each, "_hf_hook") or each._forward_hooks or each._forward_pre_hooks for each in passed_over):
        return "has hooks on its blocks or norms, which would not be called"
    return ""


def _unknown(modules: Sequence[nn.Module], known: Sequence[type]) -> set[str]:
    return {type(module).__name__ for module in modules if type(module) not in known}


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
    frames: Sequence[Sequence[int]],
    timestep: int | Tensor,
    text: Tensor,
) -> list[Tensor]:
    """Predict for all parts of a clip as `net` does for the whole one.

    samples: of each part, [(chunks frames), channels, height, width], in its own order of chunks
    calls:   of each part
    frames:  their numbers in the clip, of each part
    text:    [chunks, tokens, width]
    """
    waiting = [Waiting(x) for x in samples]
    runs = [_layers(net, parked, net.time_embedding(net.get_time_embed(x, timestep)), text)
            for parked, x in zip(waiting, samples, strict=True)]  # fmt: skip
    normalise: Normalise | None = None
    while reached := _advanced(runs, waiting, calls, len(text), normalise):
        layer, found = reached
        if isinstance(layer, ClipGroupNorm):
            normalise = layer.normaliser(ClipStatistics.of_all(found))
        else:
            normalise = None
            _compute_over_time(layer, waiting, frames, len(text))
    return [parked.pop() for parked in waiting]


def _advanced(
    runs: Sequence[Layers], waiting: Sequence[Waiting], calls: Sequence[Call], chunks: int, normalise: Normalise | None
) -> tuple[JointLayer, list[ClipStatistics]] | None:
    """Bring each part to the next layer that sees all frames; return that with the parts' statistics, None at the end.

    normalise: of the norm that the parts were brought to before
    """
    layer, found = None, list[ClipStatistics]()
    for run, parked, call in zip(runs, waiting, calls, strict=True):
        if isinstance(call.attend, PartAttention):
            call.attend.begin()
        with running(call):
            layer = _next_joint_layer(run, normalise)
        if isinstance(layer, ClipGroupNorm):
            found.append(layer.statistics(parked.top, chunks))
        if layer is not None:
            parked.leave_device()
    return None if layer is None else (layer, found)


def _next_joint_layer(run: Layers, normalise: Normalise | None) -> JointLayer | None:
    try:
        return run.send(normalise)
    except StopIteration:
        return None


def _compute_over_time(
    layer: OverTime, waiting: Sequence[Waiting], frames: Sequence[Sequence[int]], chunks: int
) -> None:
    """Compute a layer over time for all frames: as many rows at once as the largest part has numbers for, or one."""
    tops = [parked.waiting_top.unflatten(0, (chunks, -1)) for parked in waiting]
    device, count, axis = waiting[0].device, sum(map(len, frames)), layer.cells_axis + 1
    at_once = max(1, tops[0].shape[axis] * max(map(len, frames)) // count)
    for strips in zip(*(top.split(at_once, axis) for top in tops), strict=True):
        clip = strips[0].new_empty(chunks, count, *strips[0].shape[2:])
        for numbers, strip in zip(frames, strips, strict=True):
            clip[:, rows_of(numbers)] = strip
        output = layer.over_time(clip.flatten(0, 1).to(device), count).unflatten(0, (chunks, -1)).to(CPU)
        for numbers, strip in zip(frames, strips, strict=True):
            strip.copy_(output[:, rows_of(numbers)])  # the rows of a tensor that waits


# Between a push and the next layer that sees all frames no name may hold a tensor of the part: it would stay on the
# device.


def _layers(net: Any, parked: Waiting, emb: Tensor, text: Tensor) -> Layers:  # noqa: ANN401 - diffusers' UNet
    """Do what the UNet's own `forward` does, for one part.

    Source: diffusers, UNet2DConditionModel and its blocks.
    """
    odd = any(side % 2**net.num_upsamplers for side in parked.top.shape[-2:])
    emb = emb if net.time_embed_act is None else net.time_embed_act(emb)
    parked.push(net.conv_in(2 * parked.pop() - 1.0 if net.config.center_input_sample else parked.pop()))
    yield from _over_time(net.conv_in)
    for block in net.down_blocks:  # each tensor stays, for the arm that goes up
        for resnet, attention in _units(block):
            yield from _resnet(resnet, parked, emb, stays=True)
            yield from _attend(attention, parked, text)
        for sampler in block.downsamplers or ():
            parked.push(sampler(parked.top))
            yield from _over_time(sampler.conv)
    if net.mid_block is None:
        parked.push(parked.top)
    else:
        first, *others = net.mid_block.resnets
        yield from _resnet(first, parked, emb, stays=True)
        for attention, resnet in zip(net.mid_block.attentions, others, strict=True):
            yield from _attend(attention, parked, text)
            yield from _resnet(resnet, parked, emb)
    for block in net.up_blocks:
        for resnet, attention in _units(block):
            parked.push(torch.cat([parked.pop(), parked.pop()], dim=1))
            yield from _resnet(resnet, parked, emb)
            yield from _attend(attention, parked, text)
        for sampler in block.upsamplers or ():
            size = parked.size_below if odd else None
            parked.push(sampler(parked.pop(), size))
            yield from _over_time(sampler.conv)
    if net.conv_norm_out is not None:
        normalise = yield from _normaliser(net.conv_norm_out)
        parked.push(net.conv_act(normalise(parked.pop())))
    parked.push(net.conv_out(parked.pop()))
    yield from _over_time(net.conv_out)


def _units(block: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - diffusers' blocks
    """Yield each residual block with the transformer behind it, or None."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _normaliser(norm: Normalise) -> Generator[JointLayer, Normalise | None, Normalise]:
    """Return what normalises the tensor on top: a norm over all frames once their statistics are known."""
    if not isinstance(norm, ClipGroupNorm):
        return norm
    normalise = yield norm
    assert normalise is not None
    return normalise


def _over_time(module: Any) -> Layers:  # noqa: ANN401 - diffusers' modules
    """Wait for a module's layer over time, if that is computed for all parts."""
    if module in current().apart:
        yield module


def _resnet(resnet: Any, parked: Waiting, emb: Tensor, *, stays: bool = False) -> Layers:  # noqa: ANN401 - diffusers'
    """Put a residual block's output on top; in place of its input, unless that `stays`."""
    normalise = yield from _normaliser(resnet.norm1)
    parked.push(resnet.conv1(resnet.nonlinearity(normalise(parked.top))))
    yield from _over_time(resnet.conv1)
    if resnet.time_emb_proj is not None:
        parked.push(parked.pop() + resnet.time_emb_proj(resnet.nonlinearity(emb))[:, :, None, None])
    normalise = yield from _normaliser(resnet.norm2)
    parked.push(resnet.conv2(resnet.dropout(resnet.nonlinearity(normalise(parked.pop())))))
    yield from _over_time(resnet.conv2)
    second = parked.pop()
    x = parked.top if stays else parked.pop()
    x = x if resnet.conv_shortcut is None else resnet.conv_shortcut(x)
    parked.push((x + second) / resnet.output_scale_factor)


def _attend(transformer: Any, parked: Waiting, text: Tensor) -> Layers:  # noqa: ANN401 - diffusers' module
    """Put a transformer's output on top in place of its input; without one, do nothing."""
    if transformer is None:
        return
    if current().apart.isdisjoint(transformer.transformer_blocks):
        parked.push(transformer(parked.pop(), encoder_hidden_states=text, return_dict=False)[0])
        return
    parked.push(_tokens(transformer, parked.top))
    for block in transformer.transformer_blocks:
        if block not in current().apart:
            parked.push(block(parked.pop(), encoder_hidden_states=text))
            continue
        for place, stage in block.stages(text):
            parked.push(stage(parked.pop()))
            if place == block.temporal_position:
                yield block
    parked.push(_picture(transformer, parked.pop(), parked.pop()))


def _tokens(transformer: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - diffusers' module
    """Return what a transformer's blocks get of its input: [(chunks frames), cells, width]."""
    x = transformer.norm(x)
    if transformer.use_linear_projection:
        projected: Tensor = transformer.proj_in(x.flatten(2).transpose(1, 2))
        return projected
    return transformer.proj_in(x).flatten(2).transpose(1, 2).contiguous()


def _picture(transformer: Any, tokens: Tensor, x: Tensor) -> Tensor:  # noqa: ANN401 - diffusers' module
    """Return a transformer's output, of what its blocks gave and its input."""
    if transformer.use_linear_projection:
        return x + transformer.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + transformer.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous())
