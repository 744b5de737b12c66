"""Layers that see more than one frame: clip-wide normalisation, temporal convolution, temporal attention.

Each is diffusers' own layer with one more step, made by changing the class of the existing module: weights, their names
and their hooks stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from . import forward_context as call

TemporalPosition = Literal["after_spatial", "after_cross", "after_feedforward"]
TEMPORAL_POSITIONS: tuple[TemporalPosition, ...] = get_args(TemporalPosition)
LOW_RANK_KERNEL = 3


@dataclass(frozen=True)
class ClipStatistics:
    """Mean and variance of the groups of a clip, or of a part of it, [chunks, groups] each, of `count` numbers."""

    mean: Tensor
    variance: Tensor
    count: int

    @classmethod
    def of_all(cls, parts: Sequence[ClipStatistics]) -> ClipStatistics:
        """Return those of all parts together.

        Source: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
        """
        count = sum(part.count for part in parts)
        mean = torch.stack([part.mean * (part.count / count) for part in parts]).sum(0)
        spread = [(part.variance + (part.mean - mean) ** 2) * (part.count / count) for part in parts]
        return cls(mean, torch.stack(spread).sum(0), count)


class ClipGroupNorm(nn.GroupNorm):
    """Group norm whose statistics run over all frames of a clip, as on a `b c f h w` tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [(chunks frames), channels, height, width]."""
        frames = call.current().frames
        if frames == 1:
            return super().forward(x)
        clip = rearrange(x, "(b f) c h w -> b c (f h) w", f=frames)
        clip = F.group_norm(clip, self.num_groups, self.weight, self.bias, self.eps)
        return rearrange(clip, "b c (f h) w -> (b f) c h w", f=frames)

    def statistics(self, x: Tensor, chunks: int) -> ClipStatistics:
        """Return the statistics of a part of a clip, x [(chunks frames), channels, height, width]."""
        groups = _wide(x).unflatten(0, (chunks, -1)).unflatten(2, (self.num_groups, -1))
        variance, mean = torch.var_mean(groups, dim=(1, 3, 4, 5), correction=0)
        return ClipStatistics(mean, variance, x.numel() // (chunks * self.num_groups))

    def normaliser(self, of_clip: ClipStatistics) -> Callable[[Tensor], Tensor]:
        """Return what normalises a part of a clip by the statistics of all of it, in the shape of `statistics`."""
        channels = self.num_channels // self.num_groups
        scale = (of_clip.variance + self.eps).rsqrt().repeat_interleave(channels, 1) * _wide(self.weight)
        shift = _wide(self.bias) - of_clip.mean.repeat_interleave(channels, 1) * scale

        def normalised(x: Tensor) -> Tensor:
            frames = len(x) // len(scale)
            by, to = (each.repeat_interleave(frames, 0)[:, :, None, None] for each in (scale, shift))
            return torch.addcmul(to, _wide(x), by).to(x.dtype)

        return normalised


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 if it is narrower: as group norms compute."""
    return x.float() if x.dtype.itemsize < torch.float32.itemsize else x


class LowRankTemporalConv(nn.Module):
    """Low-rank residual convolution over the frames, x + up(down(x)); the identity until trained.

    rank: of the inner tensor; reduced to half the channels where it exceeds them, as in the published checkpoints
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        rank = rank if rank <= channels else channels // 2
        padding = LOW_RANK_KERNEL // 2
        self.down = nn.Conv1d(channels, rank, LOW_RANK_KERNEL, padding=padding, bias=False)
        self.up = nn.Conv1d(rank, channels, LOW_RANK_KERNEL, padding=padding, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [(chunks height width), channels, frames] over its frames."""
        return x + self.up(self.down(x))


def identity_temporal_conv(channels: int, kernel: int) -> nn.Conv1d:
    """Make a convolution over the frames that starts as the identity."""
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2)
    nn.init.dirac_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def layers_over_time(net: nn.Module) -> frozenset[OverTime]:
    """Return the modules of a UNet in which one frame reaches another by a layer over time; none before training.

    Biases may have any value, as in raw checkpoints of the authors: they add the same to each frame.
    """
    over_time = (module for module in net.modules() if isinstance(module, PseudoConv3d | Pseudo3DTransformerBlock))
    return frozenset(module for module in over_time if not module.leaves_frames_apart)


class PseudoConv3d(nn.Conv2d):
    """A 2-D convolution per frame, then a 1-D convolution over the frames of each cell.

    cells_axis: an axis of what `over_time` takes, along which it may be computed a piece at a time
    """

    cells_axis = 2
    conv_temporal: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [(chunks frames), channels, height, width]."""
        x = super().forward(x)
        return x if call.current().leaves_out(self) else self.over_time(x, call.current().frames)

    def over_time(self, x: Tensor, frames: int) -> Tensor:
        """Convolve x [(chunks frames), channels, height, width] over its frames alone."""
        height, width = x.shape[-2:]
        cells = rearrange(x, "(b f) c h w -> (b h w) c f", f=frames)
        return rearrange(self.conv_temporal(cells), "(b h w) c f -> (b f) c h w", h=height, w=width)

    @property
    def leaves_frames_apart(self) -> bool:
        added = self.conv_temporal
        if isinstance(added, LowRankTemporalConv):
            return not added.up.weight.any()
        assert isinstance(added, nn.Conv1d)
        diagonal = added.weight[..., added.kernel_size[0] // 2].diagonal()
        return bool(diagonal.eq(1).all()) and int(added.weight.count_nonzero()) == len(diagonal)


class Pseudo3DTransformerBlock(BasicTransformerBlock):
    """diffusers' transformer block with temporal attention at one of three places.

    cells_axis: as of `PseudoConv3d`
    """

    cells_axis = 1
    attn_temporal: Attention
    norm_temporal: nn.LayerNorm
    temporal_position: TemporalPosition

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        *_unused: object,
        **_more: object,
    ) -> Tensor:
        """Map hidden states [(chunks frames), cells, width] to the same shape."""
        x, running = hidden_states, call.current()
        for place, stage in self.stages(encoder_hidden_states, attention_mask, encoder_attention_mask):
            x = stage(x)
            if place == self.temporal_position and not running.leaves_out(self):
                x = self.over_time(x, running.frames)
        return x

    def stages(
        self, text: Tensor | None, mask: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Iterator[tuple[TemporalPosition, Callable[[Tensor], Tensor]]]:
        """Yield what the block does frame by frame, and each place behind which it may attend over time."""
        yield "after_spatial", lambda x: x + self.attn1(self.norm1(x), attention_mask=mask)
        to_text = {"encoder_hidden_states": text, "attention_mask": text_mask}
        yield "after_cross", lambda x: x + self.attn2(self.norm2(x), **to_text)
        yield "after_feedforward", lambda x: x + self.ff(self.norm3(x))

    def over_time(self, x: Tensor, frames: int) -> Tensor:
        """Attend over the frames of each cell, x [(chunks frames), cells, width]."""
        cells = x.shape[1]
        tracks = rearrange(x, "(b f) n c -> (b n) f c", f=frames)
        tracks = tracks + self.attn_temporal(self.norm_temporal(tracks))
        return rearrange(tracks, "(b n) f c -> (b f) n c", n=cells)

    @property
    def leaves_frames_apart(self) -> bool:
        return not self.attn_temporal.to_out[0].get_parameter("weight").any()


OverTime = PseudoConv3d | Pseudo3DTransformerBlock
"""Modules with a layer over time."""
