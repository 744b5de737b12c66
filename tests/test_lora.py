"""LoRA files: the changes they name, on a model that shares all else with the one before."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.make_checkpoint import parts
from fatezero_ext import Controller, EditSettings, InflationSettings, Pseudo3DUNet, apply_lora, edit, invert
from fatezero_ext.checkpoints import load_toy
from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.ldm_names import ldm_name
from fatezero_ext.pack import load_pack

from .conftest import relative

RANK, ALPHA = 4, 2.0
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
FEED = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
PROJECTION = "down_blocks.0.attentions.0.proj_in"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.0.self_attn.q_proj"
UNET_LAYERS = (ATTENTION, OUT, FEED, PROJECTION, CONV)


@pytest.fixture
def model():
    return load_toy()


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: 0.05 * torch.randn(*shape, generator=generator)


def layer(net, name):
    prefix = "text_model." if hasattr(net, "text_model") and name == TEXT else ""
    return net.get_submodule(prefix + name)


def weight_name(net, name):
    return next(full for full in net.state_dict() if full.endswith(f"{name}.weight"))


@pytest.fixture
def pairs(model, random):
    """Low-rank factors (down, up) of some layers, by diffusers' names."""
    made = {}
    for net, names in ((model.unet.net, UNET_LAYERS), (model.text.net, (TEXT,))):
        for name in names:
            weight = net.state_dict()[weight_name(net, name)]
            kernel, ones = tuple(weight.shape[2:]), (1,) * (weight.ndim - 2)
            made[name] = (random(RANK, weight.shape[1], *kernel), random(weight.shape[0], RANK, *ones))
    return made


def merged(net, pairs, names, factor):
    """The weights with the changes added by hand, in float64."""
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    for name in names:
        down, up = (x.double() for x in pairs[name])
        full = weight_name(net, name)
        change = torch.tensordot(up.flatten(1), down.flatten(1), dims=1).reshape(weights[full].shape)
        weights[full] = (weights[full].double() + factor * change).float()
    return weights


def kohya(pairs, alpha=ALPHA):
    file = {}
    for name, (down, up) in pairs.items():
        key = f"lora_te_text_model_{name}" if name == TEXT else f"lora_unet_{name}"
        key = key.replace(".", "_")
        file |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if alpha is not None:
            file[f"{key}.alpha"] = torch.tensor(alpha)
    return file


def old_diffusers(pairs):
    """As diffusers once wrote attention: on processors, `to_out` without its number."""
    file = {}
    for name, (down, up) in pairs.items():
        if name == TEXT:
            key = "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora"
        elif ".attn" in name:
            block, _, projection = name.removesuffix(".0").rpartition(".")
            key = f"unet.{block}.processor.{projection}_lora"
        else:
            key = f"unet.{name}.lora"
        file |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return file


def new_diffusers(pairs):
    file = {}
    for name, (down, up) in pairs.items():
        key = f"text_encoder.text_model.{name}" if name == TEXT else f"unet.{name}"
        file |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    return file


def peft(pairs):
    return {
        f"base_model.model.{key}".replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): tensor
        for key, tensor in new_diffusers({n: p for n, p in pairs.items() if n != TEXT}).items()
    } | {key: tensor for key, tensor in new_diffusers({TEXT: pairs[TEXT]}).items()}


def written(tensors, tmp_path, name="style.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / name)
    return tmp_path / name


def assert_merged(net, wanted):
    found = net.state_dict()
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("strength", [1.0, 0.6, -1.5])
def test_a_kohya_file_is_the_same_changes_merged_by_hand(model, pairs, tmp_path, strength):
    file = written(kohya(pairs), tmp_path)
    unet, text = apply_lora(model.unet, model.text, file, unet_strength=strength, text_strength=strength)
    factor = strength * ALPHA / RANK
    assert_merged(unet.net, wanted := merged(model.unet.net, pairs, UNET_LAYERS, factor))
    assert_merged(text.net, merged(model.text.net, pairs, (TEXT,), factor))
    by_hand = load_toy().unet
    by_hand.net.load_state_dict(wanted)
    latents, embedding = torch.randn(3, 4, 16, 16), torch.randn(1, 77, 64)
    with torch.no_grad():
        found, expected = (each(latents, 301, embedding, frames=3) for each in (unet, by_hand))
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("layout", [old_diffusers, new_diffusers, peft])
def test_diffusers_files_are_the_same_as_kohyas_without_an_alpha(model, pairs, tmp_path, layout):
    wanted = apply_lora(model.unet, model.text, written(kohya(pairs, alpha=None), tmp_path))
    found = apply_lora(model.unet, model.text, written(layout(pairs), tmp_path))
    for one, other in zip(found, wanted, strict=True):
        assert all(
            x.equal(y) for x, y in zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True)
        )


def test_the_original_names_of_the_unet_are_understood(model, pairs, tmp_path):
    unet_pairs = {name: pair for name, pair in pairs.items() if name != TEXT}
    ldm = {ldm_name(name, model.unet.net): pair for name, pair in unet_pairs.items()}
    assert set(ldm) & set(unet_pairs) == set()
    found, _ = apply_lora(model.unet, None, written(kohya(ldm), tmp_path))
    wanted, _ = apply_lora(model.unet, None, written(kohya(unet_pairs), tmp_path))
    assert all(x.equal(y) for x, y in zip(found.net.parameters(), wanted.net.parameters(), strict=True))


def test_a_convolution_in_three_parts_is_put_together(model, random, tmp_path):
    weight = layer(model.unet.net, CONV).weight
    down, mid, up = random(RANK, weight.shape[1], 1, 1), random(RANK, RANK, 3, 3), random(weight.shape[0], RANK, 1, 1)
    key = f"lora_unet_{CONV}".replace(".", "_")
    file = {f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": mid, f"{key}.lora_up.weight": up}
    unet, _ = apply_lora(model.unet, None, written(file, tmp_path))
    image = torch.randn(1, weight.shape[1], 8, 8)
    through = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(image, down), mid, padding=1), up)
    whole = nn.functional.conv2d(image, layer(unet.net, CONV).weight - weight, padding=1)
    torch.testing.assert_close(whole, through, rtol=1e-3, atol=1e-6)


def test_on_and_off_again_leaves_every_bit(model, pairs, tmp_path):
    before = {name: x.clone() for name, x in model.unet.net.state_dict().items()}
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def run(unet, text):
        inverted = invert(Controller(unet), text, latents, "a red circle", steps=3)
        return inverted.trace.noise, edit(inverted, text, "a blue circle", EditSettings()).latents

    plain = run(model.unet, model.text)
    changed = run(*apply_lora(model.unet, model.text, written(kohya(pairs), tmp_path)))
    again = run(model.unet, model.text)
    assert all(x.equal(before[name]) for name, x in model.unet.net.state_dict().items())
    assert all(x.equal(y) for x, y in zip(plain, again, strict=True))
    assert not any(x.equal(y) for x, y in zip(plain, changed, strict=True))


def test_strength_0_is_none(model, pairs, tmp_path):
    file = written(kohya(pairs), tmp_path)
    unet, text = apply_lora(model.unet, model.text, file, unet_strength=0.0, text_strength=0.0)
    for changed, plain in ((unet.net, model.unet.net), (text.net, model.text.net)):
        assert all(x.equal(y) for x, y in zip(changed.parameters(), plain.parameters(), strict=True))


def test_what_is_not_changed_is_shared_but_moves_alone(model, pairs, tmp_path):
    unet, _ = apply_lora(model.unet, None, written(kohya({ATTENTION: pairs[ATTENTION]}), tmp_path))
    pointers = [
        (x.data_ptr(), y.data_ptr()) for x, y in zip(unet.net.parameters(), model.unet.net.parameters(), strict=True)
    ]
    assert sum(one != other for one, other in pointers) == 1
    unet.net.to(torch.float64)
    assert {x.dtype for x in model.unet.net.parameters()} == {torch.float32}


def test_loras_stack_in_any_order(model, pairs, random, tmp_path):
    other = {name: (random(*down.shape), random(*up.shape)) for name, (down, up) in pairs.items() if name != TEXT}
    files = [
        written(kohya(each), tmp_path, name) for each, name in ((pairs, "a.safetensors"), (other, "b.safetensors"))
    ]
    forth = apply_lora(apply_lora(model.unet, None, files[0])[0], None, files[1], unet_strength=0.5)[0]
    back = apply_lora(apply_lora(model.unet, None, files[1], unet_strength=0.5)[0], None, files[0])[0]
    assert forth.name == "built-in toy model + a.safetensors (1) + b.safetensors (0.5)"
    for x, y in zip(forth.net.parameters(), back.net.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    by_hand = merged(model.unet.net, pairs, UNET_LAYERS, ALPHA / RANK)
    change = torch.tensordot(*reversed([x.flatten(1) for x in other[ATTENTION]]), dims=1) * 0.5 * ALPHA / RANK
    name = f"{ATTENTION}.weight"
    torch.testing.assert_close(forth.net.state_dict()[name], by_hand[name] + change, rtol=0, atol=1e-6)


def test_the_precision_of_the_weights_stays(pairs, tmp_path):
    half = load_toy(dtype=torch.float16)
    unet, text = apply_lora(half.unet, half.text, written({k: x.bfloat16() for k, x in kohya(pairs).items()}, tmp_path))
    assert {unet.dtype, text.net.dtype} == {torch.float16}
    assert not layer(unet.net, ATTENTION).weight.equal(layer(half.unet.net, ATTENTION).weight)


def test_an_inflated_convolution_takes_it_and_its_temporal_part_stays(pairs, tmp_path):
    from fatezero_ext import TemporalLayers

    net = load_toy().unet.net.__class__.from_config(load_toy().unet.net.config)
    unet = Pseudo3DUNet(net, InflationSettings(temporal=TemporalLayers(rank=4)))
    changed, _ = apply_lora(unet, None, written(kohya({CONV: pairs[CONV]}), tmp_path))
    differ = [n for n, x in changed.net.state_dict().items() if not x.equal(unet.net.state_dict()[n])]
    assert differ == [f"{CONV}.weight"]


def test_a_registered_control_is_not_taken_over(model, pairs, tmp_path):
    from fatezero_ext import plain, register_attention_control

    with register_attention_control(model.unet, lambda *given: plain(*given)):
        changed, _ = apply_lora(model.unet, None, written(kohya(pairs), tmp_path))
        assert changed.attend is changed.kernel
        assert model.unet.attend is not model.unet.kernel


def test_the_cache_key_follows_the_weights_and_not_the_file(model, pairs, tmp_path):
    unet, _ = apply_lora(model.unet, None, written(kohya(pairs), tmp_path))
    by_hand = load_toy().unet
    by_hand.net.load_state_dict(unet.net.state_dict())
    assert unet.digest() != model.unet.digest()
    assert by_hand.digest() == unet.digest()


def test_layers_that_are_not_there_are_left_out_and_named(model, pairs, tmp_path, caplog):
    file = {
        **kohya(pairs),
        "lora_unet_nowhere.lora_down.weight": torch.ones(1, 1),
        "lora_unet_nowhere.lora_up.weight": torch.ones(1, 1),
    }
    apply_lora(model.unet, model.text, written(file, tmp_path))
    assert "1 keys (lora_unet_nowhere) are not in built-in toy model" in caplog.text


DOWN, UP = "lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"lora_unet_x.hada_w1_a": torch.ones(1)}, "is LoHa"),
        ({"lora_unet_x.lokr_w1": torch.ones(1)}, "is LoKr"),
        ({DOWN: torch.ones(1, 1), UP: torch.ones(1, 1), "lora_unet_x.dora_scale": torch.ones(1)}, "is DoRA"),
        ({"lora_te1_text_model_x.lora_down.weight": torch.ones(1, 1)}, "for SDXL"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)},
            "is no LoRA.*Load Pseudo-3D UNet",
        ),
        ({DOWN: torch.ones(1, 1)}, "half of a pair"),
        ({DOWN: torch.ones(1, 1), UP: torch.ones(1, 1)}, "no layer of odd.safetensors is in"),
    ],
)
def test_other_files_are_refused_by_name(model, tmp_path, file, message):
    with pytest.raises(ModelError, match=message):
        apply_lora(model.unet, model.text, written(file, tmp_path, "odd.safetensors"))


def test_a_lora_of_other_widths_is_refused_with_both(model, random, tmp_path):
    file = kohya({ATTENTION: (random(RANK, 1024), random(1024, RANK))})
    with pytest.raises(ModelError, match=r"attn1_to_q has .*'up': \[1024, 4\].*the layer \[96, 96\]"):
        apply_lora(model.unet, None, written(file, tmp_path))


def test_truncated_files_and_odd_strengths_are_refused(model, pairs, tmp_path):
    file = written(kohya(pairs), tmp_path)
    with pytest.raises(SettingsError, match="strength is nan"):
        apply_lora(model.unet, None, file, unet_strength=float("nan"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="style.safetensors cannot be read"):
        apply_lora(model.unet, None, file)


def test_a_unet_of_stable_diffusion_2_has_linear_projections(random, tmp_path):
    unet = Pseudo3DUNet(parts("sd2")[0])
    weight = layer(unet.net, PROJECTION).weight
    assert weight.ndim == 2
    pair = (random(RANK, weight.shape[1]), random(weight.shape[0], RANK))
    changed, _ = apply_lora(unet, None, written(kohya({PROJECTION: pair}), tmp_path))
    torch.testing.assert_close(
        layer(changed.net, PROJECTION).weight - weight, pair[1] @ pair[0] * ALPHA / RANK, atol=1e-6, rtol=0
    )


@pytest.fixture
def node(tmp_path, pairs):
    (tmp_path / "loras").mkdir()
    written(kohya(pairs), tmp_path / "loras")
    folders = load_pack("nodes.headless.folders")
    with load_pack("nodes.host").installed(
        folders.RunnerHost(folders.Folders((tmp_path,), tmp_path, (tmp_path,)), None)
    ):
        yield load_pack("nodes.lora").LoadLoRA


def test_the_node_offers_files_by_name_and_gives_a_new_model(node):
    toy = load_pack("fatezero_ext.checkpoints").load_toy()
    assert next(s for s in node.define_schema().inputs if s.id == "lora_name").options == ["style.safetensors"]
    assert node.validate_inputs("style.safetensors") is True
    for name in ("../style.safetensors", "/style.safetensors", "other.safetensors"):
        assert "is not there" in node.validate_inputs(name)
    unet, clip = node.execute(toy.unet, "style.safetensors", 0.8, 1.0, toy.text).result
    assert (unet.name, clip is toy.text) == ("built-in toy model + style.safetensors (0.8)", False)
    assert node.execute(toy.unet, "style.safetensors", 0.8, 1.0).result[1] is None
    with pytest.raises(load_pack("fatezero_ext.errors").SettingsError, match="CLIP of kind object"):
        node.execute(toy.unet, "style.safetensors", 1.0, 1.0, object())
