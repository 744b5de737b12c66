"""Turn a diffusers UNet2DConditionModel into a pseudo-3D one, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from diffusers.models import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn

from ...attention.controlled_layer import ControlledLayer
from ...attention.key_frames import DEFAULT_KEY_FRAMES, KeyFrame, resolve_key_frames
from ...attention.sites import LayerAddress, Stage
from ...errors import ModelError, SettingsError
from .processors import CrossAttention, SparseCausalAttention
from .temporal import (
    TEMPORAL_POSITIONS,
    ClipGroupNorm,
    LowRankTemporalConv,
    Pseudo3DTransformerBlock,
    PseudoConv3d,
    TemporalPosition,
    identity_temporal_conv,
)

if TYPE_CHECKING:
    from diffusers.models.attention_processor import AttnProcessor


@dataclass(frozen=True)
class TemporalLayers:
    """Temporal layers that a UNet gets.

    rank:         rank of the low-rank temporal convolutions; None: full 1-D convolutions
    position:     where transformer blocks attend over time, "after_spatial", "after_cross" or "after_feedforward"
    ranks:        ranks of single convolutions by their names in the UNet, if a checkpoint has its own
    convolutions: whether there are temporal convolutions; Tune-A-Video's UNets attend over time and have none
    """

    rank: int | None = None
    position: TemporalPosition = "after_feedforward"
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    convolutions: bool = True

    def __post_init__(self) -> None:
        if self.position not in TEMPORAL_POSITIONS:
            raise SettingsError(
                f"temporal attention at {self.position!r} is unknown; it is one of {', '.join(TEMPORAL_POSITIONS)}. "
                f"Choose one of these."
            )
        if self.rank is not None and self.rank < 1:
            raise SettingsError(
                f"the temporal rank is {self.rank}; at least 1 is needed. None means full convolutions."
            )


@dataclass(frozen=True)
class InflationSettings:
    """Settings for turning a 2-D UNet into a pseudo-3D one.

    key_frames:       frames whose keys self-attention reads (see `resolve_key_frames`); "auto": each frame's own for
                      the built-in model, which was trained on single pictures, (-1, "first") as published for others
    least_sc_channel: transformer blocks narrower than this keep each frame's own keys
    norm:             "clip": resnet group norms run over all frames, as in the authors' program; "frame": per frame
    temporal:         trained temporal layers to add, or None: untrained ones are the identity and are left out
    """

    key_frames: tuple[KeyFrame, ...] | Literal["auto"] = "auto"
    least_sc_channel: int = 0
    norm: Literal["clip", "frame"] = "clip"
    temporal: TemporalLayers | None = None

    def __post_init__(self) -> None:
        if self.key_frames != "auto":
            resolve_key_frames(self.key_frames, frames=1)
        if self.norm not in ("clip", "frame"):
            raise SettingsError(f"unknown norm {self.norm!r}; it is 'clip' (over all frames) or 'frame'. Choose one.")

    def resolved(self, *, built_in: bool = False) -> InflationSettings:
        """Return the same settings with the key frames that "auto" stands for."""
        if self.key_frames != "auto":
            return self
        return replace(self, key_frames=() if built_in else DEFAULT_KEY_FRAMES)


def inflate(net: UNet2DConditionModel, settings: InflationSettings) -> tuple[ControlledLayer, ...]:
    """Inflate `net` in place; its 2-D weights keep their names, new ones contain `_temporal`.

    Returns the attention layers under control in the order the UNet runs them (32 for Stable Diffusion 1.x).
    Raises ModelError if the UNet has blocks that this method does not know.
    """
    _check_kind(net)
    settings = settings.resolved()
    layers = tuple(layer for block in _transformer_blocks(net) for layer in _bind(block, settings))
    if settings.norm == "clip":
        for norm in _resnet_norms(net):
            norm.__class__ = ClipGroupNorm
    if settings.temporal is not None:
        _add_temporal_layers(net, settings.temporal)
    return layers


def _check_kind(net: UNet2DConditionModel) -> None:
    """Raise ModelError unless `net` is a plain text-conditioned UNet with transformers, not inflated yet."""
    config = net.config
    wants = [name for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type") if config[name]]
    if wants:
        raise ModelError(
            f"the UNet is conditioned on more than text ({', '.join(f'{n}={config[n]!r}' for n in wants)}), as SDXL "
            f"and others are; Stable Diffusion 1.x / 2.x is needed. Use a UNet of that kind."
        )
    processors = list(net.attn_processors.values())
    if any(isinstance(processor, SparseCausalAttention) for processor in processors):
        raise ModelError("the UNet is inflated already; inflating is done once, in place. Load the UNet again.")
    if not any(True for _ in _transformer_blocks(net)):
        raise ModelError(
            f"the UNet has no transformer blocks ({', '.join(config['down_block_types'])}); cross-attention to words "
            f"is needed. Use a Stable Diffusion 1.x / 2.x UNet."
        )


@dataclass(frozen=True)
class _Block:
    module: BasicTransformerBlock
    stage: Stage
    block: int
    unit: int
    level: int


def _transformer_blocks(net: UNet2DConditionModel) -> Iterator[_Block]:
    """List transformer blocks in running order; level 0 is the latents' own resolution."""
    deepest = len(net.down_blocks) - 1
    stages: list[tuple[Stage, int, nn.Module, int]] = [("down", i, block, i) for i, block in enumerate(net.down_blocks)]
    stages += [("mid", 0, net.mid_block, deepest)] if net.mid_block is not None else []
    stages += [("up", i, block, deepest - i) for i, block in enumerate(net.up_blocks)]
    for stage, index, block, level in stages:
        modules = [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
        for unit, module in enumerate(modules):
            yield _Block(module, stage, index, unit, level)


def _bind(block: _Block, settings: InflationSettings) -> Iterator[ControlledLayer]:
    module = block.module
    if module.norm_type != "layer_norm" or module.attn2 is None or module.only_cross_attention:
        raise ModelError(
            f"the UNet's {block.stage} block {block.block} is not of Stable Diffusion 1.x / 2.x kind "
            f"(norm {module.norm_type!r}); FateZero needs plain self- and cross-attention. Use an SD 1.x or 2.x UNet."
        )
    width = _width(module)
    key_frames = cast("tuple[KeyFrame, ...]", settings.key_frames) if width >= settings.least_sc_channel else ()
    own = LayerAddress(block.stage, block.block, block.unit, "self")
    text = LayerAddress(block.stage, block.block, block.unit, "cross")
    # diffusers calls any object, but names only its own in its annotations.
    module.attn1.set_processor(cast("AttnProcessor", SparseCausalAttention(own)))
    module.attn2.set_processor(cast("AttnProcessor", CrossAttention(text)))
    yield controlled(own, block.level, key_frames, module.attn1)
    yield controlled(text, block.level, (), module.attn2)


def _width(block: BasicTransformerBlock) -> int:
    assert isinstance(block.norm1, nn.LayerNorm)  # `_bind` refuses blocks with other norms
    return block.norm1.normalized_shape[0]


def controlled(address: LayerAddress, level: int, key_frames: tuple[KeyFrame, ...], attn: Attention) -> ControlledLayer:
    """Describe one of diffusers' attention modules."""
    return ControlledLayer(
        address=address,
        level=level,
        key_frames=key_frames,
        module=attn,
        query_dim=attn.query_dim,
        heads=attn.heads,
        dim_head=attn.inner_dim // attn.heads,
        upcast=attn.upcast_attention,
        added_keys=attn.added_kv_proj_dim is not None,
        text_norm=attn.norm_encoder_hidden_states if attn.norm_cross else None,
    )


def _resnet_norms(net: UNet2DConditionModel) -> Iterator[nn.GroupNorm]:
    """List group norms outside the transformers: only these see the clip as one tensor."""
    for name, module in net.named_modules():
        if isinstance(module, nn.GroupNorm) and ".attentions." not in name:
            yield module


def _add_temporal_layers(net: UNet2DConditionModel, temporal: TemporalLayers) -> None:
    if temporal.convolutions:
        _add_temporal_convolutions(net, temporal)
    for block in list(_transformer_blocks(net)):
        module, spatial = block.module, block.module.attn1
        width = _width(module)
        attention = Attention(width, heads=spatial.heads, dim_head=spatial.inner_dim // spatial.heads)
        for parameter in attention.to_out[0].parameters():
            # Zero weight and bias: the identity over time. (The authors' program leaves the bias random.)
            nn.init.zeros_(parameter)
        module.__class__ = Pseudo3DTransformerBlock
        assert isinstance(module, Pseudo3DTransformerBlock)
        module.attn_temporal = attention.to(spatial.to_q.weight)
        module.norm_temporal = nn.LayerNorm(width).to(spatial.to_q.weight)
        module.temporal_position = temporal.position


def _add_temporal_convolutions(net: UNet2DConditionModel, temporal: TemporalLayers) -> None:
    for name, conv in [(n, m) for n, m in net.named_modules() if type(m) is nn.Conv2d and m.kernel_size[0] > 1]:
        channels, kernel = conv.out_channels, conv.kernel_size[0]
        added = (
            identity_temporal_conv(channels, kernel)
            if temporal.rank is None
            else LowRankTemporalConv(channels, temporal.ranks.get(name, temporal.rank))
        )
        conv.__class__ = PseudoConv3d
        conv.conv_temporal = added.to(conv.weight)
