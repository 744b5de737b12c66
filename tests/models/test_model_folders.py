"""What a model's folder may say, and what of it reaches the libraries."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken, CLIPTokenizer

from fatezero_ext import load_model, load_unet
from fatezero_ext.diffusion.schedule import Schedule
from fatezero_ext.errors import ModelError
from fatezero_ext.models.folder.clip_tokenizer import read_clip_tokenizer
from fatezero_ext.models.folder.detect import MARK, TOY_FOLDER
from fatezero_ext.models.single_file.checkpoint import TOKENIZER
from fatezero_ext.models.weight_files import WeightFile
from fatezero_ext.untrusted.plain_files import read_json

from ..conftest import GOLDEN

WEIGHTS = "diffusion_pytorch_model.safetensors"
SENTENCES = (
    "a silver jeep, driving down",
    "STOP!! it's 2 o'clock (really)",
    "café 日本 \U0001f600",
    "",
    "  spaced   out ",
)


def test_a_copy_of_the_built_in_model_is_a_built_in_one_and_another_unet_is_not(folder, tmp_path):
    copied = shutil.copytree(TOY_FOLDER, tmp_path / "copy")
    for unet in (load_model(copied).unet, load_unet(copied / "unet"), load_unet(TOY_FOLDER / "unet")):
        assert unet.built_in and unet.settings.key_frames == () and unet.objects == ()
    assert load_model(folder, unet_folder=copied / "unet").unet.built_in
    (copied / "unet" / MARK).unlink()
    for unet in (load_model(copied).unet, load_model(TOY_FOLDER, unet_folder=copied / "unet").unet):
        assert not unet.built_in and unet.settings.key_frames == (-1, "first")


def test_a_mark_of_another_form_is_refused_in_words(tmp_path):
    copied = shutil.copytree(TOY_FOLDER / "unet", tmp_path / "unet")
    for said in ({}, {"objects": "cat"}, {"objects": [1]}):
        (copied / MARK).write_text(json.dumps(said))
        with pytest.raises(ModelError, match=f"{MARK} has no list of names under 'objects'.*or remove it"):
            load_unet(copied)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "model", tmp_path / "model"))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "said",
    [
        {"attn_implementation": "kernels-community/flash-attn3"},
        {"_attn_implementation": "someone/code"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"auto_map": {"AutoModel": "someone/code--model.Model"}},
        {"torch_dtype": "os.system", "dtype": "int8", "trust_remote_code": True},
    ],
)
def test_what_would_fetch_code_or_change_the_model_is_passed_over(folder, model, said):
    for part in ("text_encoder", "unet", "vae"):
        change(folder / part / "config.json", **said)
    loaded = load_model(folder)
    assert loaded.text_encoder.net.config._attn_implementation == model.text_encoder.net.config._attn_implementation
    assert getattr(loaded.text_encoder.net.config, "quantization_config", None) is None
    assert loaded.text_encoder.encode("a road").equal(model.text_encoder.encode("a road"))
    assert loaded.unet.digest() == model.unet.digest()


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("unet/config.json", "block_out_channels", [10**9] * 4, "each a whole number from 1 to 8,192"),
        ("unet/config.json", "layers_per_block", 10**9, "layers_per_block is 1000000000; a whole number from 1 to 16"),
        ("unet/config.json", "layers_per_block", 16, "no complete UNet2DConditionModel: .* missing"),
        ("unet/config.json", "attention_head_dim", 7, "16 channels with attention_head_dim 7; one that divides"),
        ("unet/config.json", "down_block_types", ["os.system"] * 4, "CrossAttnDownBlock2D, DownBlock2D"),
        ("unet/config.json", "addition_embed_type", "text_time", "listens to a prompt alone"),
        ("unet/config.json", "_class_name", "UNetMotionModel", "describes UNetMotionModel; a UNet of Stable"),
        ("vae/config.json", "_class_name", "AutoencoderTiny", "describes AutoencoderTiny; AutoencoderKL"),
        ("vae/config.json", "scaling_factor", 0, "scaling_factor is 0; a number from 1e-06"),
        ("vae/config.json", "shift_factor", 0.1, "shift_factor is 0.1; null"),
        ("text_encoder/config.json", "num_hidden_layers", 10**6, "num_hidden_layers is 1000000; .*1 to 64"),
        ("text_encoder/config.json", "max_position_embeddings", 10, "max_position_embeddings is 10; .*77 to"),
        ("text_encoder/config.json", "model_type", "t5", "describes t5; clip_text_model"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9, "is 1000000000; .*1 to 100,000"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1], "1 trained_betas; as many as"),
        ("scheduler/scheduler_config.json", "beta_start", "x" * 10**4, r"beta_start is x+\.\.\.; a number"),
    ],
)
def test_numbers_and_names_without_bounds_are_refused_with_the_limit(folder, part, key, value, message):
    change(folder / part, **{key: value})
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_config_with_a_byte_order_mark_is_read(folder, model):
    """Editors of Windows put one first."""
    for path in [*folder.rglob("*.json")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_model(folder).unet.digest() == model.unet.digest()


def test_a_schedule_of_a_billion_steps_is_refused_in_python_too():
    with pytest.raises(ModelError, match=r"num_train_timesteps is 1000000000; .*1 to 100,000"):
        Schedule.from_config({"num_train_timesteps": 10**9}, 10)


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX")
@pytest.mark.parametrize("part", ["unet/config.json", f"unet/{WEIGHTS}", "tokenizer/vocab.json", "vae/config.json"])
@pytest.mark.parametrize(
    ("place", "message"), [(pipe, "named pipe"), (endless, "a device"), (Path.mkdir, "a folder|has neither|no such")]
)
def test_only_plain_files_are_opened(folder, part, place, message):
    (folder / part).unlink()
    place(folder / part)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_circle_of_links_is_an_error_and_a_link_into_a_cache_is_none(folder, tmp_path):
    config = folder / "unet" / "config.json"
    config.rename(tmp_path / "blob")
    config.symlink_to(tmp_path / "blob")
    load_unet(folder / "unet")
    config.unlink()
    loop(config)
    with pytest.raises(ModelError, match="Too many levels of symbolic links"):
        load_unet(folder / "unet")


@pytest.mark.skipif(os.name == "nt", reason="pipes are POSIX")
def test_the_list_of_models_passes_over_what_is_no_plain_file(tmp_path, monkeypatch):
    from fatezero_ext.cli.node_pack import load_pack

    models = load_pack("nodes.method.model_list")
    for name, place in (("pipe", pipe), ("endless", endless), ("loop", loop)):
        (tmp_path / name).mkdir()
        place(tmp_path / name / "config.json")
    shutil.copytree(GOLDEN / "model" / "unet", tmp_path / "good")
    monkeypatch.setattr(load_pack("nodes.host.python").PythonHost, "diffusers_folders", lambda _host: (tmp_path,))
    assert [name for name in models.model_names() if name in ("pipe", "endless", "loop", "good")] == ["good"]


def test_the_list_of_models_begins_with_the_built_in_ones():
    from fatezero_ext.cli.node_pack import load_pack

    models = load_pack("nodes.method.model_list")
    names = models.model_names()[:2]
    assert names == ["built-in toy model", "built-in objects model"]
    assert [models.model_path(name).name for name in names] == ["model", "objects_model"]


@pytest.mark.parametrize("text", ["[" * 10**5, '{"x": ' + "9" * 10**4 + "}", "\ufeff\ufeff{}", "{}" + " " * 2**21])
def test_json_that_upsets_a_parser_is_an_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="config.json (cannot be read|has 2,097,154 bytes; at most 1,048,576)"):
        read_json(tmp_path / "config.json")


# ---- tokenizers


@pytest.mark.parametrize("place", [GOLDEN / "model" / "tokenizer", TOKENIZER])
def test_a_tokenizer_is_the_one_that_transformers_reads(place, tmp_path):
    wanted = CLIPTokenizer.from_pretrained(place)
    wanted.save_pretrained(tmp_path)  # as one tokenizer.json, by newer versions
    for source in (place, tmp_path):
        got = read_clip_tokenizer(source, len(wanted))
        assert [got(text)["input_ids"] for text in SENTENCES] == [wanted(text)["input_ids"] for text in SENTENCES]
        assert got.pad_token_id == wanted.pad_token_id and len(got) == len(wanted)


def test_tokens_that_were_added_keep_their_numbers(folder):
    wanted = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    wanted.add_tokens([AddedToken("<jeep>"), AddedToken("<road>")])
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<jeep>": 2121, "<road>": 2122}))
    got = read_clip_tokenizer(folder / "tokenizer", 2123)
    assert got("a <road> <jeep>")["input_ids"] == wanted("a <road> <jeep>")["input_ids"]
    with pytest.raises(ModelError, match="has 2123 tokens, its model 2121; they belong to different models"):
        load_model(folder)


# ---- weights in several files


def sharded(folder, **homes):
    """The UNet's weights in two files with an index."""
    path = folder / "unet" / WEIGHTS
    whole = load_file(path)
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, keys in parts.items():
        save_file({key: whole[key] for key in keys}, path.with_name(name))
    path.unlink()
    index = {key: name for name, keys in parts.items() for key in keys} | homes
    path.with_name(f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))


def test_weights_in_several_files_give_the_same_unet(folder, model):
    sharded(folder)
    assert load_unet(folder / "unet").digest() == model.unet.digest()


@pytest.mark.parametrize("home", ["../../secret.safetensors", "/etc/passwd", "a.bin", ".", ""])
def test_an_index_that_leaves_its_folder_is_refused(folder, home):
    sharded(folder, **{"conv_in.weight": home})
    with pytest.raises(ModelError, match="index.json names the file .*in the same folder is needed"):
        load_unet(folder / "unet")


def test_an_index_of_tensors_that_are_not_there_is_refused(folder):
    sharded(folder, more="a.safetensors")
    with pytest.raises(ModelError, match=r"tensors that its files do not have: 1 keys \(more\)"):
        load_unet(folder / "unet")


def test_weights_of_another_shape_or_kind_are_told_in_our_own_words(folder):
    path = folder / "unet" / WEIGHTS
    whole = load_file(path)
    save_file(whole | {"conv_in.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(ModelError, match=r"conv_in.weight is \[3, 3\], and \[16, 4, 3, 3\] is needed\. Use"):
        load_unet(folder / "unet")
    save_file(whole | {"conv_in.weight": whole["conv_in.weight"].to(torch.int8)}, path)
    with pytest.raises(ModelError, match=r"conv_in.weight in torch.int8, as quantised files do; float16"):
        load_unet(folder / "unet")


# ---- pickles


def test_a_compressed_pickle_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"x": torch.zeros(10**6)}, tmp_path / "plain.bin")
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, zipfile.ZipFile(tmp_path / "small.bin", "w") as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "small.bin").stat().st_size < 10**4
    with pytest.raises(ModelError, match=r"compressed, to be unpacked to 4,00\d,\d+ bytes, which torch never does"):
        WeightFile(tmp_path / "small.bin")


@pytest.mark.parametrize("archive", [True, False])
def test_both_of_torchs_pickles_are_read(tmp_path, archive):
    weights = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.nn.Parameter(torch.ones(2, dtype=torch.float16))}
    torch.save(weights, tmp_path / "w.bin", _use_new_zipfile_serialization=archive)
    file = WeightFile(tmp_path / "w.bin")
    got = file.read(file.shapes)
    assert all(got[name].equal(weights[name]) for name in weights)


def test_a_pickle_of_the_old_kind_that_claims_memory_is_refused(tmp_path):
    torch.save({"x": torch.zeros(4)}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.bin").read_bytes()
    assert content.count(b"K\x04N") == 1  # four numbers, no view
    (tmp_path / "w.bin").write_bytes(content.replace(b"K\x04N", b"J\xff\xff\xff\x7fN"))
    with pytest.raises(ModelError, match=r"it claims 2,147,483,647 numbers, more than a file of \d+ bytes has"):
        WeightFile(tmp_path / "w.bin")


@pytest.mark.parametrize("held", [pickle.dumps({"x": 1}, 4), b"\x80\x02}" + b"0" * 100])
def test_pickles_that_torch_did_not_write_are_refused(tmp_path, held):
    (tmp_path / "w.bin").write_bytes(held)
    with pytest.raises(ModelError, match="damaged pickle, or one that holds more than tensors"):
        WeightFile(tmp_path / "w.bin")
