"""Loading models: what is accepted, and what is said of folders that are not models."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fatezero_ext import InflationSettings, TemporalLayers, load_model, load_unet
from fatezero_ext.errors import ModelError, PromptError, VideoError

from ..conftest import GOLDEN, relative

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "model", tmp_path / "model")


def test_a_tuned_unet_brings_its_temporal_layers_and_their_rank(golden):
    unet = golden.unet(tuned=True)
    assert unet.settings.temporal.rank == 16
    weights = load_file(golden.tuned_folder / WEIGHTS)
    loaded = unet.net.state_dict()
    assert set(loaded) == set(weights) and all(loaded[key].equal(weights[key]) for key in weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.conv_temporal.up.weight"), r"1 keys \(conv_in.conv_temporal.up.weight\) missing"),
        (lambda w: w.update({"lora.extra": torch.zeros(1)}), r"1 keys \(lora.extra\) unknown"),
    ],
)
def test_tuned_weights_that_miss_or_add_keys_are_refused(golden, tmp_path, change, message):
    weights = load_file(golden.tuned_folder / WEIGHTS)
    change(weights)
    save_file(weights, tmp_path / WEIGHTS)
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    with pytest.raises(ModelError, match=message):
        load_unet(tmp_path)


@pytest.mark.parametrize("missing", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_a_folder_without_one_of_its_parts_names_it(folder, missing):
    shutil.rmtree(folder / missing)
    with pytest.raises(ModelError, match=missing):
        load_model(folder)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no model_index.json.*unet/, vae/"):
        load_model(tmp_path)


def test_damaged_files_are_named(folder):
    weights = folder / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="unet.*cannot be read"):
        load_model(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json cannot be read.*JSON"):
        load_unet(folder / "unet")
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds list; a JSON object"):
        load_unet(folder / "unet")


def test_weights_with_a_tensor_missing_are_refused_in_every_part(folder):
    for part, name, key in [
        ("unet", WEIGHTS, "conv_in.weight"),
        ("vae", WEIGHTS, "quant_conv.bias"),
        ("text_encoder", "model.safetensors", None),
    ]:
        path = folder / part / name
        whole = load_file(path)
        lost = key or next(key for key in whole if key.endswith("final_layer_norm.weight"))
        save_file({k: v for k, v in whole.items() if k != lost}, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=rf"{part} is no complete .*{lost.split('.')[-2]}.* missing.*random"):
            load_model(folder)
        save_file(whole, path, metadata={"format": "pt"})
    load_model(folder)


def pickled(folder):
    """Replace every safetensors file of a pipeline folder by a pickle of the same tensors."""
    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), path.with_name(path.name.replace("model.safetensors", "model.bin")))
        path.unlink()
    (folder / "text_encoder" / "model.bin").rename(folder / "text_encoder" / "pytorch_model.bin")


def test_pickles_of_plain_tensors_give_the_same_model(folder, model, noise):
    pickled(folder)
    loaded = load_model(folder)
    for part in ("unet", "vae", "text_encoder"):
        got, wanted = (getattr(m, part).net.state_dict() for m in (loaded, model))
        assert set(got) == set(wanted) and all(got[key].equal(wanted[key]) for key in wanted)


class Trap:
    """A pickle that would run code when opened."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_of_anything_else_is_refused_and_not_run(folder, part):
    pickled(folder)
    path = next((folder / part).glob("*.bin"))
    torch.save({"conv_in.weight": Trap()}, path)
    with pytest.raises(ModelError, match=f"{part}.*cannot be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (Trap(), "cannot be read.*safetensors weights are needed"),
        ([torch.zeros(1)], "holds list, not tensors by name"),
        ({"state_dict": {"x": torch.zeros(1)}}, r"missing, 1 keys \(x\) unknown"),
        ({"weights": {"x": torch.zeros(1)}}, r"more than tensors by name: 1 keys \(weights\)"),
        ({"lora.extra": torch.zeros(1)}, r"missing, 1 keys \(lora.extra\) unknown"),
    ],
)
def test_a_tuned_pickle_that_is_not_plain_tensors_is_refused(golden, tmp_path, held, message):
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    torch.save(held, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=message):
        load_unet(tmp_path)


def test_a_tuned_pickle_is_the_tuned_unet(golden, tmp_path):
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    weights = load_file(golden.tuned_folder / WEIGHTS)
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    loaded = load_unet(tmp_path).net.state_dict()
    assert set(loaded) == set(weights) and all(loaded[key].equal(weights[key]) for key in weights)


@pytest.mark.parametrize("rank", [1, 40, 160])
def test_the_rank_of_each_temporal_convolution_is_read_off_its_tensors(golden, tmp_path, noise, rank):
    """Ranks above a layer's width are halved widths: 40 is kept by 48-wide layers only, 160 by none."""
    tuned = load_unet(GOLDEN / "model" / "unet", InflationSettings(temporal=TemporalLayers(rank)))
    for name, parameter in tuned.net.named_parameters():
        if "_temporal" in name:
            parameter.add_(0.05 * noise(*parameter.shape))
    save_file(tuned.net.state_dict(), tmp_path / WEIGHTS)
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    loaded, x, text = load_unet(tmp_path), noise(3, 4, 16, 16), noise(1, 77, 32)
    assert loaded(x, 501, text, frames=3).equal(tuned(x, 501, text, frames=3))


def test_tuned_weights_beside_a_plain_config_are_refused(folder, golden):
    shutil.copy(golden.tuned_folder / WEIGHTS, folder / "unet" / WEIGHTS)
    with pytest.raises(
        ModelError, match=r"more than its config describes: .*_temporal.* UNetPseudo3D|needs the config"
    ):
        load_model(folder)


def test_pickles_are_left_alone_by_a_torch_that_cannot_open_them_safely(folder, golden, tmp_path, monkeypatch):
    pickled(folder)
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    torch.save(load_file(golden.tuned_folder / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    monkeypatch.setattr("torch.__version__", type(torch.__version__)("2.5.1"))
    for load, at in ((load_model, folder), (load_unet, tmp_path)):
        with pytest.raises(ModelError, match="torch 2.5.1 cannot open safely; torch 2.6 or safetensors"):
            load(at)


def test_a_variant_of_the_weights_does_not_hide_the_pickle(folder):
    pickled(folder)
    save_file({"x": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    load_model(folder)


def renamed(folder, variant, ending):
    """Weights as `save_pretrained(variant=...)` names them."""
    if ending == "bin":
        pickled(folder)
    for path in folder.rglob(f"*model.{ending}"):
        path.rename(path.with_name(path.name.replace("model.", f"model.{variant}.")))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_folder_of_a_variant_alone_is_the_model(folder, model, variant, ending):
    renamed(folder, variant, ending)
    loaded = load_model(folder)
    assert loaded.unet.digest() == model.unet.digest()
    assert loaded.text_encoder.encode("a road").equal(model.text_encoder.encode("a road"))


@pytest.mark.parametrize(
    "shard", ["diffusion_pytorch_model-{}.fp16.safetensors", "diffusion_pytorch_model.fp16-{}.safetensors"]
)
def test_a_variant_in_several_files_is_the_model(folder, model, shard):
    unet = folder / "unet"
    weights = load_file(unet / WEIGHTS)
    (unet / WEIGHTS).unlink()
    names = sorted(weights)
    homes = {name: shard.format(f"0000{1 + number % 2}-of-00002") for number, name in enumerate(names)}
    for home in set(homes.values()):
        save_file({name: weights[name] for name in names if homes[name] == home}, unet / home)
    (unet / f"{WEIGHTS}.index.fp16.json").write_text(json.dumps({"weight_map": homes}))
    assert load_model(folder).unet.digest() == model.unet.digest()


@pytest.mark.parametrize("content", [b"hello, this is text", b"", b"\x80\x02."])
def test_damaged_pickles_are_named(golden, tmp_path, content):
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match="damaged pickle, or one that holds more than tensors"):
        load_unet(tmp_path)


def test_a_tuned_unet_with_full_temporal_convolutions_is_told_by_its_tensors(golden, tmp_path, noise):
    settings = InflationSettings(temporal=TemporalLayers())
    tuned = load_unet(GOLDEN / "model" / "unet", settings)
    for name, parameter in tuned.net.named_parameters():
        if "_temporal" in name:
            parameter.add_(0.05 * noise(*parameter.shape))
    save_file(tuned.net.state_dict(), tmp_path / WEIGHTS)
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    loaded = load_unet(tmp_path)
    assert loaded.settings.temporal == TemporalLayers(rank=None)
    x, text = noise(3, 4, 16, 16), noise(1, 77, 32)
    assert loaded(x, 501, text, frames=3).equal(tuned(x, 501, text, frames=3))


def test_a_unet_of_another_kind_is_refused(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    from diffusers import UNet2DConditionModel

    from fatezero_ext.models.unet.model import Pseudo3DUNet

    other = UNet2DConditionModel.from_config({**config, "only_cross_attention": True})
    with pytest.raises(ModelError, match="not of Stable Diffusion 1.x / 2.x kind"):
        Pseudo3DUNet(other, InflationSettings())


def test_our_vae_crops_to_whole_cells_about_the_centre_and_decodes_back(model):
    frames = torch.rand(2, 19, 30, 3, generator=torch.Generator().manual_seed(0))
    latents = model.vae.encode(frames)
    assert latents.shape == (2, 4, 2, 3)
    assert latents.equal(model.vae.encode(frames[:, 1:17, 3:27]))
    decoded = model.vae.decode(latents)
    assert decoded.shape == (2, 16, 24, 3) and 0 <= decoded.min() and decoded.max() <= 1


def test_frames_are_encoded_one_by_one_and_alpha_is_left_out(model):
    frames = torch.rand(10, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    together = model.vae.encode(frames)
    apart = torch.cat([model.vae.encode(frame[None, ..., :3]) for frame in frames])
    assert relative(together, apart) < 1e-5


def test_empty_and_tiny_clips_are_refused(model):
    with pytest.raises(VideoError, match=r"the clip has shape \[0, 16, 16, 3\]"):
        model.vae.encode(torch.zeros(0, 16, 16, 3))
    with pytest.raises(VideoError, match="1 frames of 4x16; at least one frame of 8x8"):
        model.vae.encode(torch.zeros(1, 4, 16, 3))


def test_prompts_longer_than_the_text_encoder_are_refused(model):
    assert len(model.text_encoder.tokenize("road " * 75)["l"][0]) == 77
    with pytest.raises(PromptError, match="78 tokens.*77 fit"):
        model.text_encoder.tokenize("road " * 76)
