"""Controllers on our base classes that use every public name of the authors' program, as their ports do.

They are written anew here, in the manner of those: one store filled by the inversion, edits that read it.
"""

import copy

import pytest
import torch

from fatezero_ext import BlendSettings, Controller, edit, invert, register_attention_control
from fatezero_ext.attention.controller_bases import (
    CROSS_KEYS,
    STORE_KEYS,
    AttentionControl,
    AttentionStore,
    DummyController,
    EmptyControl,
)
from fatezero_ext.editing.masks import blend_layers, threshold_heat, word_heat
from fatezero_ext.inversion.recording import Capture
from fatezero_ext.prompts.alignment import replacement_mapper
from fatezero_ext.prompts.prompt import read_prompt

from ..conftest import relative
from ..small_runs import EDIT, ROUNDING, SOURCE, STEPS, clip, named

NO_CONTROL = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)
HALF = 0.5  # as a threshold 3e-4 from every value it is compared with: ten times what rounding moves them


class Summing(AttentionStore):
    """Sums and keeps its steps itself."""

    def between_steps(self):
        if len(self.attention_store) == 0:
            self.attention_store = self.step_store
        else:
            for key in self.attention_store:
                for number in range(len(self.attention_store[key])):
                    self.attention_store[key][number] += self.step_store[key][number]
        if self.disk_store:
            path = self.store_dir + f"/own_{self.cur_step:03d}.pt"
            torch.save(copy.deepcopy(self.step_store), path)
            self.attention_store_all_step.append(path)
        else:
            self.attention_store_all_step.append(copy.deepcopy(self.step_store))
        self.step_store = self.get_empty_store()


class Counting(AttentionStore):
    """Does something of its own between steps, and leaves the rest to the base."""

    def __init__(self, save_self_attention=True, disk_store=False):
        super().__init__(save_self_attention=save_self_attention, disk_store=disk_store)
        self.seen = []

    def between_steps(self):
        self.seen.append((self.cur_step, self.cur_att_layer, self.num_att_layers, self.num_uncond_att_layers))
        super().between_steps()


def registered(model, control, steps=STEPS):
    with register_attention_control(model.unet, control, clip_axes=True):
        return invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=steps)


@pytest.fixture(scope="module", params=[False, True], ids=["memory", "disk"])
def source(model, request):
    """An inversion and the store that stood beside it."""
    store = Counting(disk_store=request.param)
    return registered(model, store), store


def assert_same_lists(got, wanted, **tolerance):
    assert list(got) == list(wanted)
    for key in wanted:
        for one, other in zip(got[key], wanted[key], strict=True):
            torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("disk", [False, True])
def test_a_store_that_sums_by_itself_has_our_averages(model, source, disk):
    store = Summing(disk_store=disk)
    registered(model, store)
    assert len(store.attention_store_all_step) == len(store.latents_store) == store.cur_step == STEPS
    assert_same_lists(store.get_average_attention(), source[1].get_average_attention())
    for step in range(STEPS):
        assert_same_lists(store.step_maps(step), source[1].step_maps(step), rtol=0, atol=1e-6)
    if disk:
        assert_same_lists(torch.load(store.attention_store_all_step[1], weights_only=True), store.step_maps(1))


def test_what_is_done_between_steps_knows_the_step_and_the_layers(source):
    assert source[1].seen == [(step, 0, 32, 0) for step in range(1, STEPS + 1)]


def test_an_attention_store_is_empty_before_the_first_step_and_may_be_set(model):
    store = AttentionStore()
    assert store.attention_store == {} and store.store_dir is None
    registered(model, store, steps=2)
    summed = {key: [total.clone() for total in sums] for key, sums in store.attention_store.items()}
    store.attention_store = {key: [total * 0 for total in sums] for key, sums in summed.items()}
    assert not any(total.any() for sums in store.attention_store.values() for total in sums)
    store.reset()
    assert store.attention_store == {}
    registered(model, store, steps=2)
    assert_same_lists(store.attention_store, summed)


def test_later_steps_are_added_to_what_a_store_was_set_to(model):
    store = AttentionStore(save_self_attention=False)
    registered(model, store, steps=1)
    first = store.attention_store
    store.attention_store = {key: [total + 1 for total in sums] for key, sums in first.items()}
    registered(model, store, steps=1)
    wanted = {key: [2 * total + 1 for total in sums] for key, sums in first.items()}
    assert_same_lists(store.attention_store, wanted)


def test_empty_stores_are_lists_of_their_own():
    assert AttentionStore.get_empty_store() == {key: [] for key in STORE_KEYS}
    assert AttentionStore().get_empty_cross_store() == {key: [] for key in CROSS_KEYS}
    assert AttentionStore.get_empty_store()["mid_self"] is not AttentionStore.get_empty_store()["mid_self"]


@pytest.mark.parametrize("control", [DummyController(), EmptyControl()])
def test_a_controller_that_does_nothing_changes_nothing(model, control):
    plain = invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=2).trace.latents
    assert relative(registered(model, control, steps=2).trace.latents, plain) < ROUNDING
    assert control.step_callback(plain) is plain and control.between_steps() is None
    assert control(plain, True, "down") is plain
    assert isinstance(control, EmptyControl) and getattr(control, "num_att_layers", 32) == 32


class Axes(AttentionControl):
    """Notes the axes of what it is handed, and gives other latents back."""

    def forward(self, attn, is_cross, place_in_unet):
        return attn

    def step_callback(self, x_t):
        self.handed = x_t.clone()
        return super().step_callback(x_t) * HALF


@pytest.mark.parametrize(("clip_axes", "shape"), [(True, (1, 4, 3, 16, 16)), (False, (3, 4, 16, 16))])
def test_a_controller_is_handed_latents_with_the_axes_it_asks_for(model, clip_axes, shape):
    control = Axes()
    with register_attention_control(model.unet, control, clip_axes=clip_axes):
        trace = invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=1).trace
    assert control.handed.shape == shape
    frames_first = control.handed[0].transpose(0, 1) if clip_axes else control.handed
    assert trace.latents[1].equal(frames_first * HALF)


class LocalSwap(AttentionStore):
    """Words replaced inside a mask, written as ports of the authors' edits are."""

    def __init__(self, store, sites, prompts, threshold):
        super().__init__(save_self_attention=True)
        self.store, self.sites, self.threshold = store, sites, threshold
        self.mapper = replacement_mapper(*prompts, "original")
        self.words = [torch.zeros(77), torch.zeros(77)]
        for weights, prompt, word in zip(self.words, prompts, ("jeep", "car"), strict=True):
            weights[list(prompt.find(word))] = 1
        self.cross_steps, self.self_steps = int(0.8 * (STEPS + 1)), int(0.8 * STEPS)

    def loaded(self, step):
        kept = self.store.attention_store_all_step[step]
        return torch.load(kept, weights_only=True) if isinstance(kept, str) else kept

    def mask(self, cross_maps, weights, size):
        """The layers of `sites`, in the order that the UNet visits them in each arm."""
        read = []
        for address, site in self.sites.items():
            alike = [at for at in self.numbers if (at.stage, at.kind) == (address.stage, address.kind)]
            read.append((cross_maps[f"{address.stage}_cross"][alike.index(address)], site))
        return threshold_heat(word_heat(read, weights), self.threshold, size)

    def forward(self, attn, is_cross, place_in_unet):
        super().forward(attn, is_cross, place_in_unet)
        key = f"{place_in_unet}_{'cross' if is_cross else 'self'}"
        kept = self.loaded(len(self.store.attention_store_all_step) - self.cur_step - 1)
        base = kept[key][len(self.step_store[key]) - 1]
        if is_cross:
            return base @ self.mapper if self.cur_step < self.cross_steps else attn
        if self.cur_step >= self.self_steps:
            return attn
        side = int(attn.shape[-2] ** 0.5)
        free = self.mask(kept, self.words[0], (side, side)).flatten(1)[:, None, :, None]
        return torch.where(free, attn, base)

    def step_callback(self, x_t):
        x_t = super().step_callback(x_t)
        if not int(0.2 * STEPS) < self.cur_step < int(0.8 * STEPS):
            return x_t
        step_in_store = len(self.store.latents_store) - self.cur_step
        blended = self.get_empty_cross_store()
        for key in blended:
            blended[key] = self.attention_store[key]
        free = self.mask(self.loaded(step_in_store), self.words[0], x_t.shape[-2:])
        free = free | self.mask(blended, self.words[1], x_t.shape[-2:])
        inverted = self.store.latents_store[step_in_store]
        return inverted + free * (x_t - inverted)


def test_a_ported_edit_with_masks_is_our_edit_with_the_authors_quirks(model, source):
    inverted, store = source
    trace = inverted.trace
    prompts = [read_prompt(model.text_encoder, text) for text in (SOURCE, EDIT)]
    sites = model.unet.sites(trace.frames, *trace.size)
    control = LocalSwap(store, {at: sites[at] for at in blend_layers(sites, Capture().most_cells)}, prompts, HALF)
    control.numbers = list(sites)
    with register_attention_control(model.unet, control, clip_axes=True):
        ported = edit(inverted, model.text_encoder, EDIT, NO_CONTROL).latents
    blend = BlendSettings(("jeep",), ("car",), threshold=HALF, latents=True)
    ours = edit(inverted, model.text_encoder, EDIT, named(guidance=3.0, blend=blend, quirks="original")).latents
    assert relative(ported, ours) < ROUNDING
    assert relative(edit(inverted, model.text_encoder, EDIT, NO_CONTROL).latents, ours) > 0.1
