"""What the authors' program has, line by line; each line is held by the tests marked with it."""

import pytest

FEATURES = (
    "CrossAttention: group norm",
    "CrossAttention: added text keys and values",
    "CrossAttention: mask padding and repetition",
    "CrossAttention: plain, sliced and memory-efficient evaluation agree",
    "CrossAttention: upcast_attention and upcast_softmax",
    "SparseCausalAttention: each kind of index",
    "SparseCausalAttention: refusals",
    "SparseCausalAttention: no clip length",
    "temporal-head reshapes",
    "register_attention_control: 32 layers on a Stable Diffusion 1.x layout",
    "register_attention_control: places",
    "register_attention_control: attn_temporal left out",
    "register_attention_control: None controller",
    "register_attention_control: count recorded",
    "AttentionControl: LOW_RESOURCE",
    "AttentionControl: conditional half",
    "AttentionControl: callbacks",
    "AttentionControl: reset",
    "AttentionStore: six lists",
    "AttentionStore: 1024-query limit",
    "AttentionStore: save_self_attention",
    "AttentionStore: disk",
    "AttentionStore: all-step store",
    "AttentionStore: latents",
    "AttentionStore: averages",
    "AttentionStore: reset",
)


def feature(name):
    """Mark a test as one that holds a line of FEATURES."""
    if name not in FEATURES:
        raise ValueError(f"{name!r} is not in FEATURES; add it there or correct the spelling.")
    return pytest.mark.feature(name)
