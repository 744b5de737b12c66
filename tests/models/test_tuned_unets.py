"""UNets tuned on a clip by Tune-A-Video's own training: their folders load, and predict what showlab's program does."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fatezero_ext import InflationSettings, TemporalLayers, load_model, load_unet
from fatezero_ext.errors import ModelError

from ..conftest import GOLDEN, relative

FOLDER = GOLDEN / "tune_a_video"
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


def layers_over_time(blocks):
    """Tensors of temporal attention by their names, drawn in the names' order as for the reference."""
    shapes = {}
    for block, width in blocks.items():
        shapes |= {f"{block}.attn_temp.to_{name}.weight": (width, width) for name in ("k", "out.0", "q", "v")}
        shapes |= {f"{block}.{name}": (width,) for name in ("attn_temp.to_out.0.bias", "norm_temp.bias")}
        shapes[f"{block}.norm_temp.weight"] = (width,)
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(shapes[name], generator=generator) * 0.2 for name in sorted(shapes)}
    return {name: tensor + 1 if name.endswith("norm_temp.weight") else tensor for name, tensor in drawn.items()}


@pytest.fixture(scope="module")
def weights():
    plain = load_file(GOLDEN / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    norms = {key: len(w) for key, w in plain.items() if key.endswith(".norm1.weight") and "transformer_blocks" in key}
    return plain | layers_over_time({key.removesuffix(".norm1.weight"): width for key, width in norms.items()})


@pytest.fixture
def folder(weights, tmp_path):
    """As Tune-A-Video's training writes it."""
    made = tmp_path / "models" / "car-turn" / "unet"
    made.mkdir(parents=True)
    shutil.copy(FOLDER / "config.json", made)
    torch.save(weights, made / "diffusion_pytorch_model.bin")
    return made


def predicted(unet, clip):
    latents = clip["latents"].transpose(1, 2).flatten(0, 1)
    return unet(latents, 501, clip["text"], frames=len(latents))


def test_its_prediction_is_that_of_showlabs_own_program(folder):
    clip = load_file(FOLDER / "noise.safetensors")
    unet = load_unet(folder)
    assert unet.settings.temporal == TemporalLayers(convolutions=False)
    got = predicted(unet, clip).unflatten(0, (1, -1)).transpose(1, 2)
    assert relative(got, clip["noise"]) < 1e-4  # as two runs of the reference program on other kernels


def test_its_layers_over_time_matter(folder):
    clip = load_file(FOLDER / "noise.safetensors")
    plain = load_unet(GOLDEN / "model" / "unet")
    assert relative(predicted(plain, clip), predicted(load_unet(folder), clip)) > 1e-2


def test_the_same_weights_under_fatezeros_names_give_the_same(folder, weights, golden, tmp_path):
    renamed = {k.replace("_temp.", "_temporal."): w for k, w in weights.items()}
    convolutions = load_file(golden.tuned_folder / "diffusion_pytorch_model.safetensors")
    idle = {k: torch.zeros_like(w) for k, w in convolutions.items() if ".conv_temporal." in k}
    save_file(renamed | idle, tmp_path / "diffusion_pytorch_model.safetensors")
    shutil.copy(golden.tuned_folder / "config.json", tmp_path)
    clip = load_file(FOLDER / "noise.safetensors")
    assert relative(predicted(load_unet(folder), clip), predicted(load_unet(tmp_path), clip)) < 1e-5


def test_a_pipeline_takes_it_in_place_of_its_own_unet(folder, model):
    tuned = load_model(GOLDEN / "model", InflationSettings(key_frames=(0,)), unet_folder=folder)
    assert tuned.unet.settings.key_frames == (0,) and not tuned.unet.settings.temporal.convolutions
    assert tuned.unet.scheduler == model.unet.scheduler


def test_a_whole_pipeline_of_it_loads(folder):
    pipeline = shutil.copytree(GOLDEN / "model", folder.parents[1] / "pipeline")
    shutil.rmtree(pipeline / "unet")
    shutil.copytree(folder, pipeline / "unet")
    assert load_model(pipeline).unet.settings.temporal == TemporalLayers(convolutions=False)


def test_the_node_lists_and_loads_it(folder, monkeypatch):
    from fatezero_ext.cli.node_pack import load_pack

    models, load = load_pack("nodes.method.model_list"), load_pack("nodes.method.load_unet")
    monkeypatch.setattr(
        load_pack("nodes.host.python").PythonHost, "diffusers_folders", lambda _host: (folder.parents[1],)
    )
    assert "car-turn/unet" in models.model_names()
    unet, _, _ = load.LoadPseudo3DUNet.execute("car-turn/unet", "-1, first", "clip", "float32", 0).result
    assert not unet.settings.temporal.convolutions


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("down_blocks.0.temp_convs.0.conv1.0.weight", r"a text-to-video UNet \(ModelScope\)"),
        (
            "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",
            r"a UNet with motion modules \(AnimateDiff\)",
        ),
    ],
)
def test_other_programs_unets_of_that_class_are_named(folder, weights, key, said):
    torch.save(weights | {key: torch.zeros(1)}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=f"unet is {said}: it has 1 keys .*needed"):
        load_unet(folder)


def test_a_layer_over_time_that_is_missing_is_named(folder, weights):
    lost = f"{BLOCK}.attn_temp.to_q.weight"
    torch.save({k: w for k, w in weights.items() if k != lost}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"1 keys \(.*attn_temporal.to_q.weight\) missing"):
        load_unet(folder)


def test_its_weights_beside_a_plain_config_are_refused(folder):
    config = json.loads((GOLDEN / "model" / "unet" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"112 keys .*unknown.*needs the config .*UNet3DConditionModel"):
        load_unet(folder)
