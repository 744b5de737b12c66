"""Allowed keys of a model's configs, each with the values it may have.

A config is an untrusted file, and the libraries do what its keys say: fetch code, load other classes, take memory for a
billion numbers. Only keys of these tables reach them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...untrusted.config_rules import (
    FLAG,
    FRACTION,
    NOTHING,
    Config,
    Rule,
    checked,
    each,
    either,
    misfit,
    number,
    one_of,
    whole_number,
)
from ...untrusted.plain_files import shown

LEVELS = 8
WIDTH, LAYERS, HEADS = whole_number(1, 8192), whole_number(1, 16), whole_number(1, 512)
SIDE = whole_number(1, 4096)
SIDES = either(SIDE, each(SIDE, 2), NOTHING)
GROUPS = whole_number(1, 1024)
SCALE = number(1e-6, 1e6)
ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")
TEXT_ACTIVATION = one_of("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
TOKEN = either(whole_number(0, 2**20), NOTHING)
TEXT_ALONE = Rule("null, as of a UNet that listens to a prompt alone, Stable Diffusion 1.x / 2.x", NOTHING.holds)

UNET: Mapping[str, Rule] = {
    "sample_size": SIDES,
    "in_channels": whole_number(1, 64),
    "out_channels": whole_number(1, 64),
    "center_input_sample": FLAG,
    "flip_sin_to_cos": FLAG,
    "freq_shift": number(-10, 10),
    "down_block_types": each(one_of("CrossAttnDownBlock2D", "DownBlock2D"), LEVELS),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn", None),
    "up_block_types": each(one_of("CrossAttnUpBlock2D", "UpBlock2D"), LEVELS),
    "only_cross_attention": either(FLAG, each(FLAG, LEVELS)),
    "block_out_channels": each(WIDTH, LEVELS),
    "layers_per_block": either(LAYERS, each(LAYERS, LEVELS)),
    "downsample_padding": one_of(0, 1),
    "mid_block_scale_factor": SCALE,
    "dropout": FRACTION,
    "act_fn": ACTIVATION,
    "norm_num_groups": GROUPS,
    "norm_eps": FRACTION,
    "cross_attention_dim": whole_number(1, 16384),
    "transformer_layers_per_block": either(LAYERS, each(LAYERS, LEVELS)),
    "attention_head_dim": either(HEADS, each(HEADS, LEVELS)),
    "num_attention_heads": NOTHING,
    "dual_cross_attention": one_of(False),
    "use_linear_projection": FLAG,
    "upcast_attention": either(FLAG, NOTHING),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "resnet_skip_time_act": FLAG,
    "resnet_out_scale_factor": SCALE,
    "time_embedding_type": one_of("positional"),
    "time_embedding_dim": either(WIDTH, NOTHING),
    "time_cond_proj_dim": either(WIDTH, NOTHING),
    "conv_in_kernel": one_of(1, 3, 5, 7),
    "conv_out_kernel": one_of(1, 3, 5, 7),
    "attention_type": one_of("default"),
    "addition_embed_type": TEXT_ALONE,
    "class_embed_type": TEXT_ALONE,
    "encoder_hid_dim_type": TEXT_ALONE,
    "encoder_hid_dim": TEXT_ALONE,
    "num_class_embeds": TEXT_ALONE,
    "cross_attention_norm": NOTHING,
    "mid_block_only_cross_attention": either(one_of(False), NOTHING),
}
"""Keys of a 2-D UNet; mostly those of diffusers' UNet2DConditionModel."""
VAE: Mapping[str, Rule] = {
    "in_channels": one_of(3),
    "out_channels": one_of(3),
    "latent_channels": whole_number(1, 64),
    "down_block_types": each(one_of("DownEncoderBlock2D"), LEVELS),
    "up_block_types": each(one_of("UpDecoderBlock2D"), LEVELS),
    "block_out_channels": each(WIDTH, LEVELS),
    "layers_per_block": LAYERS,
    "act_fn": ACTIVATION,
    "norm_num_groups": GROUPS,
    "sample_size": SIDES,
    "scaling_factor": SCALE,
    "shift_factor": NOTHING,
    "latents_mean": NOTHING,
    "latents_std": NOTHING,
    "force_upcast": FLAG,
    "use_quant_conv": FLAG,
    "use_post_quant_conv": FLAG,
    "mid_block_add_attention": FLAG,
}
"""Keys of diffusers' AutoencoderKL."""
TOWER: Mapping[str, Rule] = {
    "hidden_size": WIDTH,
    "intermediate_size": whole_number(1, 65536),
    "projection_dim": whole_number(1, 8192),
    "num_hidden_layers": whole_number(1, 64),
    "num_attention_heads": HEADS,
    "hidden_act": TEXT_ACTIVATION,
    "layer_norm_eps": FRACTION,
    "attention_dropout": FRACTION,
}
CLIP_TEXT: Mapping[str, Rule] = {
    **TOWER,
    "vocab_size": whole_number(1, 2**20),
    "max_position_embeddings": whole_number(77, 4096),
    "bos_token_id": TOKEN,
    "eos_token_id": whole_number(0, 2**20),
    "pad_token_id": TOKEN,
}
"""Keys of transformers' CLIPTextModel, which reads prompts of 77 tokens."""
CLIP_VISION: Mapping[str, Rule] = {
    **TOWER,
    "num_channels": one_of(3),
    "image_size": whole_number(1, 4096),
    "patch_size": whole_number(1, 4096),
}
"""Keys of the picture tower of transformers' CLIPModel."""
CLIP: Mapping[str, Rule] = {"projection_dim": whole_number(1, 8192), "logit_scale_init_value": number(-100, 100)}
EDGE_NAMES = {"shortest_edge", "height", "width"}
EDGES = Rule(
    "a side, or sides by name, from 1 to 4,096",
    lambda x: SIDE.holds(x) or isinstance(x, dict) and 0 < len(x) <= 2 and x.keys() <= EDGE_NAMES and _sides(x),
)
COLOURS = each(number(-1e3, 1e3), 3)
CLIP_PICTURES: Mapping[str, Rule] = {
    "size": EDGES,
    "crop_size": EDGES,
    "resample": whole_number(0, 5),
    "rescale_factor": number(0, 1e3),
    "image_mean": COLOURS,
    "image_std": each(number(1e-6, 1e3), 3),
    "do_resize": FLAG,
    "do_center_crop": FLAG,
    "do_rescale": FLAG,
    "do_normalize": FLAG,
    "do_convert_rgb": either(FLAG, NOTHING),
}
"""Keys of the preparation of CLIP's pictures."""


def _sides(sizes: Mapping[str, object]) -> bool:
    return all(map(SIDE.holds, sizes.values()))


def unet_config(config: Mapping[str, object], source: Path | str) -> Config:
    """Return the allowed keys of a 2-D UNet's config; raises ModelError for values that do not fit together."""
    allowed = checked(config, UNET, source)
    widths = _levels(allowed, ("down_block_types", "up_block_types"), source)
    _check_per_level(allowed, ("layers_per_block", "transformer_layers_per_block", "attention_head_dim"), source)
    _check_divided(allowed, widths, "norm_num_groups", source)
    heads = allowed.get("attention_head_dim", 8)
    for width, count in zip(widths, heads if isinstance(heads, (list, tuple)) else [heads] * len(widths), strict=True):
        if width % count:
            raise misfit(source, f"{width} channels with attention_head_dim {count}", "one that divides them")
    _check_blocks(allowed, len(widths), source)
    return allowed


def vae_config(config: Mapping[str, object], source: Path | str) -> Config:
    """Return the allowed keys of a VAE's config; raises ModelError for values that do not fit together."""
    allowed = checked(config, VAE, source)
    _check_divided(allowed, _levels(allowed, ("down_block_types", "up_block_types"), source), "norm_num_groups", source)
    return allowed


def text_config(config: Mapping[str, object], source: Path | str) -> Config:
    """Return the allowed keys of a text encoder's config; a whole CLIP model has them under `text_config`."""
    return _tower(config, "text_config", CLIP_TEXT, source)


def vision_config(config: Mapping[str, object], source: Path | str) -> Config:
    """Return the allowed keys of the picture tower in a CLIP model's config."""
    allowed = _tower(config, "vision_config", CLIP_VISION, source)
    side, patch = allowed.get("image_size", 224), allowed.get("patch_size", 32)
    if not 1 <= side // patch <= 64:
        raise misfit(source, f"pictures of {side} in patches of {patch}", "1 to 64 patches a side")
    return allowed


def _tower(config: Mapping[str, object], name: str, rules: Mapping[str, Rule], source: Path | str) -> Config:
    parts: list[Any] = [
        config.get(name),
        config.get(f"{name}_dict"),
    ]  # transformers lets the second one, of old files, win
    if any(part is not None and not isinstance(part, dict) for part in parts):
        raise misfit(source, f"{name} {shown(next(p for p in parts if not isinstance(p, dict)))}", "a JSON object")
    inner = {key: value for part in parts if part for key, value in part.items()}
    allowed = checked(inner if inner else config, rules, source)
    width, heads = allowed.get("hidden_size", 512), allowed.get("num_attention_heads", 8)
    if width % heads:
        raise misfit(source, f"hidden_size {width} with num_attention_heads {heads}", "one that divides it")
    return allowed


def _levels(allowed: Config, blocks: tuple[str, ...], source: Path | str) -> list[int]:
    widths: Any = allowed.get("block_out_channels")
    lists: list[Any] = [allowed.get(name) for name in blocks]
    if widths is None or None in lists:
        raise misfit(source, "no block_out_channels, down_block_types or up_block_types", "each of them")
    if {len(each) for each in lists} != {len(widths)}:
        counts = ", ".join(f"{len(each)} {name}" for name, each in zip(blocks, lists, strict=True))
        raise misfit(source, f"{len(widths)} block_out_channels, {counts}", "as many of each")
    return list(widths)


def _check_per_level(allowed: Config, names: tuple[str, ...], source: Path | str) -> None:
    levels = len(allowed["block_out_channels"])
    for name in names:
        each = allowed.get(name)
        if isinstance(each, (list, tuple)) and len(each) != levels:
            raise misfit(source, f"{len(each)} values of {name} for {levels} block_out_channels", "as many")


def _check_divided(allowed: Config, widths: list[int], name: str, source: Path | str) -> None:
    groups = allowed.get(name, 32)
    if odd := [width for width in widths if width % groups]:
        raise misfit(source, f"{odd[0]} channels with {name} {groups}", "one that divides them")


def _check_blocks(allowed: Config, levels: int, source: Path | str) -> None:
    """Bound the number of layers, each of which takes a moment to make."""
    product = math.prod(
        max(value) if isinstance(value, (list, tuple)) else value
        for value in (allowed.get("layers_per_block", 2), allowed.get("transformer_layers_per_block", 1))
    )
    if levels * product > 128:
        raise misfit(source, f"{levels} levels of up to {product} transformer blocks", "at most 128 in all")
