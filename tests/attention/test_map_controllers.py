"""Controllers on explicit maps: the base classes, and one that a third party could have written."""

from pathlib import Path

import pytest
import torch

from fatezero_ext import Controller, Storage, edit, invert, register_attention_control
from fatezero_ext.attention.controller_bases import STORE_KEYS, AttentionControl, AttentionStore, EmptyControl
from fatezero_ext.errors import SettingsError, StoreError
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.prompts.alignment import replacement_mapper
from fatezero_ext.prompts.prompt import read_prompt

from ..conftest import relative
from ..features import feature
from ..small_runs import named

SOURCE, EDIT = "a silver jeep driving down a curvy road", "a silver car driving down a curvy road"
STEPS, FRAMES = 4, 3
UNCONTROLLED = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)


class Seen(AttentionControl):
    """Notes its calls and changes what it is told to."""

    def __init__(self, change=None):
        super().__init__()
        self.calls, self.steps, self.change = [], [], change

    def forward(self, attn, is_cross, place_in_unet):
        self.calls.append((tuple(attn.shape), is_cross, place_in_unet))
        return attn if self.change is None else self.change(attn)

    def between_steps(self):
        self.steps.append((self.cur_step, self.cur_att_layer, len(self.calls)))


@pytest.fixture(scope="module")
def clip():
    return torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stored(model, clip):
    """An inversion, and the store that was registered while it ran."""
    store = AttentionStore()
    with register_attention_control(model.unet, store):
        return invert(
            Controller(model.unet, storage=Storage("maps")), model.text_encoder, clip, SOURCE, steps=STEPS
        ), store


def inverted_with(model, clip, control, steps=2):
    with register_attention_control(model.unet, control):
        return invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=steps)


@feature("register_attention_control: 32 layers on a Stable Diffusion 1.x layout")
@feature("register_attention_control: count recorded")
def test_the_number_of_layers_is_recorded(model):
    control = Seen()
    assert control.num_att_layers == -1
    with register_attention_control(model.unet, control) as registration:
        assert control.num_att_layers == registration.num_att_layers == 32


@feature("register_attention_control: places")
def test_every_layer_is_called_with_its_place(model, noise):
    control = Seen()
    with torch.no_grad(), register_attention_control(model.unet, control):
        model.unet(noise(FRAMES, 4, 16, 16), 501, noise(1, 77, 32), frames=FRAMES)
    places = [(place, is_cross) for _, is_cross, place in control.calls]
    blocks = ["down"] * 6 + ["mid"] + ["up"] * 9
    assert places == [(place, is_cross) for place in blocks for is_cross in (False, True)]


@feature("register_attention_control: attn_temporal left out")
def test_temporal_attention_is_not_under_control(golden, noise):
    unet, control = golden.unet(tuned=True), Seen()
    with torch.no_grad(), register_attention_control(unet, control):
        unet(noise(FRAMES, 4, 16, 16), 501, noise(1, 77, 32), frames=FRAMES)
    assert len(control.calls) == 32
    assert all(shape[0] == FRAMES for shape, _, _ in control.calls)


@feature("register_attention_control: None controller")
@pytest.mark.parametrize("control", [None, EmptyControl()])
def test_an_empty_controller_changes_nothing(model, clip, control):
    plainly = invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=2).trace.latents
    controlled = inverted_with(model, clip, control).trace.latents
    # One computes with maps, the other with fused kernels, twice: as for whole inversions of the authors' program.
    torch.testing.assert_close(controlled, plainly, rtol=0, atol=1e-4)


@feature("AttentionControl: LOW_RESOURCE")
def test_without_guidance_the_whole_batch_is_handled(model, stored):
    inverted, _ = stored
    control = Seen()
    with register_attention_control(model.unet, control):
        edit(inverted, model.text_encoder, EDIT, named(cross_replace=0.0, self_replace=0.0, guidance=1.0))
    assert control.LOW_RESOURCE and {shape[0] for shape, _, _ in control.calls} == {FRAMES}


@feature("AttentionControl: conditional half")
def test_with_guidance_only_the_conditional_half_is_handled(model, noise):
    control = Seen(change=torch.zeros_like)
    x, text = noise(FRAMES, 4, 16, 16).repeat(2, 1, 1, 1), noise(2, 77, 32)
    with torch.no_grad():
        before = model.unet(x, 501, text, frames=FRAMES)
        with register_attention_control(model.unet, control):
            after = model.unet(x, 501, text, frames=FRAMES)
    assert not control.LOW_RESOURCE and {shape[0] for shape, _, _ in control.calls} == {FRAMES}
    torch.testing.assert_close(after[:FRAMES], before[:FRAMES], rtol=0, atol=1e-5)
    assert relative(after[FRAMES:], before[FRAMES:]) > 1e-3


@feature("AttentionControl: callbacks")
def test_a_step_ends_with_its_callback(model, clip):
    control = Seen()
    inverted_with(model, clip, control, steps=3)
    assert control.steps == [(1, 0, 32), (2, 0, 64), (3, 0, 96)]


@feature("AttentionControl: callbacks")
def test_a_callback_may_change_the_latents(model, clip, stored):
    class Blank(EmptyControl):
        def step_callback(self, x_t):
            return torch.zeros_like(x_t)

    inverted, _ = stored
    with register_attention_control(model.unet, Blank()):
        assert edit(inverted, model.text_encoder, EDIT, UNCONTROLLED).latents.eq(0).all()


@feature("AttentionControl: reset")
def test_reset_begins_again(model, clip):
    control = Seen()
    inverted_with(model, clip, control)
    control.cur_att_layer = 5
    control.reset()
    assert (control.cur_step, control.cur_att_layer, control.num_att_layers) == (0, 0, 32)


@feature("AttentionStore: six lists")
@feature("AttentionStore: all-step store")
def test_a_store_holds_every_map_of_every_step_in_six_lists(stored):
    inverted, store = stored
    assert len(store.attention_store_all_step) == STEPS
    for step in range(STEPS):
        maps, page = store.step_maps(step), inverted.trace.store.read(STEPS - 1 - step)
        assert tuple(maps) == STORE_KEYS
        for key, kept in maps.items():
            place, kind = key.split("_")
            wanted = [record.kept.values for at, record in page.items() if (at.stage, at.kind) == (place, kind)]
            assert len(kept) == len(wanted) > 0
            assert all(got.equal(reference) for got, reference in zip(kept, wanted, strict=True))


@feature("AttentionStore: 1024-query limit")
def test_layers_of_more_than_1024_cells_are_not_stored(model, noise):
    store = AttentionStore()
    with torch.no_grad(), register_attention_control(model.unet, store):
        model.unet(noise(1, 4, 40, 52), 501, noise(1, 77, 32), frames=1)
    cells = {tensor.shape[-2] for maps in store.step_store.values() for tensor in maps}
    assert cells == {20 * 26, 10 * 13, 5 * 7}
    assert sum(map(len, store.step_store.values())) == 22


@feature("AttentionStore: save_self_attention")
def test_self_attention_is_stored_only_if_asked_for(model, clip):
    store = AttentionStore(save_self_attention=False)
    inverted_with(model, clip, store)
    assert {key for key, maps in store.step_maps(0).items() if maps} == {"down_cross", "mid_cross", "up_cross"}


@feature("AttentionStore: disk")
def test_a_store_on_disk_holds_the_same_and_takes_its_files_with_it(model, clip, stored):
    store = AttentionStore(disk_store=True)
    inverted_with(model, clip, store, steps=STEPS)
    paths = list(store.attention_store_all_step)
    assert len(paths) == STEPS and store.store_dir is not None
    for step in range(STEPS):
        on_disk, in_memory = store.step_maps(step), stored[1].step_maps(step)
        for key in STORE_KEYS:
            assert all(a.equal(b) for a, b in zip(on_disk[key], in_memory[key], strict=True))
    folder = Path(store.store_dir)
    del store
    assert not folder.exists()


@feature("AttentionStore: latents")
def test_latents_are_stored_after_each_step(stored):
    inverted, store = stored
    levels = inverted.trace.latents[1:]
    assert all(got.equal(level) for got, level in zip(store.latents_store, levels, strict=True))


@feature("AttentionStore: averages")
@pytest.mark.parametrize("disk", [False, True])
def test_averages_are_sums_over_the_steps_done(model, clip, disk):
    store = AttentionStore(disk_store=disk)
    with pytest.raises(StoreError, match="no step is done"):
        store.get_average_attention()
    for steps in (2, 3):  # read in between: the sums go on from there
        inverted_with(model, clip, store, steps=steps)
        average = store.get_average_attention()
        done = [store.step_maps(step) for step in range(store.cur_step)]
        for key in STORE_KEYS:
            for layer, got in enumerate(average[key]):
                torch.testing.assert_close(got, torch.stack([maps[key][layer] for maps in done]).mean(0))


@feature("AttentionStore: reset")
def test_reset_forgets_all_but_the_latents(model, clip):
    store = AttentionStore()
    inverted_with(model, clip, store)
    store.get_average_attention()
    store.reset()
    assert store.cur_step == 0 and store.attention_store_all_step == [] and len(store.latents_store) == 2
    assert not any(store.attention_store.values()) and not any(store.step_store.values())


def test_reset_takes_the_files_of_a_store_on_disk_away(model, clip):
    store = AttentionStore(disk_store=True)
    inverted_with(model, clip, store)
    folder = Path(store.store_dir)
    assert len(list(folder.iterdir())) == 2
    store.reset()
    assert list(folder.iterdir()) == []


class Replace(AttentionStore):
    """Word swap on explicit maps, as a third party would write it."""

    def __init__(self, source, mapper, cross_steps, self_steps):
        super().__init__()
        self.source, self.mapper, self.cross_steps, self.self_steps = source, mapper, cross_steps, self_steps

    def forward(self, attn, is_cross, place_in_unet):
        super().forward(attn, is_cross, place_in_unet)
        key = f"{place_in_unet}_{'cross' if is_cross else 'self'}"
        layer = len(self.step_store[key]) - 1
        kept = self.source.step_maps(len(self.source.attention_store_all_step) - 1 - self.cur_step)[key][layer]
        if is_cross:
            return kept @ self.mapper if self.cur_step < self.cross_steps else attn
        return kept if self.cur_step < self.self_steps else attn


def test_a_third_partys_word_swap_equals_ours(model, stored):
    inverted, store = stored
    mapper = replacement_mapper(*(read_prompt(model.text_encoder, prompt) for prompt in (SOURCE, EDIT)))
    control = Replace(store, mapper, cross_steps=int(0.8 * (STEPS + 1)), self_steps=int(0.8 * STEPS))
    with register_attention_control(model.unet, control):
        theirs = edit(inverted, model.text_encoder, EDIT, UNCONTROLLED).latents
    ours = edit(inverted, model.text_encoder, EDIT, named(guidance=3.0)).latents
    assert relative(theirs, ours) < 3e-4
    assert relative(edit(inverted, model.text_encoder, EDIT, UNCONTROLLED).latents, ours) > 0.1


def test_a_map_controller_and_an_edit_do_not_mix(model, stored):
    inverted, _ = stored
    with register_attention_control(model.unet, Seen()):
        with pytest.raises(SettingsError, match="Seen is registered and changes attention by itself"):
            edit(inverted, model.text_encoder, EDIT)


class Halved(EmptyControl):
    def __call__(self, attn, is_cross, place_in_unet):
        return attn[:1]


class Silent(EmptyControl):
    def __call__(self, attn, is_cross, place_in_unet):
        pass


class Forgetful(EmptyControl):
    def step_callback(self, x_t):
        pass


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (Halved(), r"Halved, called for down.0.0.self, gave a tensor shaped \[1, .*a map shaped \[3, "),
        (Silent(), "Silent, called for down.0.0.self, gave None"),
        (Seen(lambda attn: attn[:1]), r"forward of Seen gave a tensor shaped \[1, "),
        (Seen(lambda attn: None), "forward of Seen gave None"),
        (Forgetful(), "step_callback of Forgetful gave None; latents shaped"),
        ("a name", "'a name' cannot be called; a controller is"),
    ],
)
def test_what_a_controller_is_and_returns_is_checked(model, clip, control, message):
    with pytest.raises(StoreError, match=message):
        inverted_with(model, clip, control)


def test_a_reconstruction_is_what_a_registered_controller_sees_of_an_inversion_with_one(model, clip):
    store = AttentionStore()
    with register_attention_control(model.unet, store):
        again = Reconstruction(guidance=3.0)
        invert(Controller(model.unet), model.text_encoder, clip, SOURCE, steps=2, reconstruct=again)
    assert store.cur_step == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_models_are_stored_and_summed_in_float32(golden, model, clip, dtype):
    unet, store = golden.unet(), AttentionStore()
    unet.net.to(dtype)
    with register_attention_control(unet, store):
        invert(Controller(unet), model.text_encoder, clip, SOURCE, steps=2)
    assert store.step_maps(0)["mid_cross"][0].dtype == dtype
    average = store.get_average_attention()["mid_cross"][0]
    assert average.dtype == torch.float32 and average.sum(-1).sub(1).abs().max() < 0.01
