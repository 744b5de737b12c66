"""Single files in the list of Load Stable Diffusion for Video, and bare UNets beside them."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from benchmarks.make_checkpoint import parts, single_file
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import ModelError


@pytest.fixture
def weights():
    return single_file(*parts("sd1"))


@pytest.fixture
def listed(tmp_path, weights):
    """The node's module under a headless host whose models are in `tmp_path`."""
    (tmp_path / "checkpoints" / "sub").mkdir(parents=True)
    save_file(weights, tmp_path / "checkpoints" / "sub" / "whole.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoints" / "odd.safetensors")
    (tmp_path / "checkpoints" / "damaged.ckpt").write_bytes(b"no")
    folders = load_pack("nodes.headless.host")
    host = folders.RunnerHost(folders.Folders((tmp_path,), tmp_path, (tmp_path,)), None)
    with load_pack("nodes.host").installed(host):
        yield load_pack("nodes.method.load_unet").LoadPseudo3DUNet


def test_files_are_listed_without_being_opened_and_checked_at_queue_time(listed):
    options = next(socket for socket in listed.define_schema().inputs if socket.id == "model").options
    assert options[2:] == ["damaged.ckpt", "odd.safetensors", "sub/whole.safetensors"]
    assert listed.validate_inputs(model="sub/whole.safetensors", key_frames="first") is True
    assert "odd.safetensors is no kind of model" in listed.validate_inputs(model="odd.safetensors")
    for name in (
        "../x.safetensors",
        "/etc/passwd",
        "checkpoints/sub/whole.safetensors",
        "absent.safetensors",
        "a\0b",
        {},
        [],
        3,
    ):
        assert f"{str(name)!r} is not there" in listed.validate_inputs(model=name)


def test_the_node_loads_a_file_and_says_what_it_was_told(listed):
    unet, clip, vae = listed.execute(
        "sub/whole.safetensors", "first", "frame", "float32", 0, prediction="v_prediction", zero_terminal="yes"
    ).result
    assert (unet.name, unet.scheduler["prediction_type"]) == ("sub/whole.safetensors", "v_prediction")
    assert unet.scheduler["rescale_betas_zero_snr"] is True
    assert vae.decode(torch.zeros(1, 4, 4, 4)).shape == (1, 8, 8, 3)
    assert clip.encode("a jeep").shape == (1, 77, 64)


def test_a_folder_with_a_unet_alone_says_what_it_lacks_when_that_is_used(listed, tmp_path):
    parts("sd1")[0].save_pretrained(tmp_path / "tuned")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    options = next(socket for socket in listed.define_schema().inputs if socket.id == "model").options
    assert "tuned" in options and "text" not in options
    unet, clip, vae = listed.execute("tuned", "first", "frame", "float32", 0).result
    assert unet.name == "tuned"
    with pytest.raises(ModelError, match="no text encoder.*Load CLIP"):
        clip.tokenize("a jeep")
    for call in ("encode", "spacial_compression_decode", "temporal_compression_decode"):
        assert not hasattr(vae, call)  # to code that asks first
        with pytest.raises(ModelError, match="no VAE.*Load VAE"):
            getattr(vae, call)(torch.zeros(1, 8, 8, 3))


@pytest.mark.parametrize(("spread", "predicts"), [(0.0, "epsilon"), (1.0, "v_prediction")])
def test_what_a_bare_unet_of_the_second_family_predicts_is_told_from_its_last_attention(
    listed, tmp_path, spread, predicts
):
    torch.manual_seed(0)
    widths = (64, 64)
    unet = UNet2DConditionModel(
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        cross_attention_dim=1024,
    )
    bias = unet.up_blocks[-1].attentions[-1].transformer_blocks[0].norm1.bias
    bias.data = spread * torch.linspace(-1, 1, len(bias))
    unet.save_pretrained(tmp_path / "tuned")
    found = listed.execute("tuned", "first", "frame", "float32", 0).result[0]
    assert found.scheduler["prediction_type"] == predicts
    told = listed.execute("tuned", "first", "frame", "float32", 0, prediction="epsilon").result[0]
    assert told.scheduler["prediction_type"] == "epsilon"


def test_a_files_fingerprint_follows_its_size_and_time(listed, tmp_path):
    path = tmp_path / "checkpoints" / "odd.safetensors"
    before = listed.fingerprint_inputs(model="odd.safetensors")
    assert listed.fingerprint_inputs(model="odd.safetensors", norm="frame") == before
    save_file({**load_file(path), "y": torch.zeros(1)}, path)
    assert listed.fingerprint_inputs(model="odd.safetensors") != before
