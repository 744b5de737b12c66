"""Where words look and which places belong together, against plain loops over the recorded pages."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from fatezero_ext import Capture, Controller, InflationSettings, Storage, invert, load_toy
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import PromptError, SettingsError, StoreError
from fatezero_ext.inspection.components import principal_components
from fatezero_ext.inspection.heat_maps import asked_words, self_attention_maps, word_heats, word_labels
from fatezero_ext.inspection.selection import Reading
from fatezero_ext.media.video import write_video
from fatezero_ext.pictures.attention_sheets import (
    coloured,
    component_tiles,
    frames_like_latents,
    heat_tiles,
    sheets,
    spread,
    tile_size,
)
from fatezero_ext.prompts.token_report import described_words

from ..conftest import recorded

SOURCE = "a silver jeep on the curvy road"
STEPS = 3
FRAMES, HEIGHT, WIDTH = 3, 12, 20  # latents whose half, 6x10, is too coarse: maps are read at 12x20
OBJECT_THRESHOLD = 0.2
"""Share of a frame's most heat above which a cell counts as the word's; found to suit the built-in model."""


@pytest.fixture(scope="module")
def latents():
    return torch.randn(FRAMES, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def inverted(model, latents):
    return invert(Controller(model.unet), model.text_encoder, latents, SOURCE, steps=STEPS)


def bare(model, latents, prompt, capture=None):
    """An inversion of one step that keeps no attention."""
    controller = Controller(model.unet, capture or Capture(), Storage("recompute"))
    return invert(controller, model.text_encoder, latents, prompt, steps=1)


@pytest.fixture(scope="module")
def toy():
    """The built-in model, each frame reading its own keys, with part of the sample clip inverted."""
    model, clip = load_toy(InflationSettings(key_frames=())), example_clip()
    every_other = torch.as_tensor(clip.frames)[::3]
    controller = invert(
        Controller(model.unet), model.text_encoder, model.vae.encode(every_other), clip.prompt, steps=10
    )
    return SimpleNamespace(model=model, controller=controller, truth=torch.as_tensor(clip.masks)[::3])


def pages(controller, kind, downscale):
    """Every recorded map of that kind and resolution outside the middle block, with its site and its step."""
    for step in range(len(controller.trace.schedule)):
        for address, (probs, site) in recorded(controller, step).items():
            if address.kind == kind and site.downscale == downscale and address.stage != "mid":
                yield probs, site, step


@pytest.mark.parametrize(("asked", "downscale"), [(None, 1), (2, 2)])
def test_word_heats_are_means_over_steps_layers_and_heads(inverted, asked, downscale):
    heats = word_heats(inverted, ("silver jeep", "road"), Reading(downscale=asked))
    tokens = [inverted.trace.prompt.find(word) for word in ("silver jeep", "road")]
    for heat, positions in zip(heats, tokens, strict=True):
        found = []
        for probs, site, _step in pages(inverted, "cross", downscale):
            for head in range(probs.shape[1]):
                cells = sum(probs[:, head, :, token] for token in positions)
                found.append(cells.reshape(FRAMES, site.height, site.width))
        torch.testing.assert_close(heat, sum(found) / len(found))


def test_every_word_of_the_prompt_is_shown_when_none_is_asked_for(inverted):
    heats = word_heats(inverted)
    assert [word.text for word in asked_words(inverted)] == SOURCE.split()
    assert heats.shape == (7, FRAMES, HEIGHT, WIDTH) and heats.dtype == torch.float32
    torch.testing.assert_close(heats[1] + heats[2], word_heats(inverted, ("silver jeep",))[0])


@pytest.mark.parametrize(
    ("window", "steps"),
    [((0.0, 1.0), [0, 1, 2]), ((0.0, 0.7), [0, 1]), ((0.5, 0.5), [1]), ((1.0, 1.0), [2]), ((0.0, 0.1), [0])],
)
def test_only_the_steps_of_the_window_are_read(inverted, window, steps):
    read = []
    heat = word_heats(inverted, ("road",), Reading(window), on_read=lambda *done: read.append(done))[0]
    token = inverted.trace.prompt.find("road")
    found = [probs[..., list(token)].sum(-1).mean(1) for probs, _, step in pages(inverted, "cross", 1) if step in steps]
    torch.testing.assert_close(heat.flatten(1), sum(found) / len(found))
    assert read == [(number + 1, len(steps)) for number in range(len(steps))]


@pytest.mark.parametrize("key_frames", [(), (-1, "first"), ("mid",)])
def test_both_storage_policies_give_the_same_maps(golden, model, latents, key_frames):
    unet, found = golden.unet(InflationSettings(key_frames=key_frames)), []
    for policy in ("features", "maps"):
        controller = invert(Controller(unet, storage=Storage(policy)), model.text_encoder, latents, SOURCE, steps=2)
        found.append((word_heats(controller), self_attention_maps(controller)))
    for by_features, by_maps in zip(*found, strict=True):
        torch.testing.assert_close(by_features, by_maps, rtol=1e-4, atol=1e-6)


def test_self_attention_lays_the_key_frames_on_one_another(inverted):
    maps = self_attention_maps(inverted, Reading((0.0, 0.7)))
    found = []
    for probs, site, step in pages(inverted, "self", 1):
        assert probs.shape[-1] == 2 * site.cells
        if step < 2:
            found += [
                probs[:, head, :, : site.cells] + probs[:, head, :, site.cells :] for head in range(len(probs[0]))
            ]
    torch.testing.assert_close(maps.flatten(3).flatten(1, 2), sum(found) / len(found))
    torch.testing.assert_close(maps.sum((3, 4)), torch.ones(FRAMES, HEIGHT, WIDTH))


def test_one_frame_is_enough(model, latents):
    controller = invert(Controller(model.unet), model.text_encoder, latents[:1], SOURCE, steps=2)
    assert word_heats(controller).shape == (7, 1, HEIGHT, WIDTH)
    assert principal_components(self_attention_maps(controller), 3).shape == (1, 3, HEIGHT, WIDTH)


def test_half_precision_stores_are_averaged_in_full_precision(model, latents, inverted):
    storage = Storage("maps", precision="bfloat16")
    controller = invert(Controller(model.unet, storage=storage), model.text_encoder, latents, SOURCE, steps=STEPS)
    heats = word_heats(controller)
    assert heats.dtype == torch.float32
    torch.testing.assert_close(heats, word_heats(inverted), rtol=0.02, atol=1e-4)


def never(done, total):
    raise AssertionError("a page was read")


def test_words_that_are_not_in_the_prompt_are_refused_before_any_page_is_read(inverted):
    with pytest.raises(PromptError, match="words: 'boat' is not in the prompt"):
        word_heats(inverted, ("jeep", "boat"), on_read=never)


def test_resolutions_that_were_not_recorded_are_refused_before_any_page_is_read(inverted):
    for read in (word_heats, self_attention_maps):
        with pytest.raises(SettingsError, match="1/16 is not recorded"):
            read(inverted, reading=Reading(downscale=16), on_read=never)


def test_a_controller_without_an_inversion_is_refused(model):
    for read in (word_heats, self_attention_maps):
        with pytest.raises(StoreError, match="no inversion.*Invert the clip first"):
            read(Controller(model.unet))


def test_self_attention_that_was_not_recorded_is_refused(model, latents):
    controller = bare(model, latents, SOURCE, Capture(self_attention=False))
    with pytest.raises(SettingsError, match="recorded no self-attention"):
        self_attention_maps(controller, on_read=never)


def test_an_empty_prompt_has_no_words_to_look_at(model, latents):
    with pytest.raises(PromptError, match="source_prompt is empty"):
        word_heats(bare(model, latents, ""), on_read=never)


@pytest.mark.parametrize("window", [(0.6, 0.2), (-0.1, 1.0), (0.0, 1.2), (float("nan"), 1.0)])
def test_windows_outside_the_steps_are_refused(window):
    with pytest.raises(SettingsError, match="the steps to read are"):
        Reading(window)


def test_words_that_occur_twice_say_where(model, latents):
    controller = bare(model, latents, "the jeep on the road")
    assert word_labels(asked_words(controller)) == ["the [1]", "jeep", "on", "the [4]", "road"]
    assert asked_words(controller, ("the",))[0].tokens == (1, 4)


def two_groups(frames):
    """Maps [frames, 4, 6, 4, 6] in which a block of places, one further right each frame, looks only at itself."""
    block = torch.zeros(frames, 4, 6)
    for frame in range(frames):
        block[frame, 1:3, frame : frame + 3] = 1
    member = block.flatten(1)
    same = (member[:, :, None] == member[:, None]).float()
    return (same / same.sum(-1, keepdim=True)).reshape(frames, 4, 6, 4, 6), block


@pytest.mark.parametrize("side", ["queries", "keys"])
def test_the_first_component_tells_two_groups_of_places_apart(side):
    maps, block = two_groups(3)
    first = principal_components(maps, 2, side)[:, 0]
    torch.testing.assert_close(first, block, rtol=0, atol=1e-4)


def test_components_of_keys_are_the_authors_formula():
    maps = torch.rand(1, 3, 4, 3, 4, generator=torch.Generator().manual_seed(5)).double()
    attention = maps.reshape(12, 12).numpy()
    _u, _s, vh = np.linalg.svd(attention - np.mean(attention, axis=1, keepdims=True))
    found = principal_components(maps.float(), 4, "keys")[0]
    for component, row in zip(found, vh, strict=False):
        image = torch.from_numpy(row.reshape(3, 4)).float()
        image = (image - image.min()) / (image.max() - image.min())
        assert min((component - image).abs().max(), (component - (1 - image)).abs().max()) < 1e-3


def test_components_keep_their_order_and_sign_from_frame_to_frame():
    halves = torch.tensor([1.0] * 8 + [-1.0] * 8) / 4
    stripes = torch.tensor([1.0, -1.0] * 8) / 4
    strengths = ((3.0, 2.0), (2.0, 3.0), (-3.0, 2.0))
    frames = [a * torch.outer(halves, halves) + b * torch.outer(stripes, stripes) for a, b in strengths]
    found = principal_components(torch.stack(frames).reshape(3, 4, 4, 4, 4), 2)
    assert found[0, 0].flatten().diff().abs().gt(0.5).sum() == 1  # the halves, the stronger ones, come first
    torch.testing.assert_close(found, found[:1].expand(3, -1, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [0, 25])
def test_more_components_than_places_are_refused(count):
    with pytest.raises(SettingsError, match="1 to 24 at 4x6 places"):
        principal_components(two_groups(1)[0], count)


def iou(heat, truth):
    """Mean overlap over frames of heat above OBJECT_THRESHOLD of its frame's most with the true mask, cell by cell."""
    true = torch.nn.functional.adaptive_avg_pool2d(truth[:, None], heat.shape[-2:])[:, 0] > 0.5
    found = heat / heat.amax((1, 2), keepdim=True) > OBJECT_THRESHOLD
    return ((found & true).sum((1, 2)) / (found | true).sum((1, 2))).mean().item()


def test_the_objects_words_cover_the_object(toy):
    """Measured with the shipped model: circle .76, red .80, red circle .79, grass .04."""
    heats = word_heats(toy.controller, ("circle", "red", "red circle", "grass"))
    circle, red, both, grass = (iou(heat, toy.truth) for heat in heats)
    assert min(circle, red, both) >= 0.4 > grass


def test_the_first_component_of_the_sample_clip_is_the_object(toy):
    first = principal_components(self_attention_maps(toy.controller), 1)[:, 0]
    true = torch.nn.functional.adaptive_avg_pool2d(toy.truth[:, None], first.shape[-2:])[:, 0] > 0.5
    found = first > 0.5
    assert ((found & true).sum() / (found | true).sum()).item() > 0.4


def test_colours_grow_lighter_with_heat():
    colours = coloured(torch.linspace(-0.5, 1.5, 200))
    lightness = colours @ torch.tensor([0.299, 0.587, 0.114])
    assert colours.shape == (200, 3) and (lightness.diff() >= -1e-6).all()
    assert colours[0].equal(coloured(torch.tensor(0.0))) and colours[-1].equal(coloured(torch.tensor(1.0)))


def test_each_frame_of_spread_heat_has_a_maximum_of_one_and_no_heat_stays_nothing():
    heat = torch.zeros(2, 4, 6)
    heat[0, 1, 2] = 0.013
    shares = spread(heat, (32, 48))
    assert shares[0].max() == 1 and shares[1].eq(0).all() and (shares >= 0).all()
    row, column = divmod(shares[0].argmax().item(), 48)
    assert 8 <= row < 16 and 16 <= column < 24


@pytest.mark.parametrize(("words", "rows"), [(1, 1), (4, 1), (7, 2), (10, 3)])
def test_sheets_have_even_sides_and_fill_rows_of_at_most_five_tiles(words, rows):
    source = torch.rand(2, 30, 50, 3)
    heats = torch.rand(words, 2, 6, 10)
    size = tile_size((6, 10), 65)
    assert size == (64, 108)
    drawn = sheets(heat_tiles(heats, ["a very long phrase of many words"] * words, size, source))
    assert drawn.shape[0] == 2 and drawn.shape[1] % 2 == drawn.shape[2] % 2 == 0
    assert round(drawn.shape[1] / (size[0] * 1.3)) == rows and drawn.shape[2] // (size[1] + 8) == -(
        -(words + 1) // rows
    )
    assert drawn.dtype == torch.float32 and 0 <= drawn.min() and drawn.max() <= 1


def test_the_most_heat_of_each_frame_is_noted_in_percent():
    heats = torch.tensor([1.0, 0.094, 0.0123, 0.0]).reshape(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert heat_tiles(heats, ["word"], (8, 8))[0].notes == ("max 100 %", "max 9.4 %", "max 1.2 %", "max 0 %")


@pytest.mark.parametrize(("count", "tiles"), [(2, 2), (3, 4), (5, 6)])
def test_three_components_are_also_shown_as_colours(count, tiles):
    components = torch.rand(1, count, 4, 6)
    drawn = component_tiles(components, (4, 6))
    assert len(drawn) == tiles
    if count >= 3:
        torch.testing.assert_close(drawn[0].frames, components[:, :3].permute(0, 2, 3, 1))
    torch.testing.assert_close(drawn[-1].frames, coloured(components[:, -1]))


def test_frames_are_cut_as_the_clip_was_and_others_refused():
    images = torch.rand(2, 53, 84, 3)
    assert frames_like_latents(images, 2, (6, 10)).shape == (2, 50, 84, 3)
    assert frames_like_latents(images[:, :48, :80], 2, (6, 10)).equal(images[:, :48, :80])
    for wrong, frames in ((images, 3), (images.transpose(1, 2), 2)):
        with pytest.raises(SettingsError, match="Connect the frames that were encoded and inverted"):
            frames_like_latents(wrong, frames, (6, 10))


def test_words_are_described_with_their_tokens_and_pieces(toy):
    described = described_words(toy.model.text_encoder, "a watercolor circle, on grass")
    assert "watercolor[2,3]" in described.splitlines()[0]
    assert "2-3: watercolor = water + color" in described and "4-5: circle, = circle + ," in described
    assert "7 of 75 tokens" in described
    assert described_words(toy.model.text_encoder, " ") == "The prompt is empty."


def test_pieces_of_a_comfyui_clip_are_read_by_its_untokenize(toy):
    own = toy.model.text_encoder
    names = {number: piece for piece, number in own.tokenizer.get_vocab().items()}
    comfy = SimpleNamespace(
        tokenize=own.tokenize,
        tokenizer=SimpleNamespace(untokenize=lambda pairs: [(pair, names[pair[0]]) for pair in pairs]),
    )
    assert described_words(comfy, "a watercolor heart") == described_words(own, "a watercolor heart")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workflow that shows a short clip, 64x80 pixels, of the built-in model."""
    folder = tmp_path_factory.mktemp("workflows")
    write_video(folder / "clip.mp4", torch.rand(2, 64, 80, 3, generator=torch.Generator().manual_seed(3)), 8)
    shown = {"from_step": 0.0, "to_step": 1.0, "picture_height": 64, "resolution": "auto", "images": ["2", 0]}
    load = {"key_frames": "-1, first", "norm": "clip", "precision": "float32", "least_sc_channel": 0}
    prompt = "a watercolor painting of a red circle"
    nodes = {
        "1": ("LoadVideo", {"file": "clip.mp4"}),
        "2": ("GetVideoComponents", {"video": ["1", 0]}),
        "3": ("FateZero_LoadPseudo3DUNet", {"model": "built-in toy model", **load}),
        "4": ("VAEEncode", {"pixels": ["2", 0], "vae": ["3", 2]}),
        "5": ("FateZero_RegisterAttentionControl", {"unet": ["3", 0], "self_attention": True, "most_cells": 1024}),
        "6": (
            "FateZero_DDIMInvert",
            {"controller": ["5", 0], "clip": ["3", 1], "latent": ["4", 0], "source_prompt": prompt, "steps": 2},
        ),
        "7": ("FateZero_WordHeatMaps", {"controller": ["6", 0], "words": "red circle, watercolor", **shown}),
        "8": (
            "FateZero_SelfAttentionComponents",
            {"controller": ["6", 0], "components": 3, "side": "queries", **shown},
        ),
        "9": ("FateZero_ShowWords", {"clip": ["3", 1], "prompt": prompt}),
        "10": ("PreviewImage", {"images": ["7", 0]}),
        "11": ("PreviewImage", {"images": ["8", 0]}),
        "12": ("PreviewAny", {"source": ["9", 0]}),
    }
    graph = {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}
    (folder / "see.json").write_text(json.dumps(graph))
    return folder


def run(folder, *settings):
    command = load_pack("nodes.headless.command")
    call = command.Command(folder / "see.json", settings=settings, output=folder / "output", inputs=folder)
    (outcome,) = command.collect(call, Console(quiet=True))
    return outcome


def test_the_nodes_show_what_python_computes(folder):
    outcome = run(folder)
    controller = outcome["FateZero_DDIMInvert"].outputs[0]
    pictures, mask = outcome["FateZero_WordHeatMaps"].outputs
    assert pictures.shape[0] == 2 and pictures.shape[3] == 3 and mask.shape == (2, 64, 80)
    heat = word_heats(controller, ("red circle",))[0]
    assert mask.equal(spread(heat, (64, 80))) and mask.amax((1, 2)).eq(1).all()
    components = outcome["FateZero_SelfAttentionComponents"].outputs[0]
    assert components.shape[0] == 2 and components.shape[2] > 5 * 80
    assert "2-3: watercolor = water + color" in outcome["FateZero_ShowWords"].outputs[0]


def test_a_window_the_wrong_way_round_is_refused_before_anything_runs(folder):
    for node in ("7", "8"):
        with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match="the steps to read are 0.9 to"):
            run(folder, f"{node}.from_step=0.9", f"{node}.to_step=0.3")


def test_words_that_are_not_in_the_prompt_are_refused_before_anything_runs(folder):
    said = "Word Heat Maps input 'words': 'boat' is not in the prompt"
    with pytest.raises(load_pack("nodes.headless.problems").InvalidWorkflow, match=said):
        run(folder, "7.words=boat")


def test_one_phrase_as_a_text_is_one_phrase(inverted):
    assert asked_words(inverted, "silver jeep") == asked_words(inverted, ("silver jeep",))


@pytest.mark.parametrize("phrases", [5, 0, [5], ("jeep", None)])
def test_phrases_that_are_no_texts_are_refused(inverted, phrases):
    with pytest.raises(SettingsError, match="words has (5|0|None); words of the prompt are needed, each a text. Write"):
        word_heats(inverted, phrases)
