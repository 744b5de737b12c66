"""Checkpoints of one file: the same model as a diffusers folder, and what is said of all other files."""

import json
import socket
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext import Controller, edit, invert, load_model
from fatezero_ext.errors import ModelError
from fatezero_ext.models.checkpoint_check import check_checkpoint
from fatezero_ext.models.file_kinds import kind_of
from fatezero_ext.models.single_file.checkpoint import SingleFile
from fatezero_ext.models.single_file.configs import V_PREDICTION_KEY

from ..conftest import relative
from ..small_runs import named

FAMILIES = ("sd1", "sd2")


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request, tmp_path_factory):
    """(family, parts, file)."""
    made = parts(request.param)
    path = tmp_path_factory.mktemp("files") / f"{request.param}.safetensors"
    save_file(single_file(*made, request.param), path)
    return request.param, made, path


@pytest.fixture
def weights():
    return single_file(*parts("sd1"))


def saved(weights, path, **more):
    save_file(weights, path, **more)
    return path


def as_folder(made, family, path):
    """The same weights as a diffusers pipeline folder."""
    unet, vae, text = made
    for part, name in ((unet, "unet"), (vae, "vae"), (text, "text_encoder")):
        part.save_pretrained(path / name)
    SingleFile(path.parent / "whole.safetensors").tokenizer().save_pretrained(path / "tokenizer")
    (path / "scheduler").mkdir()
    (path / "model_index.json").write_text("{}")
    file = load_model(path.parent / "whole.safetensors")
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(file.unet.scheduler)))
    return path


def test_every_weight_arrives_unchanged(whole):
    _, (unet, vae, text), path = whole
    model = load_model(path)
    for part, loaded in ((unet, model.unet.net), (vae, model.vae.net), (text, model.text_encoder.net)):
        wanted, found = part.state_dict(), loaded.state_dict()
        assert found.keys() == wanted.keys()
        assert all(found[name].equal(wanted[name]) for name in wanted)


def test_its_prompts_are_those_of_its_own_text_encoder(whole):
    family, (_, _, text), path = whole
    model = load_model(path)
    ids = [token for token, _ in model.text_encoder.tokenize("a silver jeep, driving")["l"][0]]
    assert ids[:7] == [49406, 320, 3467, 11286, 267, 4161, 49407]
    assert set(ids[7:]) == ({49407} if family == "sd1" else {0})
    assert model.text_encoder.encode("a silver jeep, driving").equal(text(torch.tensor([ids])).last_hidden_state)


def test_inversion_and_edit_are_those_of_the_diffusers_folder(whole, tmp_path):
    family, made, path = whole
    (tmp_path / "whole.safetensors").write_bytes(path.read_bytes())
    models = [load_model(each) for each in (path, as_folder(made, family, tmp_path / "folder"))]
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for model in models:
        inverted = invert(Controller(model.unet), model.text_encoder, latents, "a red jeep", steps=5)
        results.append((inverted.trace.noise, edit(inverted, model.text_encoder, "a blue jeep", named()).latents))
    assert relative(results[0][0], results[1][0]) < 1e-5
    assert relative(results[0][1], results[1][1]) < 1e-5


def test_nothing_is_asked_of_the_network(whole, monkeypatch):
    def refused(*_given, **_more):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    load_model(whole[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_precision_in_memory_is_chosen_whatever_the_files(tmp_path, dtype):
    mixed = {
        name: weight.half() if "attn" in name else weight.bfloat16()
        for name, weight in single_file(*parts("sd1")).items()
    }
    model = load_model(saved(mixed, tmp_path / "mixed.safetensors"), dtype=dtype)
    assert {part.net.dtype for part in (model.unet, model.text_encoder, model.vae)} == {dtype}
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    found = model.unet.net.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
    assert found.equal(mixed[name].to(dtype))


def test_the_file_may_go_once_it_is_loaded(weights, tmp_path):
    path = saved(weights, tmp_path / "whole.safetensors")
    model = load_model(path)
    before = model.unet.net.conv_in.weight.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert model.unet.net.conv_in.weight.equal(before)


@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_of_plain_tensors_gives_the_same(weights, tmp_path, inside):
    torch.save({"state_dict": weights, "global_step": 5} if inside else weights, tmp_path / "whole.ckpt")
    model = load_model(tmp_path / "whole.ckpt")
    assert model.unet.net.conv_in.weight.equal(weights["model.diffusion_model.input_blocks.0.0.weight"])


def test_what_training_programs_leave_beside_the_tensors_is_passed_over(weights, tmp_path, monkeypatch):
    """The published files have a callback's class and numpy's numbers beside `state_dict`."""
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    modules = {"pytorch_lightning": {}, "pytorch_lightning.callbacks": {}}
    modules["pytorch_lightning.callbacks.model_checkpoint"] = {"ModelCheckpoint": callback}
    for name, held in modules.items():
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"state_dict": weights, "callbacks": {callback: {"best": np.float64(0.5)}}}, tmp_path / "old.ckpt")
    monkeypatch.undo()
    model = load_model(tmp_path / "old.ckpt")
    assert model.unet.net.conv_in.weight.equal(weights["model.diffusion_model.input_blocks.0.0.weight"])


def test_averaged_weights_beside_the_others_are_passed_over(weights, tmp_path):
    extra = {name.replace(".", "").replace("model", "model_ema.", 1): weight * 0 for name, weight in weights.items()}
    model = load_model(saved({**weights, **extra}, tmp_path / "ema.safetensors"))
    assert model.unet.net.conv_in.weight.equal(weights["model.diffusion_model.input_blocks.0.0.weight"])


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_averaged_weights_without_others_are_the_unet(tmp_path, family):
    usual = single_file(*parts(family), family)
    flat = {
        "model_ema." + name.removeprefix("model.").replace(".", "") if name.startswith(UNET) else name: weight
        for name, weight in usual.items()
    }
    assert not any(name.startswith(UNET) for name in flat)
    loads = [load_model(saved(each, tmp_path / f"{i}.safetensors")) for i, each in enumerate((flat, usual))]
    found, wanted = (model.unet.net.state_dict() for model in loads)
    assert set(found) == set(wanted) and all(found[name].equal(wanted[name]) for name in wanted)


def test_the_vaes_attention_may_have_diffusers_names(weights, tmp_path):
    names = {".norm.": ".group_norm.", ".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".proj_out.": ".to_out.0."}

    def renamed(name):
        return next((name.replace(o, n) for o, n in names.items() if f"attn_1{o}" in name), name)

    odd = {renamed(name): weight for name, weight in weights.items()}
    assert len(odd.keys() - weights.keys()) == 20
    models = [load_model(saved(each, tmp_path / f"{i}.SAFETENSORS")) for i, each in enumerate((odd, weights))]
    found, wanted = (model.vae.net.state_dict() for model in models)
    assert all(found[name].equal(wanted[name]) for name in wanted)


def test_an_exclamation_mark_is_a_letter_though_stable_diffusion_2_pads_with_it(tmp_path):
    for family, padding in (("sd1", 49407), ("sd2", 0)):
        path = saved(single_file(*parts(family), family), tmp_path / f"{family}.safetensors")
        ids = [token for token, *_ in load_model(path).text_encoder.tokenize("stop!")["l"][0]]
        assert ids[:4] == [49406, 1691, 256, 49407] and set(ids[4:]) == {padding}


def test_a_smaller_vocabulary_is_refused(weights, tmp_path):
    few = {
        **weights,
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(1000, 64),
    }
    with pytest.raises(ModelError, match="knows 1000 tokens; CLIP's 49408"):
        load_model(saved(few, tmp_path / "few.safetensors"))


def test_old_names_and_idle_tensors_are_understood(weights, tmp_path):
    """Merged files leave `text_model` out, carry position numbers, and have the VAE's attention as linear layers."""
    odd = {name.replace("transformer.text_model.", "transformer."): weight for name, weight in weights.items()}
    odd["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    odd["model_ema.decay"] = torch.tensor(0.9999)
    flat = {
        name: weight[:, :, 0, 0].contiguous() if "mid.attn_1" in name and weight.ndim == 4 else weight
        for name, weight in odd.items()
    }
    model, usual = (
        load_model(saved(flat, tmp_path / "odd.safetensors")),
        load_model(saved(weights, tmp_path / "a.safetensors")),
    )
    for part in ("unet", "text_encoder", "vae"):
        found, wanted = (getattr(each, part).net.state_dict() for each in (model, usual))
        assert all(found[name].equal(wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("family", "change", "metadata", "prediction", "zero_terminal"),
    [
        ("sd1", {}, None, "epsilon", False),
        ("sd1", {"v_pred": torch.tensor([])}, None, "v_prediction", False),
        ("sd1", {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, None, "v_prediction", True),
        ("sd1", {}, {"modelspec.predict_key": "v"}, "v_prediction", False),
        ("sd1", {}, {"modelspec.predict_key": "v", "modelspec.prediction_type": "v"}, "v_prediction", False),
        ("sd1", {}, {"ss_v_parameterization": "True"}, "v_prediction", False),
        ("sd1", {}, {"ss_zero_terminal_snr": "True"}, "epsilon", True),
        ("sd2", {}, None, "epsilon", False),
        ("sd2", {V_PREDICTION_KEY: torch.linspace(-1, 1, 64)}, None, "v_prediction", False),
        ("sd2", {V_PREDICTION_KEY: torch.linspace(-1, 1, 64)}, {"modelspec.predict_key": "epsilon"}, "epsilon", False),
    ],
)
def test_what_a_file_predicts_is_found_out(tmp_path, family, change, metadata, prediction, zero_terminal):
    path = tmp_path / "whole.safetensors"
    save_file({**single_file(*parts(family), family), **change}, path, metadata=metadata)
    file = SingleFile(path)
    assert (file.prediction(), file.zero_terminal()) == (prediction, zero_terminal)


def test_what_it_predicts_can_be_said_instead(weights, tmp_path):
    path = saved(weights, tmp_path / "whole.safetensors")
    model = load_model(path, prediction="v_prediction", zero_terminal=True)
    schedule = model.unet.schedule(10)
    assert schedule.prediction_type == "v_prediction"
    assert schedule.alphas[-1] == 0.0


UNET = "model.diffusion_model."
WRONG = {
    "SDXL": {f"{UNET}label_emb.0.0.weight": (1280, 2816), f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)},
    "SDXL checkpoint": {"conditioner.embedders.1.model.ln_final.weight": (1280,)},
    "SDXL refiner": {f"{UNET}label_emb.0.0.weight": (1536, 2560)},
    "Stable Diffusion 3": {f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": (1, 1)},
    "Flux": {f"{UNET}double_blocks.0.img_attn.qkv.weight": (1, 1)},
    "inpainting .9 input channels": {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)},
    "instruct-pix2pix": {f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3)},
    "ControlNet": {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
    "T2I-Adapter": {"body.0.block1.weight": (1,)},
    "LoRA": {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 8)},
    "LoRA.": {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 8)},
    "VAE": {"decoder.conv_in.weight": (512, 4, 3, 3)},
    "text encoder": {"text_model.embeddings.token_embedding.weight": (49408, 768)},
    "motion module": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
    "textual inversion": {"emb_params": (4, 768)},
    "diffusers' layout": {"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)},
    "Stable Video Diffusion": {
        f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3),
        f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight": (320,),
    },
    "without text encoder and VAE": {"input_blocks.0.0.weight": (320, 4, 3, 3)},
    "EMA": {"model_ema.first_stage_modelencoderconv_inweight": (128, 3, 3, 3)},
    "inpainting": {"model_ema.diffusion_modelinput_blocks00weight": (320, 9, 3, 3)},
    "textual inversion embedding": {"<cat-toy>": (768,)},
    "Stable Video": {f"{UNET}input_blocks.1.1.time_stack.0.norm1.weight": (320,)},
    "IP-Adapter": {"ip_adapter.1.to_k_ip.weight": (1, 1)},
    "no kind of model": {"x": (1,)},
}


@pytest.mark.parametrize("said", WRONG)
def test_every_other_kind_of_file_is_named(said, tmp_path):
    tensors = {name: torch.zeros(shape, dtype=torch.int8) for name, shape in WRONG[said].items()}
    file = saved(tensors, tmp_path / "x.safetensors")
    assert kind_of(WRONG[said]).family == ""
    with pytest.raises(ModelError, match=rf"x.safetensors is .*{said.rstrip('.')}.*a whole checkpoint of"):
        load_model(file)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("cond_stage_model.", "is a checkpoint without its text encoder"),
        ("first_stage_model.", "has no VAE"),
        (UNET, "is a VAE"),
    ],
)
def test_a_pruned_file_is_told_what_it_lacks(weights, tmp_path, prefix, said):
    kept = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    with pytest.raises(ModelError, match=said):
        load_model(saved(kept, tmp_path / "pruned.safetensors"))


@pytest.mark.parametrize(
    "name", [f"{UNET}input_blocks.1.0.in_layers.2.bias", "first_stage_model.decoder.conv_out.bias"]
)
def test_a_missing_tensor_is_named(weights, tmp_path, name):
    del weights[name]
    with pytest.raises(ModelError, match="1 keys .* missing"):
        load_model(saved(weights, tmp_path / "part.safetensors"))


def test_a_foreign_tensor_is_named(weights, tmp_path):
    weights[f"{UNET}input_blocks.1.0.in_layers.9.bias"] = torch.zeros(1)
    with pytest.raises(ModelError, match="1 keys .* unknown"):
        load_model(saved(weights, tmp_path / "more.safetensors"))


@pytest.mark.parametrize("length", [0, 5, 2000, -1000])
def test_a_truncated_file_is_refused(weights, tmp_path, length):
    path = saved(weights, tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="cut.safetensors cannot be read"):
        load_model(path)


class Trap:
    """A pickle that would run code when opened."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_with_code_is_refused_and_not_run(weights, tmp_path, suffix):
    torch.save({**weights, "x": Trap()}, tmp_path / f"trap{suffix}")
    with pytest.raises(ModelError, match=f"trap{suffix} cannot be read"):
        load_model(tmp_path / f"trap{suffix}")


def test_a_pickle_that_claims_more_than_it_stores_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1).expand(1 << 40)}, tmp_path / "huge.ckpt")
    with pytest.raises(ModelError, match=r"larger than what is stored of them: 1 keys \(x\)"):
        load_model(tmp_path / "huge.ckpt")


def test_quantised_weights_are_refused_by_name(weights, tmp_path):
    weights[f"{UNET}out.2.scale_weight"] = torch.ones(1)
    with pytest.raises(ModelError, match="quantised weights .*connect it as a MODEL"):
        load_model(saved(weights, tmp_path / "fp8.safetensors"))


def test_an_unreadable_path_is_named(tmp_path):
    with pytest.raises(ModelError, match="absent.safetensors has no model_index.json"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="absent.safetensors cannot be read"):
        check_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "shapes",
    [
        {f"{UNET}input_blocks.0.0.weight": (320,)},
        {f"{UNET}input_blocks.0.0.weight": ()},
        {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}x.transformer_blocks.0.attn2.to_k.weight": (5,)},
        {"conv_in.weight": (4,), "down_blocks.x": (1,)},
        {"label_emb.0.0.weight": ()},
        {"conditioner.embedders.0.model.x": ()},
    ],
)
def test_a_file_whose_tensors_have_too_few_dimensions_is_refused_in_our_words(tmp_path, shapes):
    file = saved({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    assert kind_of(shapes).family == ""
    with pytest.raises(ModelError, match=r"x.safetensors is .*a whole checkpoint of"):
        load_model(file)
