"""LoRA files of every trainer give what merging their matrices by hand gives."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fatezero_ext import InflationSettings, TemporalLayers, apply_lora, load_toy
from fatezero_ext.errors import ModelError
from fatezero_ext.models.diffusers_to_ldm import ldm_names

from ...conftest import relative
from .files import (
    FIRST_NAMES,
    LAYERS,
    LAYERS_OF_OTHER_KINDS,
    TEXT_LAYERS,
    comfyui,
    comfyui_text,
    diffusers_layers,
    diffusers_processors,
    drawn,
    kohya,
    kohya_text,
    old_text,
    peft,
    weights_of,
)

ALL_LAYERS = (*LAYERS, *LAYERS_OF_OTHER_KINDS)
UNET_LAYOUTS = {
    "kohya": (kohya, ALL_LAYERS),
    "the first checkpoints' names": (lambda pairs: kohya(pairs, names=FIRST_NAMES), tuple(FIRST_NAMES)),
    "LyCORIS": (lambda pairs: kohya(pairs, prefix="lycoris_"), ALL_LAYERS),
    "diffusers' processors": (diffusers_processors, LAYERS),
    "diffusers' processors alone": (lambda pairs: diffusers_processors(pairs, prefix=""), LAYERS),
    "diffusers": (diffusers_layers, ALL_LAYERS),
    "diffusers with PEFT": (lambda pairs: peft(pairs, prefix="unet."), ALL_LAYERS),
    "PEFT": (peft, ALL_LAYERS),
    "PEFT with an adapter's name": (lambda pairs: peft(pairs, adapter=".default"), ALL_LAYERS),
    "ComfyUI": (lambda pairs: comfyui(pairs, load_toy().unet.net), ALL_LAYERS),
}
TEXT_LAYOUTS = {
    "kohya": kohya_text,
    "kohya with a number": lambda pairs: kohya(pairs, prefix="lora_te1_text_model_"),
    "ComfyUI": comfyui_text,
    "ComfyUI, Stable Diffusion 2.x": lambda pairs: comfyui_text(pairs, "clip_h"),
    "diffusers of 2023": old_text,
    "diffusers with PEFT": lambda pairs: peft(pairs, prefix="text_encoder.text_model."),
    "PEFT": lambda pairs: peft(pairs, prefix="base_model.model.text_model."),
}


@pytest.mark.parametrize("layout", UNET_LAYOUTS)
def test_a_unets_lora_in_any_layout_equals_merging_by_hand(toy, saved, merged, same, layout):
    write, layers = UNET_LAYOUTS[layout]
    pairs = drawn(toy.unet.net, layers)
    unet, text = apply_lora(toy.unet, toy.text_encoder, saved(write(pairs)), unet_strength=0.7)
    same(unet.net, merged(toy.unet.net, pairs, 0.7))
    assert text is toy.text_encoder


@pytest.mark.parametrize("layout", TEXT_LAYOUTS)
def test_a_text_encoders_lora_in_any_layout_equals_merging_by_hand(toy, saved, merged, same, layout):
    pairs = drawn(toy.text_encoder.net, TEXT_LAYERS)
    unet, text = apply_lora(toy.unet, toy.text_encoder, saved(TEXT_LAYOUTS[layout](pairs)), text_strength=-0.4)
    same(text.net, merged(toy.text_encoder.net, pairs, -0.4))
    assert unet is toy.unet
    assert relative(text.encode("a red circle"), toy.text_encoder.encode("a red circle")) > 0.01


def test_what_the_models_compute_equals_that_of_models_merged_by_hand(toy, saved, merged, noise):
    layers, by_hand = drawn(toy.unet.net, ALL_LAYERS), load_toy()
    words = drawn(toy.text_encoder.net, TEXT_LAYERS, seed=1)
    unet, text = apply_lora(toy.unet, toy.text_encoder, saved(kohya(layers, alpha=1) | kohya_text(words, alpha=1)))
    for net, pairs in ((by_hand.unet.net, layers), (by_hand.text_encoder.net, words)):
        wanted, own = merged(net, pairs, 1 / 2), weights_of(net)
        with torch.no_grad():
            for name in pairs:
                own[name].copy_(wanted[name])
    embedding, latents = text.encode("a red circle"), noise(3, 4, 16, 16)
    torch.testing.assert_close(embedding, by_hand.text_encoder.encode("a red circle"), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        got, wanted = (model(latents, 500, embedding, frames=3) for model in (unet, by_hand.unet))
        before = toy.unet(latents, 500, embedding, frames=3)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, before, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("alpha", [1, 2, 6, 0.5])
def test_alpha_over_rank_scales_the_matrices(toy, merged, same, alpha):
    pairs = drawn(toy.unet.net, LAYERS)
    unet, _ = apply_lora(toy.unet, None, kohya(pairs, alpha=alpha))
    same(unet.net, merged(toy.unet.net, pairs, alpha / 2))


def test_alpha_in_the_header_that_diffusers_writes_counts(toy, saved, merged, same):
    pairs, words = drawn(toy.unet.net, LAYERS), drawn(toy.text_encoder.net, TEXT_LAYERS)
    settings = {"unet.r": 2, "unet.lora_alpha": 6, "unet.alpha_pattern": {}, "text_encoder.lora_alpha": 1}
    weights = peft(pairs, prefix="unet.") | peft(words, prefix="text_encoder.text_model.")
    unet, text = apply_lora(toy.unet, toy.text_encoder, saved(weights, lora_adapter_metadata=json.dumps(settings)))
    same(unet.net, merged(toy.unet.net, pairs, 3.0))
    same(text.net, merged(toy.text_encoder.net, words, 0.5))


def test_alpha_in_the_file_that_peft_writes_beside_counts(toy, saved, merged, same, tmp_path):
    pairs = drawn(toy.unet.net, LAYERS)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4}))
    unet, _ = apply_lora(toy.unet, None, saved(peft(pairs), "adapter_model.safetensors"))
    same(unet.net, merged(toy.unet.net, pairs, 2.0))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "settings saved with .* cannot be read"),
        ("[1]", "settings saved with .* cannot be read"),
        ('{"unet.lora_alpha": "much"}', "settings saved with .* cannot be read"),
        ('{"unet.lora_alpha": NaN}', "not finite"),
        ('{"unet.use_rslora": true}', "unet.use_rslora; one alpha"),
        ('{"unet.alpha_pattern": {"to_q": 3}}', "unet.alpha_pattern; one alpha"),
    ],
)
def test_headers_that_cannot_be_followed_are_refused(toy, saved, header, message):
    weights = peft(drawn(toy.unet.net, LAYERS), prefix="unet.")
    with pytest.raises(ModelError, match=message):
        apply_lora(toy.unet, None, saved(weights, lora_adapter_metadata=header))


def test_a_convolution_decomposed_in_channels_and_cells_equals_the_chain_of_its_three(toy, noise):
    layer = "mid_block.resnets.0.conv1"
    down, mid, up = noise(3, 96, 1, 1), noise(3, 3, 3, 3), noise(96, 3, 1, 1)
    name = f"lora_unet_{layer.replace('.', '_')}"
    weights = {f"{name}.lora_{part}.weight": t * 0.1 for part, t in (("down", down), ("mid", mid), ("up", up))}
    unet, _ = apply_lora(toy.unet, None, weights | {f"{name}.alpha": torch.tensor(1.5)})
    x, conv = noise(2, 96, 8, 8), torch.nn.functional.conv2d
    chain = conv(conv(conv(x, down * 0.1), mid * 0.1, padding=1), up * 0.1)
    old, new = (net.get_submodule(layer).weight for net in (toy.unet.net, unet.net))
    torch.testing.assert_close(conv(x, new - old, padding=1), chain * 1.5 / 3, rtol=1e-4, atol=1e-4)


def test_matrices_of_a_linear_layer_fit_the_same_layer_as_a_1x1_convolution(toy, merged, same):
    pairs = drawn(toy.unet.net, ["down_blocks.0.attentions.0.proj_in"])
    flat = {layer: (up.flatten(1), down.flatten(1)) for layer, (up, down) in pairs.items()}
    unet, _ = apply_lora(toy.unet, None, kohya(flat))
    same(unet.net, merged(toy.unet.net, pairs))


@pytest.mark.parametrize(
    ("model_dtype", "file_dtype"),
    [(torch.float32, torch.float16), (torch.float16, torch.float32), (torch.bfloat16, torch.float16)],
)
def test_deltas_are_computed_in_float32_and_rounded_once(model_dtype, file_dtype):
    model = load_toy(dtype=model_dtype)
    pairs = {k: (up.to(file_dtype), down.to(file_dtype)) for k, (up, down) in drawn(model.unet.net, LAYERS).items()}
    unet, _ = apply_lora(model.unet, None, kohya(pairs), unet_strength=0.3)
    got, old = weights_of(unet.net), weights_of(model.unet.net)
    for layer, (up, down) in pairs.items():
        wanted = old[layer].double() + 0.3 * (up.double() @ down.double())
        assert got[layer].dtype == model_dtype
        spacing = torch.finfo(model_dtype).eps * wanted.abs().clamp(min=2**-14)
        assert ((got[layer].double() - wanted).abs() <= spacing + 1e-7).all()


def test_safetensors_by_their_short_suffix_are_read_too(toy, saved, merged, same):
    pairs = drawn(toy.unet.net, LAYERS)
    unet, _ = apply_lora(toy.unet, None, saved(kohya(pairs), "lora.sft"))
    same(unet.net, merged(toy.unet.net, pairs))


def test_pickles_of_plain_tensors_are_read_too(toy, tmp_path, merged, same):
    pairs = drawn(toy.unet.net, LAYERS)
    for suffix in (".pt", ".bin", ".ckpt"):
        torch.save(kohya(pairs), tmp_path / f"lora{suffix}")
        unet, _ = apply_lora(toy.unet, None, tmp_path / f"lora{suffix}")
        same(unet.net, merged(toy.unet.net, pairs))


@pytest.mark.slow
def test_a_unet_with_temporal_layers_takes_a_lora_on_its_2d_weights_alone(tmp_path, merged, same, noise):
    toy = load_toy(InflationSettings(temporal=TemporalLayers(rank=4)))
    layers = ("conv_in", "down_blocks.0.resnets.0.conv1", *LAYERS)
    pairs = drawn(toy.unet.net, layers)
    save_file(kohya(pairs), tmp_path / "lora.safetensors")
    unet, _ = apply_lora(toy.unet, None, tmp_path / "lora.safetensors")
    same(unet.net, merged(toy.unet.net, pairs))
    temporal = [key for key in unet.net.state_dict() if "_temporal" in key]
    shared = [unet.net.state_dict()[key].data_ptr() == toy.unet.net.state_dict()[key].data_ptr() for key in temporal]
    assert len(temporal) > 50 and all(shared)
    with torch.no_grad():
        assert unet(noise(3, 4, 16, 16), 10, toy.text_encoder.encode("a red circle"), frames=3).isfinite().all()


def test_keys_of_temporal_layers_are_left_out_with_a_warning(caplog):
    toy = load_toy(InflationSettings(temporal=TemporalLayers()))
    pairs = drawn(toy.unet.net, LAYERS)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    pairs |= {f"{block}.attn_temporal.to_q": pairs[f"{block}.attn1.to_q"]}
    apply_lora(toy.unet, None, diffusers_layers(pairs), name="mine")
    assert "mine: left out 1 keys" in caplog.text and "attn_temporal.to_q" in caplog.text


def test_a_numbered_text_encoder_beside_a_unet_of_stable_diffusion_1_is_applied_whole(toy, saved, merged, same):
    """`lora_te1_` was taken for SDXL's first encoder, which has a second one beside it."""
    layers, words = drawn(toy.unet.net, LAYERS), drawn(toy.text_encoder.net, TEXT_LAYERS)
    said = []
    file = saved(kohya(layers) | kohya(words, prefix="lora_te1_text_model_"))
    unet, text = apply_lora(toy.unet, toy.text_encoder, file, say=said.append)
    same(unet.net, merged(toy.unet.net, layers))
    same(text.net, merged(toy.text_encoder.net, words))
    assert said == []


@pytest.mark.slow
def test_what_comfyui_saves_of_every_weight_is_applied_whole(toy, saved):
    """Matrices of all layers, differences of norms and biases, and a projection that nothing listens to."""
    generator = torch.Generator().manual_seed(3)
    file, wanted = {}, {}
    for model, name_of in (
        (toy.unet, lambda name: f"diffusion_model.{ldm_names(toy.unet.net, [name])[name]}"),
        (
            toy.text_encoder,
            lambda name: f"text_encoders.clip_l.transformer.text_model.{name.removeprefix('text_model.')}",
        ),
    ):
        for key, weight in model.net.state_dict().items():
            layer, _, kind = key.rpartition(".")
            name, change = name_of(layer), torch.randn(weight.shape, generator=generator) * 0.1
            if kind == "weight" and weight.ndim > 1:
                up, down = torch.randn(len(weight), 1, generator=generator), change[:1].flatten(1)
                shaped = [1] * (weight.ndim - 2)
                file[f"{name}.lora_up.weight"] = up.reshape(len(weight), 1, *shaped)
                file[f"{name}.lora_down.weight"] = change[:1]
                change = (up @ down).reshape(weight.shape)
            else:
                file[f"{name}.{'diff' if kind == 'weight' else 'diff_b'}"] = change
            wanted[model, key] = weight + 0.5 * change
    file["text_encoders.clip_l.transformer.text_projection.lora_up.weight"] = torch.zeros(64, 1)
    file["text_encoders.clip_l.transformer.text_projection.lora_down.weight"] = torch.zeros(1, 64)
    said, strengths = [], {"unet_strength": 0.5, "text_strength": 0.5}
    unet, text = apply_lora(toy.unet, toy.text_encoder, saved(file), **strengths, say=said.append)
    assert said == []
    for (model, key), weight in wanted.items():
        got = (unet if model is toy.unet else text).net.state_dict()[key]
        torch.testing.assert_close(got, weight, rtol=1e-5, atol=1e-5)
