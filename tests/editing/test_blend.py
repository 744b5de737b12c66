"""Masks: which maps they are read from, and how heat becomes a mask."""

import pytest
import torch

from fatezero_ext.attention.sites import LayerAddress, Site
from fatezero_ext.editing.masks import MaskWords, blend_layers, threshold_heat, word_heat
from fatezero_ext.errors import SettingsError

LEVELS = {"down.0": 1, "down.1": 2, "down.2": 4, "mid.0": 8, "up.1": 4, "up.2": 2, "up.3": 1}


def sites(height, width):
    """Cross-attention sites of a Stable Diffusion 1.x UNet for latents of height x width cells."""
    found = {}
    for place, downscale in LEVELS.items():
        stage, block = place.split(".")
        for unit in range({"down": 2, "mid": 1, "up": 3}[stage]):
            address = LayerAddress(stage, int(block), unit, "cross")
            found[address] = Site(address, 1, -(-height // downscale), -(-width // downscale), downscale)
    return found


@pytest.mark.parametrize(
    ("height", "width", "downscale"),
    [(64, 64, 4), (96, 96, 4), (40, 64, 4), (32, 32, 2), (16, 16, 1), (128, 128, 4), (256, 256, 8)],
)
def test_masks_are_read_from_a_quarter_of_the_latents_or_what_is_nearest(height, width, downscale):
    if downscale == 8:
        with pytest.raises(SettingsError, match="1024 cells or fewer"):
            blend_layers(sites(height, width), most_cells=1024)
        return
    chosen = blend_layers(sites(height, width), most_cells=1024)
    assert {sites(height, width)[address].downscale for address in chosen} == {downscale}
    assert len(chosen) == 5 and {address.stage for address in chosen} == {"down", "up"}


def test_a_512_pixel_clip_reads_the_five_layers_of_the_authors_program():
    assert [str(a) for a in blend_layers(sites(64, 64), 1024)] == [
        "down.2.0.cross",
        "down.2.1.cross",
        "up.1.0.cross",
        "up.1.1.cross",
        "up.1.2.cross",
    ]


def test_another_resolution_can_be_asked_for_if_it_is_recorded():
    assert len(blend_layers(sites(64, 64), 1024, downscale=2)) == 5
    with pytest.raises(SettingsError, match="1/1 is not recorded; 1/2, 1/4 are"):
        blend_layers(sites(64, 64), 1024, downscale=1)


def test_heat_is_the_weighted_tokens_attention_averaged_over_layers_and_heads():
    site = Site(LayerAddress("up", 1, 0, "cross"), 2, 3, 4, 4)
    maps = [torch.rand(2, heads, 12, 77) for heads in (2, 2)]
    weights = torch.zeros(77)
    weights[[3, 5]] = 1
    by_hand = sum(m[..., 3] + m[..., 5] for m in maps).sum(1).reshape(2, 3, 4) / 4
    torch.testing.assert_close(word_heat([(m, site) for m in maps], weights), by_hand)


def test_each_frame_is_compared_with_its_own_maximum_after_the_resize():
    heat = torch.tensor([[[1.0, 0.4], [0.1, 0.1]], [[0.01, 0.004], [0.001, 0.001]]])
    mask = threshold_heat(heat, 0.3, (2, 2), grow=False)
    assert mask.tolist() == [[[True, True], [False, False]]] * 2


def test_growing_takes_in_the_eight_neighbours():
    heat = torch.zeros(1, 5, 5)
    heat[0, 2, 2] = 1
    assert threshold_heat(heat, 0.5, (5, 5))[0, 1:4, 1:4].all()
    assert threshold_heat(heat, 0.5, (5, 5)).sum() == 9


def test_heat_without_any_attention_masks_nothing():
    assert not threshold_heat(torch.zeros(1, 4, 4), 0.3, (4, 4)).any()


def test_subtracted_words_are_cut_out_without_growing():
    heat = {0: torch.ones(1, 4, 4), 1: torch.zeros(1, 4, 4)}
    heat[1][0, 0, 0] = 1
    words = MaskWords(torch.tensor([1.0, 0.0]), 0.5, torch.tensor([0.0, 1.0]), 0.5)
    mask = words.at(lambda weights: heat[int(weights.argmax())], (4, 4))
    assert not mask[0, 0, 0] and mask.sum() == 15


def test_what_is_subtracted_is_taken_out_of_a_joined_mask_too():
    heats = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).view(2, 1, 1, 4)
    words = MaskWords(torch.tensor([1.0, 0.0]), 2.0, torch.tensor([0.0, 1.0]), 0.5)
    joining = torch.tensor([False, True, True, False]).view(1, 1, 4)
    mask = words.at(lambda weights: torch.einsum("w,wfyx->fyx", weights, heats), (1, 4), joining)
    assert mask.view(-1).tolist() == [False, True, False, False]
