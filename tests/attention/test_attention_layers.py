"""CrossAttention and SparseCausalAttention against attention written out frame by frame and head by head."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from fatezero_ext.attention.functional import attention_probs, explicit, merge_heads, plain, sliced, split_heads
from fatezero_ext.attention.key_frames import key_frame_tensors
from fatezero_ext.attention.sites import LayerAddress, Site
from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.models.unet.forward_context import Call, running
from fatezero_ext.models.unet.processors import CrossAttention, SparseCausalAttention

from ..features import feature

CROSS, SELF = LayerAddress("down", 0, 0, "cross"), LayerAddress("down", 0, 0, "self")
FRAMES, HEADS, DIM, HEIGHT, WIDTH = 5, 2, 8, 3, 4
CELLS, WIDE, TEXT_WIDE, TOKENS = HEIGHT * WIDTH, HEADS * DIM, 6, 7


def site(address, frames=FRAMES, key_frames=(), **more):
    tensors = key_frame_tensors(key_frames, frames, torch.device("cpu"))
    return Site(address, frames, HEIGHT, WIDTH, 1, tensors, **more)


class InACall(Attention):
    """An attention module that runs by itself, as in a UNet's `call`."""

    def forward(self, *given, **named):
        with running(self.call):
            return super().forward(*given, **named)


def layer(kind, noise, *, text=False, attend=plain, at=None, **options):
    """An attention module with random weights, and its processor under a call of `attend`."""
    at = at or site(CROSS if kind is CrossAttention else SELF)
    attn = InACall(WIDE, TEXT_WIDE if text else None, heads=HEADS, dim_head=DIM, **options)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.copy_(noise(*parameter.shape) * 0.4)
    attn.set_processor(kind(at.address))
    attn.call = Call(at.frames, attend, {at.address: at})
    return attn.eval().requires_grad_(False)


def written_out(attn, x, keys_of, values_of, bias=None):
    """softmax(q k / sqrt(d) + bias) v, one frame and head at a time; keys_of(frame) gives [keys, width]."""
    frames = []
    for frame in range(len(x)):
        q, k, v = attn.to_q(x[frame]), keys_of(frame), values_of(frame)
        heads = []
        for head in range(HEADS):
            part = slice(head * DIM, (head + 1) * DIM)
            scores = q[:, part] @ k[:, part].T / DIM**0.5
            scores = scores if bias is None else scores + bias[frame]
            heads.append(scores.softmax(-1) @ v[:, part])
        frames.append(attn.to_out[0](torch.cat(heads, dim=1)))
    return torch.stack(frames)


def assert_near(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@feature("CrossAttention: group norm")
def test_the_input_is_group_normed_over_its_cells_first(noise):
    attn = layer(CrossAttention, noise, text=True, norm_num_groups=4)
    x, text = noise(FRAMES, CELLS, WIDE), noise(1, TOKENS, TEXT_WIDE)
    grouped = x.unflatten(-1, (4, -1))  # [frames, cells, groups, width]
    mean, variance = grouped.mean((1, 3), keepdim=True), grouped.var((1, 3), keepdim=True, unbiased=False)
    normed = ((grouped - mean) / (variance + attn.group_norm.eps).sqrt()).flatten(2)
    normed = normed * attn.group_norm.weight + attn.group_norm.bias
    wanted = written_out(attn, normed, lambda _f: attn.to_k(text[0]), lambda _f: attn.to_v(text[0]))
    assert_near(attn(x, encoder_hidden_states=text), wanted)


def test_without_text_cross_attention_attends_to_its_own_input(noise):
    attn, x = layer(CrossAttention, noise), noise(FRAMES, CELLS, WIDE)
    wanted = written_out(attn, x, lambda f: attn.to_k(x[f]), lambda f: attn.to_v(x[f]))
    assert_near(attn(x), wanted)


def added_keys(noise):
    attn = layer(CrossAttention, noise, added_kv_proj_dim=TEXT_WIDE)
    return attn, noise(2 * FRAMES, CELLS, WIDE), noise(2, TOKENS, TEXT_WIDE)


def with_added(attn, x, text, bias=None):
    """Text keys in front of each frame's own; the first FRAMES frames read text 0, the rest text 1."""
    both = [(attn.add_k_proj, attn.to_k), (attn.add_v_proj, attn.to_v)]
    keys, values = (lambda f, a=a, o=o: torch.cat([a(text[f // FRAMES]), o(x[f])]) for a, o in both)
    return written_out(attn, x, keys, values, bias)


@feature("CrossAttention: added text keys and values")
def test_added_text_keys_stand_in_front_of_the_inputs_own(noise):
    attn, x, text = added_keys(noise)
    assert_near(attn(x, encoder_hidden_states=text), with_added(attn, x, text))


@feature("CrossAttention: mask padding and repetition")
def test_a_text_mask_before_added_keys_is_padded_with_zeros_and_repeated_for_frames_and_heads(noise):
    attn, x, text = added_keys(noise)
    mask = noise(2, 1, TOKENS) * 3
    padded = torch.cat([mask, torch.zeros(2, 1, CELLS)], dim=-1).repeat_interleave(FRAMES, 0)
    assert_near(attn(x, text, mask), with_added(attn, x, text, padded))


@feature("CrossAttention: mask padding and repetition")
@pytest.mark.parametrize("rows", [1, CELLS])
def test_a_mask_is_added_to_the_scores(noise, rows):
    attn = layer(CrossAttention, noise, text=True)
    x, text, mask = noise(2 * FRAMES, CELLS, WIDE), noise(2, TOKENS, TEXT_WIDE), noise(2, rows, TOKENS) * 3
    mask[..., -2:] = -1e4
    text_of = text.repeat_interleave(FRAMES, 0)
    wanted = written_out(
        attn, x, lambda f: attn.to_k(text_of[f]), lambda f: attn.to_v(text_of[f]), mask.repeat_interleave(FRAMES, 0)
    )
    got = attn(x, text, mask)
    assert_near(got, wanted)
    dropped = text.clone()
    dropped[:, -2:] = 7.0
    assert_near(attn(x, dropped, mask), got)


def test_a_mask_for_another_number_of_keys_is_refused(noise):
    attn = layer(CrossAttention, noise, text=True)
    with pytest.raises(ModelError, match="mask is for 3 keys; the layer has 7"):
        attn(noise(FRAMES, CELLS, WIDE), noise(1, TOKENS, TEXT_WIDE), noise(1, 1, 3))


@feature("CrossAttention: plain, sliced and memory-efficient evaluation agree")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 2 * FRAMES * HEADS, 99])
def test_three_evaluations_agree(noise, at_once, masked):
    attn = layer(CrossAttention, noise, text=True)
    inputs = noise(2 * FRAMES, CELLS, WIDE), noise(2, TOKENS, TEXT_WIDE), noise(2, 1, TOKENS) if masked else None
    results = []
    for attend in (explicit, sliced(at_once), plain):
        attn.call = replace(attn.call, attend=attend)
        results.append(attn(*inputs))
    assert_near(results[1], results[0])
    assert_near(results[2], results[0])


@feature("CrossAttention: plain, sliced and memory-efficient evaluation agree")
def test_a_whole_unet_computes_the_same_sliced(model, noise):
    x, text = noise(3, 4, 16, 16), noise(1, 77, 32)
    wanted, got = (model.unet(x, 501, text, frames=3, attend=attend) for attend in (plain, sliced(4)))
    assert_near(got, wanted)


def test_slices_hold_at_least_one_map():
    with pytest.raises(SettingsError, match="heads_at_once is 0"):
        sliced(0)


@feature("CrossAttention: upcast_attention and upcast_softmax")
def test_upcast_scores_stay_finite_where_half_precision_overflows():
    at = Site(CROSS, 1, 1, 2, 1, upcast=True)
    q = torch.full((1, 1, 2, 64), 300.0, dtype=torch.float16)
    probs = attention_probs(q, q, at)
    assert probs.dtype == torch.float16 and probs.eq(0.5).all()
    assert not attention_probs(q, q, replace(at, upcast=False)).isfinite().all()


@feature("CrossAttention: upcast_attention and upcast_softmax")
def test_half_precision_softmax_is_taken_in_float32(noise):
    q, k = noise(FRAMES, HEADS, CELLS, DIM).bfloat16(), noise(FRAMES, HEADS, 700, DIM).bfloat16()
    scores = (q * DIM**-0.5) @ k.transpose(-1, -2)
    probs = attention_probs(q, k, site(CROSS))
    assert probs.dtype == torch.bfloat16
    torch.testing.assert_close(probs, scores.float().softmax(-1).bfloat16(), rtol=0, atol=0)


@feature("SparseCausalAttention: each kind of index")
@pytest.mark.parametrize(
    ("key_frames", "sources"),
    [
        ((-1, "first"), lambda i: [max(i - 1, 0), 0]),
        (("mid",), lambda i: [2]),
        (("middle", "last"), lambda i: [2, 4]),
        ((1, -2, 0), lambda i: [min(i + 1, 4), max(i - 2, 0), i]),
        ((), lambda i: [i]),
    ],
)
def test_a_frame_attends_to_its_key_frames_in_list_order(noise, key_frames, sources):
    attn = layer(SparseCausalAttention, noise, at=site(SELF, key_frames=key_frames))
    x = noise(2 * FRAMES, CELLS, WIDE)

    def of(project):
        def gathered(frame):
            chunk, i = divmod(frame, FRAMES)
            return torch.cat([project(x[chunk * FRAMES + j]) for j in sources(i)])

        return gathered

    assert_near(attn(x), written_out(attn, x, of(attn.to_k), of(attn.to_v)))


@feature("SparseCausalAttention: no clip length")
def test_a_single_picture_attends_to_itself_whatever_the_key_frames(noise):
    attn = layer(SparseCausalAttention, noise, at=site(SELF, frames=1, key_frames=(-1, "first", "last")))
    x = noise(1, CELLS, WIDE)
    assert_near(attn(x), written_out(attn, x, lambda f: attn.to_k(x[f]), lambda f: attn.to_v(x[f])))


@feature("SparseCausalAttention: refusals")
@pytest.mark.parametrize("given", ["text", "mask", "added keys"])
def test_sparse_causal_attention_takes_no_text_mask_or_added_keys(noise, given):
    attn = layer(SparseCausalAttention, noise, **({"added_kv_proj_dim": TEXT_WIDE} if given == "added keys" else {}))
    more = {
        "text": {"encoder_hidden_states": noise(1, TOKENS, WIDE)},
        "mask": {"attention_mask": noise(1, 1, CELLS)},
    }
    with pytest.raises(NotImplementedError, match="no text, no mask and no added keys"):
        attn(noise(FRAMES, CELLS, WIDE), **more.get(given, {}))


@feature("temporal-head reshapes")
def test_heads_leave_the_width_and_come_back(noise):
    x = noise(FRAMES, CELLS, WIDE)
    heads = split_heads(x, HEADS)
    assert heads.shape == (FRAMES, HEADS, CELLS, DIM)
    for frame, head, cell in [(0, 0, 0), (4, 1, 3), (2, 1, 11)]:
        assert heads[frame, head, cell].equal(x[frame, cell, head * DIM : (head + 1) * DIM])
    assert merge_heads(heads).equal(x)


def test_a_text_mask_reaches_every_cross_attention_of_the_unet(model, noise):
    x, text, mask = noise(3, 4, 16, 16), noise(1, 77, 32), torch.ones(1, 77)
    run = lambda words, keep: model.unet(x, 501, words, frames=3, text_mask=keep)  # noqa: E731
    assert_near(run(text, mask), run(text, None))
    mask[:, 40:] = 0
    other = text.clone()
    other[:, 40:] = noise(1, 37, 32)
    assert_near(run(text, mask), run(other, mask))
    assert not torch.allclose(run(text, None), run(text, mask), atol=1e-4)


def test_the_output_dropout_is_skipped_only_under_control(noise):
    attn, x = layer(SparseCausalAttention, noise, dropout=1.0).train(), noise(FRAMES, CELLS, WIDE)
    assert isinstance(attn.to_out[1], nn.Dropout) and attn(x).eq(0).all()
    attn.call = replace(attn.call, attend=explicit)
    assert not attn(x).eq(0).any()
