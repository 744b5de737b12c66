"""Heat of words that stand in no prompt: the source's own queries against the keys of a longer text."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fatezero_ext import Capture, InflationSettings, Reconstruction, Storage, register_attention_control
from fatezero_ext.attention.functional import split_heads
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.editing.masks import blend_layers
from fatezero_ext.errors import PromptError, SettingsError
from fatezero_ext.inspection.heat_maps import asked_words, word_heats, word_labels
from fatezero_ext.inspection.selection import Reading
from fatezero_ext.models.load import load_toy
from fatezero_ext.prompts.prompt import read_prompt
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..conftest import recorded
from ..small_runs import SOURCE, calls_of, inverted

STEPS = 3
WHOLE = f"{SOURCE} a red boat"


@pytest.fixture(scope="module")
def kept(model):
    return inverted(model, Storage("features"), steps=STEPS)


def by_hand(model, trace, word, steps=range(STEPS)):
    """The word's heat in another text, from queries of a run of the source that this test watches."""
    layers = blend_layers(model.unet.sites(trace.frames, *trace.size), 1024)
    keys_text, found = model.text_encoder.encode(WHOLE), []
    tokens = list(read_prompt(model.text_encoder, WHOLE).find(word))
    for step in steps:
        queries = {}

        def watch(q, k, v, site, queries=queries):
            queries[site.address] = q
            return model.unet.kernel(q, k, v, site)

        level = trace.latents[STEPS - 1 - step]
        model.unet(level, trace.schedule.timesteps[step], trace.text, frames=trace.frames, attend=watch)
        for layer in model.unet.layers:
            if layer.address in layers:
                q, k = queries[layer.address], split_heads(layer.module.to_k(keys_text), layer.heads)
                shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
                found.append(shares[..., tokens].sum(-1).mean(1))
    return (sum(found) / len(found)).unflatten(1, trace.size)


@pytest.mark.parametrize("policy", ["features", "maps", "recompute", "disk"])
@torch.no_grad()
def test_every_policy_shows_a_word_that_the_prompt_does_not_have(model, tmp_path, policy):
    cache = InversionCache(tmp_path, limit=2**30)
    storage = Storage("maps", "disk", cache=cache) if policy == "disk" else Storage(policy)
    controller = inverted(model, storage, steps=STEPS)
    heats = word_heats(controller, ("+red boat", "jeep"), text_encoder=model.text_encoder)
    for heat, word in zip(heats, ("red boat", "jeep"), strict=True):
        torch.testing.assert_close(heat, by_hand(model, controller.trace, word), rtol=1e-4, atol=1e-6)


def test_stored_queries_need_no_call_of_the_model_and_stored_maps_one_a_step(model, kept):
    maps = inverted(model, Storage("maps"), steps=STEPS)
    for controller, calls in ((kept, []), (maps, [3] * STEPS)):
        with calls_of(model.unet.net.conv_in) as made:
            word_heats(controller, ("+boat",), text_encoder=model.text_encoder)
        assert made == calls


def test_maps_of_a_reconstruction_are_looked_at_on_its_own_levels(model):
    options = {"steps": STEPS, "reconstruct": Reconstruction(guidance=3.0)}
    by_features, by_maps = (
        word_heats(inverted(model, Storage(policy), **options), ("+boat",), text_encoder=model.text_encoder)
        for policy in ("features", "maps")
    )
    torch.testing.assert_close(by_maps, by_features, rtol=1e-3, atol=1e-6)


def test_marked_words_keep_their_plus_as_labels(model, kept):
    words = asked_words(kept, ("jeep", "+boat"), model.text_encoder)
    assert word_labels(words) == ["jeep", "+boat"]


def never(done, total):
    raise AssertionError("a page was read")


def test_marked_words_without_a_text_encoder_are_refused_before_any_page_is_read(kept):
    with pytest.raises(PromptError, match=r"'\+boat' is a word outside.*give text_encoder"):
        word_heats(kept, ("+boat",), on_read=never)


@pytest.mark.parametrize("change", [{"projects": False}, {"added_keys": True}])
def test_a_model_whose_keys_come_from_more_than_the_text_is_refused(model, kept, change):
    patched = copy.copy(model.unet)
    patched.layers = tuple(replace(layer, **change) for layer in model.unet.layers)
    with pytest.raises(SettingsError, match=r"\+boat: words outside the source prompt cannot be looked for"):
        word_heats(replace(kept, unet=patched), ("+boat",), text_encoder=model.text_encoder, on_read=never)


def test_maps_recorded_beside_a_controller_cannot_be_made_anew(model):
    with register_attention_control(model.unet, lambda q, k, v, site: model.unet.kernel(q, k, v, site)):
        controller = inverted(model, Storage("maps"), steps=STEPS)
        with pytest.raises(SettingsError, match="stored as maps.*unregister the controller"):
            word_heats(controller, ("+boat",), text_encoder=model.text_encoder)


@pytest.mark.parametrize("policy", ["features", "maps"])
def test_heat_that_follows_shapes_is_the_self_attention_map_times_the_heat(model, policy):
    controller = inverted(model, Storage(policy), steps=STEPS)
    plain = word_heats(controller, ("jeep",), Reading((0.4, 0.4)))[0]
    maps = [
        probs.sum(1) / probs.shape[1]
        for at, (probs, site) in recorded(controller, 1).items()
        if at.kind == "self" and at.stage != "mid" and site.cells == plain[0].numel()
    ]
    keys = controller.unet.sites(3, 16, 16)
    frames_read = next(site for at, site in keys.items() if at.kind == "self").key_frames
    gathered = torch.cat([plain.flatten(1)[frames] for frames in frames_read], dim=1)
    wanted = sum(each @ gathered[..., None] for each in maps)[..., 0] / len(maps)
    found = word_heats(controller, ("jeep",), Reading((0.4, 0.4)), follow_shapes=True)[0]
    torch.testing.assert_close(found.flatten(1), wanted, rtol=1e-4, atol=1e-6)


def test_shapes_that_were_not_recorded_are_refused(model):
    controller = inverted(model, Storage("features"), steps=1, capture=Capture(self_attention=False))
    with pytest.raises(SettingsError, match="follow_shapes is on but the inversion recorded no self-attention"):
        word_heats(controller, ("jeep",), follow_shapes=True, on_read=never)


@pytest.fixture(scope="module")
def circle():
    """Two frames of the sample clip under a prompt that says nothing of it, and the truth of the circle."""
    toy, clip = load_toy(InflationSettings(key_frames=())), example_clip()
    latents = toy.vae.encode(torch.as_tensor(clip.frames)[::7])
    controller = inverted(toy, Storage("features"), latents=latents, prompt="a photo", steps=8)
    truth = torch.nn.functional.avg_pool2d(torch.as_tensor(clip.masks)[::7], 4) > 0.5
    return SimpleNamespace(toy=toy, controller=controller, truth=truth)


def overlap(heat, truth, threshold):
    inside = heat / heat.amax((1, 2), keepdim=True) > threshold
    return float((inside & truth).sum() / (inside | truth).sum())


def test_a_word_that_no_prompt_has_finds_its_object_and_following_shapes_fills_it(circle):
    found = [
        word_heats(circle.controller, ("+circle",), text_encoder=circle.toy.text_encoder, follow_shapes=follows)[0]
        for follows in (False, True)
    ]
    assert overlap(found[0], circle.truth, 0.2) > 0.5
    assert overlap(found[1], circle.truth, 0.4) > 0.75
