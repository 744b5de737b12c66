"""The masks of single steps of an edit, as `on_step` is given them."""

from dataclasses import replace

import pytest
import torch

from fatezero_ext import BlendSettings, Capture, Reading, Storage, edit, word_heats
from fatezero_ext.diffusion.guided_text import embedded
from fatezero_ext.editing.masks import blend_layers, threshold_heat, word_heat
from fatezero_ext.inversion.recording import RecordAttention
from fatezero_ext.inversion.source_reader import SourceReader
from fatezero_ext.inversion.trace import Trace
from fatezero_ext.prompts.alignment import token_weights
from fatezero_ext.prompts.prompt import read_prompt

from ..small_runs import EDIT, STEPS, calls_of, inverted, named

NEAR = 1e-4
"""Heat so close to a threshold is rounded to either side of it where two programs of the same sums compute it."""
FUSED, BLENDED = range(4), (1, 2)  # of 5 steps: int(0.8 * 5) fused; int(0.2 * 5) < step + 1 < int(0.8 * 5) blended


def steps_of(model, controller, blend, **options):
    steps = []
    settings = named(guidance=1.0, blend=blend)
    result = edit(controller, model.text_encoder, EDIT, settings, on_step=steps.append, **options)
    return steps, result


@pytest.fixture(scope="module")
def controller(model):
    return inverted(model, Storage("features"))


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("latents", [True, False])
def test_each_step_gives_the_masks_it_used(model, controller, self_attention, latents):
    joining = ("car",) if latents else ()
    blend = BlendSettings(("jeep",), joining, threshold=0.5, self_attention=self_attention, latents=latents)
    steps, result = steps_of(model, controller, blend)
    fused = [step for step in range(STEPS) if steps[step].attention_mask is not None]
    blended = [step for step in range(STEPS) if steps[step].latent_mask is not None]
    assert fused == (list(FUSED) if self_attention else []) and blended == (list(BLENDED) if latents else [])
    masks = [mask for step in steps for mask in (step.attention_mask, step.latent_mask) if mask is not None]
    assert all(mask.dtype == torch.bool and mask.shape == (3, 16, 16) for mask in masks)
    mean = torch.stack(masks).float().mean(0) if masks else torch.ones(3, 16, 16)
    torch.testing.assert_close(result.mask, mean)
    if latents:  # even where self-attention was fused later
        last = steps[BLENDED[-1]].latent_mask
    elif self_attention:
        last = steps[FUSED[-1]].attention_mask
    else:
        last = heat_of_the_source(model, controller, "jeep", BLENDED[-1])[1]
    assert result.last_mask.dtype == torch.bool and result.last_mask.equal(last)
    assert last.any() and not last.all()


def heat_of_the_source(model, controller, word, step):
    """The heat that a word has at one step, and the mask that it makes at a threshold of a half."""
    heat = word_heats(controller, (word,), Reading(((step + 0.5) / STEPS,) * 2), text_encoder=model.text_encoder)[0]
    return heat, threshold_heat(heat, 0.5, (16, 16))


@pytest.mark.parametrize("policy", ["features", "maps", "recompute"])
def test_words_whose_mask_no_step_reads_make_the_last_mask_and_nothing_else(model, policy):
    """So that `keep_source_pixels` finds them, and the things that are to be spared."""
    controller = inverted(model, Storage(policy))
    blend = BlendSettings(("jeep",), threshold=0.5)
    given = {"self_replace": 0.0, "guidance": 1.0}
    free = edit(controller, model.text_encoder, EDIT, named(**given))
    found = edit(controller, model.text_encoder, EDIT, named(**given, blend=blend))
    assert found.latents.equal(free.latents) and found.mask.equal(free.mask) and found.mask.min() == 1
    wanted = heat_of_the_source(model, controller, "jeep", BLENDED[-1])[1]
    assert found.last_mask.equal(wanted) and wanted.any() and not wanted.all()
    sparing = replace(blend, spare_words=("road",), spare_threshold=0.7)
    spared = edit(controller, model.text_encoder, EDIT, named(**given, blend=sparing))
    road = heat_of_the_source(model, controller, "road", BLENDED[-1])[0]
    there = road > 0.7 * road.max()
    assert spared.last_mask.equal(wanted & ~there) and (wanted & there).any() and spared.latents.equal(free.latents)


def test_words_of_the_edit_join_a_last_mask_that_no_step_reads(model, controller):
    given = {"self_replace": 0.0, "guidance": 1.0}
    alone, joined = (
        edit(controller, model.text_encoder, EDIT, named(**given, blend=blend))
        for blend in (replace(JOINING, edit_words=()), JOINING)
    )
    assert (alone.last_mask <= joined.last_mask).all() and not joined.last_mask.equal(alone.last_mask)
    assert joined.latents.equal(alone.latents)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_last_mask_of_few_steps_is_of_words_too(model, steps):
    short = inverted(model, Storage("features"), steps=steps)
    blend = BlendSettings(("jeep",), threshold=0.5)
    result = edit(short, model.text_encoder, EDIT, named(self_replace=0.0, guidance=1.0, blend=blend))
    assert result.last_mask.any() and not result.last_mask.all()


JOINING = BlendSettings(("jeep",), ("car",), threshold=0.5)


def test_without_blended_latents_the_edits_words_join_the_last_mask(model, controller):
    """Attention is the model's own at the step that shows them, so that the model alone gives their heat there."""
    settings = named(cross_replace=0.0, self_replace=0.2, guidance=1.0, blend=JOINING)
    steps = []
    result = edit(controller, model.text_encoder, EDIT, settings, on_step=steps.append)
    (fused,) = [step.attention_mask for step in steps if step.attention_mask is not None]
    unet, at = model.unet, BLENDED[-1]
    sites = unet.sites(3, 16, 16)
    layers = blend_layers(sites, Capture().most_cells)
    recorder = RecordAttention(dict.fromkeys(layers, "map"), unet.kernel)
    text = embedded(model.text_encoder, [EDIT], unet)
    unet(steps[at - 1].latents, controller.trace.schedule.timesteps[at], text, frames=3, attend=recorder)
    maps = [(recorder.records[layer].probs(text, sites[layer]), sites[layer]) for layer in layers]
    car = token_weights(read_prompt(model.text_encoder, EDIT), {"car": 1.0}, 0.0, "")
    below, new, above = (
        threshold_heat(word_heat(maps, car), JOINING.threshold + margin, (16, 16)) for margin in (-NEAR, 0.0, NEAR)
    )
    sure = below == above
    assert result.last_mask[sure].equal((fused | new)[sure]) and (new & ~fused & sure).any()


@pytest.mark.parametrize("quirks", ["fixed", "original"])
def test_words_that_join_the_last_mask_change_nothing_else(model, controller, quirks):
    settings = named(self_replace=0.5, guidance=3.0, blend=JOINING, quirks=quirks)
    alone = replace(settings, blend=replace(JOINING, edit_words=()))
    results = []
    for given in (settings, alone):
        with calls_of(model.unet.net) as calls:
            results.append((edit(controller, model.text_encoder, EDIT, given), len(calls)))
    (joined, made), (plain, needed) = results
    assert joined.latents.equal(plain.latents) and joined.mask.equal(plain.mask) and made == needed
    assert (plain.last_mask <= joined.last_mask).all() and not joined.last_mask.equal(plain.last_mask)


def test_words_join_the_last_mask_within_the_users_mask(model, controller):
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    whole, within = (steps_of(model, controller, JOINING, mask=given)[1].last_mask for given in (None, mask))
    assert not within[:, 8:].any() and within.any() and whole[:, 8:].any()


@pytest.mark.parametrize(("threshold", "spared"), [(0.0, True), (1.0, False)])  # all heat is above 0, none above 1
def test_words_join_the_last_mask_outside_subtracted_words(model, controller, threshold, spared):
    cut = replace(JOINING, subtract_words=("road",), subtract_threshold=threshold)
    last = steps_of(model, controller, cut)[1].last_mask
    assert not last.any() if spared else last.equal(steps_of(model, controller, JOINING)[1].last_mask)


@pytest.mark.parametrize(("threshold", "spared"), [(0.0, True), (1.0, False)])
@pytest.mark.parametrize("latents", [False, True])
def test_the_last_mask_spares_words_and_nothing_else_changes(model, controller, threshold, spared, latents):
    blend = BlendSettings(("jeep",), threshold=0.2, latents=latents)
    sparing = replace(blend, spare_words=("road",), spare_threshold=threshold)
    (_, plain), (_, found) = steps_of(model, controller, blend), steps_of(model, controller, sparing)
    assert found.latents.equal(plain.latents) and found.mask.equal(plain.mask) and plain.last_mask.any()
    assert not found.last_mask.any() if spared else found.last_mask.equal(plain.last_mask)


def test_spared_words_are_found_by_their_mean_heat(model, controller):
    blend = BlendSettings(("jeep",), threshold=0.0, latents=True, spare_words=("road",), spare_threshold=0.7)
    steps, result = steps_of(model, controller, blend)
    read = [place for place, step in enumerate(steps) if (step.attention_mask, step.latent_mask) != (None, None)]
    unet, trace = model.unet, controller.inverted()
    sites = unet.sites(3, 16, 16)
    layers = blend_layers(sites, Capture().most_cells)
    road = token_weights(trace.prompt, {"road": 1.0}, 0.0, "")
    heats = []
    with SourceReader(unet, trace, [frozenset(layers)] * STEPS) as source:
        for step in range(STEPS):
            records = source.read(step)
            heats.append(word_heat([(records[at].heat.probs(road), sites[at]) for at in layers], road))
    heat = torch.stack([heats[step] for step in read]).sum(0)
    hottest = heat.max()  # of the clip: in a frame that a thing has left, its heat is low everywhere
    sure, there = (heat / hottest - 0.7).abs() > NEAR, heat > 0.7 * hottest
    assert result.last_mask[sure].equal((steps[BLENDED[-1]].latent_mask & ~there)[sure])
    assert (there & sure).any() and (~there & sure).any()


def test_latents_outside_a_steps_mask_are_the_sources(model, controller):
    steps, _ = steps_of(model, controller, BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True))
    trace: Trace = controller.trace
    for step in BLENDED:
        kept = ~steps[step].latent_mask[:, None].expand_as(steps[step].latents)
        assert kept.any() and steps[step].latents[kept].equal(trace.latents[STEPS - 1 - step][kept])


def test_an_edit_without_masks_and_an_inversion_have_none(model, controller):
    steps, result = steps_of(model, controller, None)
    assert all(step.attention_mask is None and step.latent_mask is None for step in steps)
    assert result.last_mask.dtype == torch.bool and result.last_mask.all()
    assert repr(result) == "EditResult(3 frames of 16x16 cells, 100% free to differ)"
    told = []
    inverted(model, Storage("recompute"), steps=1, on_step=told.append)
    assert told[0].attention_mask is None and told[0].latent_mask is None


def test_a_users_mask_is_the_mask_of_every_fused_step(model, controller):
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    steps, result = steps_of(model, controller, None, mask=mask)
    top = torch.zeros(3, 16, 16, dtype=torch.bool)
    top[:, :8] = True
    assert all(steps[step].attention_mask.equal(top) for step in FUSED)
    assert result.last_mask.equal(top)
