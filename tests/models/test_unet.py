"""The inflated UNet: what it has in common with diffusers' own, and what a clip adds."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from fatezero_ext import (
    InflationSettings,
    LayerAddress,
    Pseudo3DUNet,
    TemporalLayers,
    plain,
    register_attention_control,
)
from fatezero_ext.attention.key_frames import resolve_key_frames
from fatezero_ext.errors import ModelError, SettingsError
from fatezero_ext.models.unet.forward_context import Call, running

from ..conftest import GOLDEN, relative


@pytest.fixture(scope="module")
def image_unet():
    return UNet2DConditionModel.from_pretrained(GOLDEN / "model" / "unet", local_files_only=True).eval()


def inflated(image_unet, **settings):
    return Pseudo3DUNet(copy.deepcopy(image_unet), InflationSettings(**settings))


@torch.no_grad()
def of_images(image_unet, latents, timestep, text):
    return image_unet(latents, timestep, encoder_hidden_states=text).sample


@pytest.mark.parametrize("temporal", [None, TemporalLayers(), TemporalLayers(rank=4), TemporalLayers(4, "after_cross")])
def test_one_frame_of_an_untuned_unet_equals_diffusers(image_unet, noise, temporal):
    latents, text = noise(1, 4, 16, 16), noise(1, 77, 32)
    with torch.no_grad():
        got = inflated(image_unet, temporal=temporal)(latents, 501, text, frames=1)
    torch.testing.assert_close(got, of_images(image_unet, latents, 501, text), rtol=0, atol=1e-5)


def test_frames_with_own_keys_and_own_norm_are_images(image_unet, noise):
    latents, text = noise(3, 4, 16, 16), noise(1, 77, 32)
    with torch.no_grad():
        got = inflated(image_unet, key_frames=(), norm="frame")(latents, 501, text, frames=3)
    wanted = of_images(image_unet, latents, 501, text.expand(3, -1, -1))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_untrained_temporal_layers_change_nothing(image_unet, noise):
    latents, text = noise(3, 4, 16, 16), noise(1, 77, 32)
    with torch.no_grad():
        without = inflated(image_unet)(latents, 501, text, frames=3)
        with_layers = inflated(image_unet, temporal=TemporalLayers())(latents, 501, text, frames=3)
    torch.testing.assert_close(with_layers, without, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["after_spatial", "after_cross", "after_feedforward"])
def test_temporal_attention_sits_at_its_place(image_unet, noise, position):
    """The block written out, with temporal attention over the frames of each cell at one of three places."""
    unet = inflated(image_unet, key_frames=(), temporal=TemporalLayers(4, position))
    block = unet.net.mid_block.attentions[0].transformer_blocks[0]
    x, text = noise(3, 4, 48), noise(1, 77, 32)
    with torch.no_grad(), running(Call(3, sites=unet.sites(3, 16, 16))):
        for parameter in block.attn_temporal.parameters():
            parameter.copy_(noise(*parameter.shape) * 0.3)
        wanted = x

        def over_time(y, place):
            if place != position:
                return y
            normed = block.norm_temporal(y)
            return y + torch.stack([block.attn_temporal(normed[:, cell][None])[0] for cell in range(4)], dim=1)

        wanted = over_time(wanted + block.attn1(block.norm1(wanted)), "after_spatial")
        wanted = over_time(wanted + block.attn2(block.norm2(wanted), encoder_hidden_states=text), "after_cross")
        wanted = over_time(wanted + block.ff(block.norm3(wanted)), "after_feedforward")
        got = block(x, encoder_hidden_states=text)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"), [({"position": "after_self"}, "after_self"), ({"rank": 0}, "rank is 0")]
)
def test_temporal_layers_that_cannot_be_made_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        TemporalLayers(**settings)


def test_clip_norm_joins_frames_and_frame_norm_does_not(image_unet, noise):
    first, second, text = noise(1, 4, 16, 16), noise(1, 4, 16, 16), noise(1, 77, 32)
    with torch.no_grad():
        for norm, joined in (("clip", True), ("frame", False)):
            unet = inflated(image_unet, key_frames=(), norm=norm)
            outputs = [unet(torch.cat([first, other]), 501, text, frames=2)[0] for other in (second, 3 * second)]
            assert (relative(*outputs) > 1e-3) is joined


def test_two_clips_in_one_call_do_not_see_each_other(image_unet, noise):
    unet, clips, texts = inflated(image_unet), noise(2, 3, 4, 16, 16), noise(2, 77, 32)
    with torch.no_grad():
        together = unet(clips.flatten(0, 1), 501, texts, frames=3)
        apart = [unet(clip, 501, text[None], frames=3) for clip, text in zip(clips, texts, strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 24), (9, 13), (20, 12)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_size_and_frame_count_has_a_site_for_every_layer(image_unet, noise, height, width, frames):
    unet, seen = inflated(image_unet), []

    def watching(q, k, v, site):
        assert q.shape[0] == frames and q.shape[2] == site.cells
        seen.append(site.address)
        return plain(q, k, v, site)

    with torch.no_grad():
        out = unet(noise(frames, 4, height, width), 501, noise(1, 77, 32), frames=frames, attend=watching)
    assert out.shape == (frames, 4, height, width)
    assert seen == [layer.address for layer in unet.layers]


def test_stable_diffusion_layout_has_32_layers_in_running_order(image_unet):
    addresses = [layer.address for layer in inflated(image_unet).layers]
    per_stage = {stage: sum(a.stage == stage for a in addresses) for stage in ("down", "mid", "up")}
    assert per_stage == {"down": 12, "mid": 2, "up": 18}
    assert [str(a) for a in addresses[:3]] == ["down.0.0.self", "down.0.0.cross", "down.0.1.self"]
    assert LayerAddress("up", 1, 0, "cross") in addresses


def test_registered_control_computes_every_layer_until_it_is_undone(image_unet, noise):
    unet, latents, text, seen = inflated(image_unet), noise(2, 4, 16, 16), noise(1, 77, 32), []

    def zeros(q, k, v, site):
        seen.append(site.address)
        return torch.zeros_like(q)

    with torch.no_grad():
        before = unet(latents, 501, text, frames=2)
        registration = register_attention_control(unet, zeros)
        during = unet(latents, 501, text, frames=2)
        registration.unregister()
        after = unet(latents, 501, text, frames=2)
    assert registration.num_att_layers == len(seen) == 32
    assert relative(during, before) > 1e-3
    assert after.equal(before)


def test_no_controller_is_plain_attention(image_unet, noise):
    unet, latents, text = inflated(image_unet), noise(2, 4, 16, 16), noise(1, 77, 32)
    with torch.no_grad(), register_attention_control(unet, None):
        assert unet(latents, 501, text, frames=2).equal(unet(latents, 501, text, frames=2, attend=plain))


def test_controls_can_be_undone_in_any_order(image_unet):
    unet = inflated(image_unet)

    class Control(list):
        """Empty, and so false, but a controller all the same."""

        def __call__(self, q, k, v, site):
            return torch.zeros_like(q)

    first, second = Control(), Control()
    registrations = [register_attention_control(unet, control) for control in (first, second)]
    assert unet.attend is second
    registrations[0].unregister()
    assert unet.attend is second
    registrations[1].unregister()
    registrations[1].unregister()
    assert unet.attend is plain


def test_an_error_inside_a_call_leaves_no_control_behind(image_unet, noise):
    unet, latents, text = inflated(image_unet), noise(2, 4, 16, 16), noise(1, 77, 32)

    def failing(q, k, v, site):
        raise RuntimeError("stopped")

    with torch.no_grad():
        before = unet(latents, 501, text, frames=2)
        with pytest.raises(RuntimeError, match="stopped"):
            unet(latents, 501, text, frames=2, attend=failing)
        assert unet(latents, 501, text, frames=2).equal(before)


@pytest.mark.parametrize(
    ("key_frames", "wanted"),
    [
        ((-1, "first"), ((0, 0, 1, 2, 3), (0,) * 5)),
        (("mid",), ((2,) * 5,)),
        (("middle", "last"), ((2,) * 5, (4,) * 5)),
        ((2,), ((2, 3, 4, 4, 4),)),
        ((), ()),
    ],
)
def test_key_frames_of_five_frames(key_frames, wanted):
    assert resolve_key_frames(key_frames, 5) == wanted


@pytest.mark.parametrize("word", ["frist", 1.5, True])
def test_unknown_key_frames_are_refused(word):
    with pytest.raises(SettingsError, match="unknown key frame.*one of first, mid, middle, last"):
        InflationSettings(key_frames=(word,))


def test_narrow_blocks_keep_their_own_keys(image_unet):
    layers = inflated(image_unet, key_frames=("mid",), least_sc_channel=32).layers
    own = {str(layer.address) for layer in layers if layer.address.kind == "self" and not layer.key_frames}
    assert own == {"down.0.0.self", "down.0.1.self", "up.3.0.self", "up.3.1.self", "up.3.2.self"}


def test_latents_that_do_not_fit_are_refused(image_unet, noise):
    unet, text = inflated(image_unet), noise(1, 77, 32)
    with pytest.raises(ModelError, match="9 channels.*needs 4"):
        unet(noise(1, 9, 16, 16), 501, text, frames=1)
    with pytest.raises(ModelError, match="4x16 cells are too small.*64x64 pixels"):
        unet(noise(1, 4, 4, 16), 501, text, frames=1)
    with pytest.raises(ModelError, match="clips of 2 frames"):
        unet(noise(3, 4, 16, 16), 501, text, frames=2)


def test_a_unet_is_inflated_once(image_unet):
    unet = inflated(image_unet)
    with pytest.raises(ModelError, match="inflated already"):
        Pseudo3DUNet(unet.net)


def test_unets_of_other_families_are_refused(image_unet):
    config = {key: value for key, value in image_unet.config.items() if not key.startswith("_")}
    attends = config["down_block_types"]
    images_only = {
        "down_block_types": ["DownBlock2D"] * len(attends),
        "up_block_types": ["UpBlock2D"] * len(attends),
        "mid_block_type": "UNetMidBlock2D",
    }
    with pytest.raises(ModelError, match="no transformer blocks"):
        Pseudo3DUNet(UNet2DConditionModel.from_config(config | images_only))
    more = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    }
    with pytest.raises(ModelError, match="more than text.*text_time.*SDXL"):
        Pseudo3DUNet(UNet2DConditionModel.from_config(config | more))
