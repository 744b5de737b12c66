"""Our VAE under the calls of core ComfyUI nodes."""

import pytest
import torch
from diffusers import AutoencoderKL

from fatezero_ext import load_toy
from fatezero_ext.errors import ModelError, VideoError

from ..conftest import relative

CELL = 4  # pixels, of the built-in model


@pytest.fixture(scope="module")
def vae():
    return load_toy().vae


@pytest.fixture(scope="module")
def frames():
    """[2, 200, 264, 3], smooth"""
    coarse = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (200, 264), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def latents(vae, frames):
    return vae.encode(frames)


# ComfyUI's own tiles, the mean of three sizes, are 0.15, 0.11, 0.07 and 0.11, 0.08, 0.05 from the whole here.
@pytest.mark.parametrize(
    ("tile", "overlap", "near", "seen"), [(64, 16, 0.2, 0.14), (96, 24, 0.15, 0.11), (128, 32, 0.11, 0.09)]
)
def test_tiles_come_near_the_whole(vae, frames, latents, tile, overlap, near, seen):
    found = vae.encode_tiled(frames, tile_x=tile, tile_y=tile, overlap=overlap, tile_t=64, overlap_t=8)
    assert found.shape == latents.shape and relative(found, latents) < near
    cells = {"tile_x": tile // CELL, "tile_y": tile // CELL, "overlap": overlap // CELL}
    wanted = vae.decode(latents)
    found = vae.decode_tiled(latents, **cells, tile_t=None, overlap_t=None)
    assert found.shape == wanted.shape and relative(found, wanted) < seen


@pytest.mark.parametrize(
    ("tile", "overlap"), [(64, 0), (100, 12), (72, 20), (48, 20), (96, 40), (64, 200), (8, 0), (1, 1)]
)
def test_tiles_of_any_size_give_the_whole_size(vae, frames, latents, tile, overlap):
    assert vae.encode_tiled(frames, tile_x=tile, tile_y=tile, overlap=overlap).shape == latents.shape
    found = vae.decode_tiled(
        latents[:1, :, :20, :24], tile_x=tile // CELL, tile_y=tile // CELL, overlap=overlap // CELL
    )
    assert found.shape == (1, 80, 96, 3) and found.isfinite().all()


def test_frames_within_one_tile_are_those_of_the_whole(vae, frames, latents):
    assert vae.encode_tiled(frames).equal(latents)
    assert vae.decode_tiled(latents).equal(vae.decode(latents))


def test_tiling_leaves_the_vae_as_it_was(vae, frames, latents):
    vae.encode_tiled(frames, tile_x=64, tile_y=64, overlap=16)
    assert not vae.net.use_tiling and vae.encode(frames).equal(latents)


@pytest.mark.parametrize("tiled", [False, True])
def test_sides_are_cropped_about_the_centre_and_transparency_is_dropped(vae, frames, tiled):
    encode = (lambda x: vae.encode_tiled(x, tile_x=32, tile_y=32, overlap=8)) if tiled else vae.encode
    padded = torch.cat([frames, torch.rand_like(frames[..., :1])], -1)
    torch.testing.assert_close(encode(padded[:, 0:63, 0:66]), encode(frames[:, 1:61, 1:65]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 2, 8, 8), (4, 8, 8), (1, 16, 8, 8), (0, 4, 8, 8)])
@pytest.mark.parametrize("call", ["decode", "decode_tiled"])
def test_latents_of_other_models_are_refused(vae, shape, call):
    with pytest.raises(
        VideoError, match=r"latents shaped .* came; this VAE decodes \[frames, 4, height, width\].*their own model"
    ):
        getattr(vae, call)(torch.zeros(shape))


@pytest.mark.parametrize("call", ["encode", "encode_tiled"])
def test_frames_with_more_axes_are_refused(vae, call):
    with pytest.raises(VideoError, match=r"the clip has shape \[1, 2, 16, 16, 3\]"):
        getattr(vae, call)(torch.zeros(1, 2, 16, 16, 3))


def test_core_nodes_learn_its_sizes(vae):
    assert vae.downscale_ratio == vae.upscale_ratio == vae.spacial_compression_encode() == CELL
    assert vae.spacial_compression_decode() == CELL and vae.latent_channels == 4
    assert vae.temporal_compression_decode() is None and vae.throw_exception_if_invalid() is None


def test_saved_weights_are_those_of_diffusers(vae):
    other = AutoencoderKL.from_config(vae.net.config)
    other.load_state_dict(vae.get_sd())
    assert all(a.equal(b) for a, b in zip(other.parameters(), vae.net.parameters(), strict=True))


def test_what_only_comfyuis_vae_has_is_refused_with_another_way(vae):
    with pytest.raises(ModelError, match=r"first_stage_model.*Load VAE"):
        _ = vae.first_stage_model
    assert not hasattr(vae, "first_stage_model")
