"""Files that are no LoRA of the model: what is said of them."""

import pytest
import torch
from safetensors.torch import load_file

from fatezero_ext import apply_lora
from fatezero_ext.errors import ModelError
from fatezero_ext.models.folder.detect import TOY_FOLDER

from .files import LAYERS, TEXT_LAYERS, drawn, kohya, kohya_text, peft

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def pair(name, out=32, into=32, rank=2):
    return {f"{name}.lora_up.weight": torch.zeros(out, rank), f"{name}.lora_down.weight": torch.zeros(rank, into)}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"{Q}.hada_w1_a", "LoHa"),
        (f"{Q}.lokr_w1", "LoKr"),
        (f"{Q}.lokr_w2_a", "LoKr"),
        (f"{Q}.dora_scale", "DoRA"),
        ("unet.conv_in.lora_magnitude_vector", "DoRA"),
        (f"{Q}.oft_blocks", "OFT"),
        (f"{Q}.oft_diag", "OFT"),
        (f"{Q}.on_input", "IA3"),
        ("base_model.model.conv_in.ia3_l", "IA3"),
        (f"{Q}.a1.weight", "GLoRA"),
        (f"{Q}.set_weight", "a replacement of whole weights"),
        ("unet.conv_in.lora_B.bias", "with biases"),
    ],
)
def test_other_algorithms_are_named_with_the_number_of_their_keys(toy, key, message):
    with pytest.raises(ModelError, match=rf"mine is .*{message}.*: 1 keys \(.*plain LoRA"):
        apply_lora(toy.unet, toy.text_encoder, pair(Q) | {key: torch.zeros(1)}, name="mine")


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        ("text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1", "SDXL"),
        ("text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q", "SD3 or Flux"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "SDXL"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "SDXL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "SDXL"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", "SDXL"),
        ("lora_unet_label_emb_0_0", "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_proj", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_proj", "SD3"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", "SD3"),
        ("diffusion_model.blocks.0.self_attn.q", "a diffusion transformer"),
    ],
)
def test_other_families_are_named(toy, layer, family):
    with pytest.raises(ModelError, match=f"was made for {family}.*: 2 keys"):
        apply_lora(toy.unet, toy.text_encoder, pair(layer))


def test_shapes_that_do_not_fit_are_named_with_the_layer(toy):
    wide = pair(K, 32, 1024)
    with pytest.raises(
        ModelError, match=r"attn2.to_k is \[32, 64\], the LoRA's is \[32, 1024\], as of Stable Diff.* 2.x"
    ):
        apply_lora(toy.unet, None, wide)
    with pytest.raises(ModelError, match=r"attn1.to_q is \[32, 32\], the LoRA's is \[320, 320\]"):
        apply_lora(toy.unet, None, pair(Q, 320, 320))
    with pytest.raises(ModelError, match=r"conv_in is \[32, 4, 3, 3\], the LoRA's is \[32, 36\]"):
        apply_lora(toy.unet, None, pair("lora_unet_conv_in", 32, 36), unet_strength=0)


@pytest.mark.parametrize(
    ("part", "kind"), [("unet", "a UNet in .*"), ("text_encoder", "a text encoder"), ("vae", "a VAE")]
)
def test_models_are_not_taken_for_loras(toy, part, kind):
    weights = load_file(next((TOY_FOLDER / part).glob("*.safetensors")))
    with pytest.raises(ModelError, match=f"{kind}, not a LoRA: it holds {len(weights)} keys"):
        apply_lora(toy.unet, toy.text_encoder, weights)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a checkpoint for"),
        ("first_stage_model.encoder.conv_in.weight", "a VAE"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("emb_params", "a textual inversion"),
        ("something.else", "no LoRA that is known"),
        ("lora_down.readme", "no LoRA that is known"),
    ],
)
def test_other_files_are_named(toy, key, kind):
    with pytest.raises(ModelError, match=f"{kind}.*1 keys.*Choose a LoRA"):
        apply_lora(toy.unet, toy.text_encoder, {key: torch.zeros(1)})


def test_an_empty_file_is_refused(toy, saved):
    with pytest.raises(ModelError, match="no LoRA that is known: it holds nothing"):
        apply_lora(toy.unet, None, saved({}))


def test_keys_that_match_no_layer_are_an_error_if_none_does_and_a_warning_otherwise(toy, caplog):
    foreign = pair("lora_unet_down_blocks_9_conv")
    with pytest.raises(
        ModelError, match=r"matches no layer of built-in toy model: it has 1 keys \(lora_unet_down_blocks_9"
    ):
        apply_lora(toy.unet, None, foreign)
    assert not caplog.text
    unet, _ = apply_lora(toy.unet, None, pair(Q) | foreign | {"note": torch.zeros(1)}, name="mine")
    assert "mine: left out 2 keys" in caplog.text and "down_blocks_9_conv" in caplog.text and "note" in caplog.text
    assert unet.name.endswith("mine (1)")


def test_layers_of_the_text_encoder_without_one_are_said(toy):
    words, said = kohya_text(drawn(toy.text_encoder.net, TEXT_LAYERS)), []
    with pytest.raises(ModelError, match="12 keys .* are for the text encoder: connect a clip"):
        apply_lora(toy.unet, None, words)
    unet, text = apply_lora(toy.unet, None, words | pair(Q), say=said.append)
    assert text is None and unet is not toy.unet
    assert len(said) == 1 and "left out 12 keys" in said[0] and "no clip is given" in said[0]


def test_a_bias_of_a_layer_without_one_is_said(toy):
    said = []
    apply_lora(toy.unet, None, pair(Q) | {f"{Q}.diff_b": torch.zeros(32)}, say=said.append)
    assert len(said) == 1 and f"left out 1 keys ({Q}.bias)" in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{Q}.lora_up.weight"), "no up matrix for"),
        (lambda w: w.pop(f"{Q}.lora_down.weight"), "no down matrix for"),
        (lambda w: w.update({f"{Q}.lora_up.weight": torch.zeros(32, 3)}), "floating-point matrices"),
        (lambda w: w.update({f"{Q}.lora_up.weight": torch.zeros(32)}), "floating-point matrices"),
        (lambda w: w.update({f"{Q}.lora_up.weight": torch.zeros(32, 2, dtype=torch.int8)}), "floating-point matrices"),
        (lambda w: w.update(pair(Q, rank=0)), "floating-point matrices"),
        (lambda w: w.update({f"{Q}.lora_up.weight": torch.zeros(32, 2, 3, 3)}), "floating-point matrices"),
        (lambda w: w.update({f"{Q}.lora_mid.weight": torch.zeros(2, 2)}), "floating-point matrices"),
        (lambda w: w.update({f"{Q}.alpha": torch.tensor(float("nan"))}), "the alpha nan"),
        (lambda w: w.update({f"{Q}.diff": torch.zeros(32, 32)}), "two changes"),
        (lambda w: w.update({f"{Q}.w_norm": torch.zeros(32, 32)}), "two changes"),
        (lambda w: w.update({"lora_unet_conv_in.diff": torch.zeros(3)}), r"conv_in is \[32, 4, 3, 3\], the LoRA's is"),
        (lambda w: w.update({"lora_unet_conv_in.diff_b": torch.zeros(3)}), r"conv_in.bias is \[32\], the LoRA's is"),
        (lambda w: w.update({"lora_unet_conv_in.diff_b": torch.zeros(32).int()}), "floating-point numbers"),
        (lambda w: w.update({f"{Q}.alpha": torch.zeros(2)}), "the alpha"),
        (lambda w: w.update({f"{Q}.alpha": torch.tensor(1j, dtype=torch.complex64)}), "the alpha"),
        (
            lambda w: w.update({f"{K}.diff": torch.zeros(3)} | dict.fromkeys(pair(K))),
            r"attn2.to_k is .* LoRA's is \[3\]",
        ),
        (lambda w: w.update({f"{K}.diff": torch.tensor(3.0)} | dict.fromkeys(pair(K))), r"the LoRA's is \[\]"),
        (lambda w: w.update({f"{Q}.lora_up.weight": torch.full((32, 2), float("nan"))}), "infinite or undefined"),
        (
            lambda w: w.update(peft({LAYERS[0]: (torch.zeros(32, 2), torch.zeros(2, 32))}, prefix="unet.")),
            "two changes",
        ),
    ],
)
def test_damaged_layers_are_named(toy, change, message):
    weights = pair(Q) | pair(K, 32, 64)
    change(weights)
    weights = {key: tensor for key, tensor in weights.items() if tensor is not None}
    with pytest.raises(ModelError, match=message):
        apply_lora(toy.unet, None, weights)


@pytest.mark.parametrize(
    "weights",
    [
        pair(Q) | {f"{Q}.alpha": torch.zeros(2000)},
        pair("a\tb\x1b[2J") | {"a\tb\x1b[2J.alpha": torch.zeros(2)},
        pair("a\tb", rank=0),
        {"a\tb.lora_up.weight": torch.zeros(1, 1)},
        pair("x" * 9999, rank=0),
        {f"{Q}.lora_up.weight": torch.zeros([1] * 60), f"{Q}.lora_down.weight": torch.zeros([1] * 60)},
    ],
)
def test_what_is_said_of_damaged_layers_is_short_and_printable(toy, weights):
    with pytest.raises(ModelError) as refused:
        apply_lora(toy.unet, None, weights)
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()


def test_scales_without_matrices_are_left_out_and_said(toy):
    """ComfyUI passes over such leftovers."""
    said, lone = [], "lora_unet_conv_in"
    weights = pair(Q) | {f"{Q}.lora_up.weight": torch.ones(32, 2), f"{Q}.lora_down.weight": torch.ones(2, 32)}
    biased = {"lora_unet_conv_out.diff_b": torch.ones(4)}
    unet, _ = apply_lora(
        toy.unet,
        None,
        weights | biased | {f"{lone}.alpha": torch.tensor(1.0), "lora_unet_conv_out.alpha": torch.tensor(1.0)},
        say=said.append,
    )
    plain, _ = apply_lora(toy.unet, None, weights | biased)
    wanted = plain.net.state_dict()
    assert all(tensor.equal(wanted[name]) for name, tensor in unet.net.state_dict().items())
    assert len(said) == 1 and f"left out 2 keys ({lone}.alpha, lora_unet_conv_out.alpha)" in said[0]


def test_weights_taken_out_of_their_range_are_refused(toy):
    half = toy.unet.with_weights({}, name="half")
    torch.nn.Module.to(half.net, torch.float16)
    strong = {f"{Q}.lora_up.weight": torch.full((32, 1), 300.0), f"{Q}.lora_down.weight": torch.full((1, 32), 300.0)}
    with pytest.raises(ModelError, match="out of the range of torch.float16"):
        apply_lora(half, None, strong)
    apply_lora(half, None, strong, unet_strength=0.1)


def test_truncated_files_and_pickles_with_code_are_refused(toy, saved, tmp_path):
    path = saved(kohya(drawn(toy.unet.net, LAYERS)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="lora.safetensors cannot be read"):
        apply_lora(toy.unet, None, path)

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    torch.save({f"{Q}.lora_up.weight": Trap()}, tmp_path / "lora.pt")
    with pytest.raises(ModelError, match="lora.pt cannot be read"):
        apply_lora(toy.unet, None, tmp_path / "lora.pt")
    with pytest.raises(ModelError, match="absent.safetensors cannot be read"):
        apply_lora(toy.unet, None, tmp_path / "absent.safetensors")
