"""A LoRA gives a new model; the old one, and all that it shares, stays as it was."""

import copy

import pytest
import torch

from fatezero_ext import Controller, apply_lora, invert, load_toy, register_attention_control
from fatezero_ext.attention.functional import plain
from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.memory.residency import stay_put

from .files import LAYERS, LAYERS_OF_OTHER_KINDS, TEXT_LAYERS, drawn, kohya, kohya_text, weights_of


@pytest.fixture(scope="module")
def pairs(toy):
    return drawn(toy.unet.net, (*LAYERS, *LAYERS_OF_OTHER_KINDS))


def tensors(model):
    return model.net.state_dict()


def inverted(unet, text):
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return invert(Controller(unet), text, latents, "a red circle", steps=3).trace.latents


def test_going_on_without_the_lora_gives_the_same_weights_and_inversion_bit_for_bit(toy, pairs):
    weights, before, key = copy.deepcopy(tensors(toy.unet)), inverted(toy.unet, toy.text_encoder), toy.unet.digest()
    words = drawn(toy.text_encoder.net, TEXT_LAYERS)
    unet, text = apply_lora(toy.unet, toy.text_encoder, kohya(pairs) | kohya_text(words))
    with_lora = inverted(unet, text)
    assert not torch.allclose(with_lora, before, rtol=1e-2, atol=1e-2)
    assert all(weights[name].equal(tensor) for name, tensor in tensors(toy.unet).items())
    assert inverted(toy.unet, toy.text_encoder).equal(before) and toy.unet.digest() == key
    assert inverted(unet, text).equal(with_lora)


@pytest.mark.slow
def test_strength_0_equals_none_bit_for_bit_and_shares_all_weights(toy, pairs):
    words = drawn(toy.text_encoder.net, TEXT_LAYERS)
    weights = kohya(pairs) | kohya_text(words)
    unet, text = apply_lora(toy.unet, toy.text_encoder, weights, unet_strength=0, text_strength=0.0)
    for before, after in ((toy.unet, unet), (toy.text_encoder, text)):
        assert all(tensors(before)[key].data_ptr() == value.data_ptr() for key, value in tensors(after).items())
    assert inverted(unet, text).equal(inverted(toy.unet, toy.text_encoder)) and unet.name == toy.unet.name


def test_only_changed_layers_take_memory(toy, pairs):
    unet, _ = apply_lora(toy.unet, None, kohya(pairs))
    before, after = tensors(toy.unet), tensors(unet)
    own = {key for key in after if after[key].data_ptr() != before[key].data_ptr()}
    assert own == {f"{layer}.weight" for layer in pairs}


def test_moving_one_model_leaves_the_other(toy, pairs):
    unet, text = apply_lora(
        toy.unet, toy.text_encoder, kohya(pairs) | kohya_text(drawn(toy.text_encoder.net, TEXT_LAYERS))
    )
    torch.nn.Module.to(unet.net, torch.float64)
    text.net.to(torch.float64)
    assert (
        {t.dtype for t in toy.unet.net.parameters()}
        == {t.dtype for t in toy.text_encoder.net.parameters()}
        == {torch.float32}
    )
    assert {t.dtype for t in unet.net.parameters()} == {torch.float64}


def test_stacked_loras_add_up_in_either_order(toy, pairs, merged, same):
    other = drawn(toy.unet.net, LAYERS, seed=5, rank=3)
    first, _ = apply_lora(toy.unet, None, kohya(pairs), unet_strength=0.8, name="a")
    both, _ = apply_lora(first, None, kohya(other), unet_strength=-0.5, name="b")
    wanted = merged(toy.unet.net, pairs, 0.8)
    for layer, (up, down) in other.items():
        wanted[layer] += -0.5 * (up @ down)
    same(both.net, wanted)
    second, _ = apply_lora(toy.unet, None, kohya(other), unet_strength=-0.5)
    same(apply_lora(second, None, kohya(pairs), unet_strength=0.8)[0].net, wanted)
    assert both.name == "built-in toy model + a (0.8) + b (-0.5)"


def test_a_strength_and_its_negative_cancel_up_to_rounding(toy, pairs, same):
    there, _ = apply_lora(toy.unet, None, kohya(pairs), unet_strength=2)
    back, _ = apply_lora(there, None, kohya(pairs), unet_strength=-2)
    same(back.net, weights_of(toy.unet.net))


def test_the_new_unet_keeps_what_describes_it_and_drops_what_was_bound_to_the_old(pairs):
    toy = load_toy()
    toy.unet.kernel, toy.unet.load_to_device = (
        plain,
        lambda working_memory: pytest.fail("the old weights were prepared"),
    )
    with register_attention_control(toy.unet, lambda *_call: pytest.fail("the old control was called")):
        unet, _ = apply_lora(toy.unet, None, kohya(pairs))
    assert unet.load_to_device is stay_put and unet.kernel is plain and unet.attend is plain
    assert unet.net.config == toy.unet.net.config and unet.settings == toy.unet.settings
    assert unet.scheduler == toy.unet.scheduler and unet.latent_format == toy.unet.latent_format
    assert not any(tensor.requires_grad for tensor in unet.net.parameters()) and not unet.net.training


def test_two_models_of_one_origin_run_inside_each_other(toy, pairs):
    """A control of the outer call may run the inner: each has its own call, frames and sites."""
    unet, _ = apply_lora(toy.unet, None, kohya(pairs))
    text = toy.text_encoder.encode("a red circle")
    clips = [torch.randn(frames, 4, 16, 16, generator=torch.Generator().manual_seed(2)) for frames in (3, 2)]
    wanted = [unet(clips[0], 10, text, frames=3), toy.unet(clips[1], 10, text, frames=2)]
    inner = []

    def attend(q, k, v, site):
        inner.append(toy.unet(clips[1], 10, text, frames=2)) if not inner else None
        return plain(q, k, v, site)

    outer = unet(clips[0], 10, text, frames=3, attend=attend)
    torch.testing.assert_close(outer, wanted[0], rtol=1e-4, atol=1e-4)
    assert inner[0].equal(wanted[1])
    modules = {id(module) for module in unet.net.modules()}
    assert all(id(layer.module) in modules for layer in unet.layers)


def test_the_cache_key_follows_from_the_weights(toy, pairs):
    unet, _ = apply_lora(toy.unet, None, kohya(pairs), unet_strength=0.5)
    by_hand = load_toy()
    by_hand.unet.net.load_state_dict(tensors(unet))
    assert unet.digest() == by_hand.unet.digest() != toy.unet.digest()
    assert apply_lora(toy.unet, None, kohya(pairs), unet_strength=0.6)[0].digest() != unet.digest()


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_strengths_that_are_no_numbers_are_refused(toy, pairs, strength):
    with pytest.raises(SettingsError, match="strength is .*finite"):
        apply_lora(toy.unet, None, kohya(pairs), unet_strength=strength)
    with pytest.raises(SettingsError, match="strength is .*finite"):
        apply_lora(toy.unet, None, kohya(pairs), text_strength=strength)


def test_weights_of_another_shape_or_name_are_refused(toy):
    with pytest.raises(ModelError, match=r"conv_in.weight is \[3, 3\]; in the model it is \[32, 4, 3, 3\]"):
        toy.unet.with_weights({"conv_in.weight": torch.zeros(3, 3)}, name="x")
    with pytest.raises(ModelError, match=r"conv_on.weight is \[3\]; in the model it is not there"):
        toy.unet.with_weights({"conv_on.weight": torch.zeros(3)}, name="x")
