"""What runs do when a device has too little memory: faults are injected at the UNet's border, all else is real."""

import gc
import logging
import weakref
from contextlib import contextmanager

import pytest
import torch

from fatezero_ext import Capture, Storage, edit, load_model, plain, register_attention_control
from fatezero_ext.attention.controller_bases import AttentionStore
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.inversion.loop import Recording, invert_latents
from fatezero_ext.memory.free_memory import within_memory
from fatezero_ext.storage.record_store import MemoryStore

from ..conftest import GOLDEN, relative
from ..small_runs import EDIT, ROUNDING, calls_of, edited, inverted, named

ADVICE = "Use fewer or smaller frames, or, on Attention Store Cache, policy recompute or place ram"


@contextmanager
def too_little_memory(unet, fails):
    """Calls of the UNet run out of memory where fails(batch, number of the call) says so."""
    calls = 0

    def hook(_net, given):
        nonlocal calls
        calls += 1
        if fails(len(given[0]), calls):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    handle = unet.net.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def two_chunks(batch, _call):
    return batch == 6


def always(_batch, _call):
    return True


class Device:
    """Has memory again after some remedies; remembers what was done."""

    def __init__(self, enough):
        self.done, self.enough = [], enough

    def compute(self):
        self.done.append("compute")
        if self.done.count("free") < self.enough:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return "result"

    def frees(self, name):
        def remedy():
            self.done.extend([name, "free"])
            return name

        return remedy

    def nothing(self):
        self.done.append("nothing")


def test_remedies_are_tried_in_order_each_once_and_no_more_than_needed(caplog):
    device = Device(enough=2)
    remedies = [device.frees("first"), device.nothing, device.frees("second"), device.frees("third")]
    assert within_memory(device.compute, remedies, ADVICE) == "result"
    assert device.done == ["compute", "first", "free", "compute", "nothing", "second", "free", "compute"]
    assert [record.getMessage() for record in caplog.records] == [
        "The device ran out of memory: first.",
        "The device ran out of memory: second.",
    ]


def test_without_a_remedy_left_the_error_keeps_its_class_and_gains_the_advice():
    device = Device(enough=9)
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match="(?s)CUDA out of memory.*too little memory.*fewer or smaller"
    ):
        within_memory(device.compute, [device.frees("first"), device.nothing], ADVICE)
    assert device.done == ["compute", "first", "free", "compute", "nothing"]


def test_other_errors_pass_without_a_remedy():
    device = Device(enough=0)

    def broken():
        raise RuntimeError("a kernel is missing")

    with pytest.raises(RuntimeError, match="^a kernel is missing$"):
        within_memory(broken, [device.frees("first")], ADVICE)
    assert device.done == []


@pytest.fixture(scope="module")
def kept(model):
    return inverted(model, Storage("features"))


@pytest.fixture(scope="module")
def undisturbed(model, kept):
    return edited(model, kept)


@pytest.mark.parametrize("from_call", [1, 4])
def test_an_edit_too_large_for_two_halves_takes_turns(model, kept, undisturbed, caplog, from_call):
    with too_little_memory(model.unet, lambda batch, call: batch == 6 and call >= from_call):
        got = edited(model, kept)
    assert relative(got, undisturbed) < ROUNDING
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["The device ran out of memory: the two halves of guidance are computed one after the other."]


def test_an_edit_that_takes_turns_tries_the_larger_call_once(model, kept):
    with calls_of(model.unet.net) as calls, too_little_memory(model.unet, two_chunks):
        edited(model, kept)
    assert calls == [6] + [3, 3] * 5


def test_an_edit_that_takes_turns_blends_under_the_same_mask(model, kept):
    prompt, settings = EDIT, named(guidance=3.0)
    mask = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    whole = edit(kept, model.text_encoder, prompt, settings, mask=mask)
    with too_little_memory(model.unet, two_chunks):
        turns = edit(kept, model.text_encoder, prompt, settings, mask=mask)
    assert turns.mask.equal(whole.mask) and relative(turns.latents, whole.latents) < ROUNDING


def test_a_reconstruction_too_large_for_two_halves_takes_turns(model):
    options = {"reconstruct": Reconstruction(guidance=3.0), "steps": 3}
    whole = inverted(model, Storage("features"), **options).trace
    with too_little_memory(model.unet, two_chunks):
        turns = inverted(model, Storage("features"), **options).trace
    assert relative(turns.latents, whole.latents) < ROUNDING
    for step in range(3):
        for at, record in whole.store.read(step).items():
            assert relative(turns.store.read(step)[at].kept.values, record.kept.values) < 1e-3


@pytest.mark.parametrize("policy", ["features", "recompute"])
def test_an_edit_too_large_in_any_way_ends_with_advice_and_changes_nothing(model, policy):
    controller = inverted(model, Storage(policy), steps=3)
    wanted = edited(model, controller)
    with too_little_memory(model.unet, always):
        with pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
            edited(model, controller)
        with pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
            inverted(model, Storage(policy), steps=3)
    assert model.unet.attend is model.unet.kernel
    assert edited(model, controller).equal(wanted)


def test_a_map_controller_keeps_both_halves_in_one_call(model, kept):
    free = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)
    with register_attention_control(model.unet, AttentionStore()), too_little_memory(model.unet, two_chunks):
        with pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
            edit(kept, model.text_encoder, EDIT, free)


def recorded_with(model, store, unet=None, passes=0):
    """An inversion that fills a store."""
    unet = unet or model.unet
    planned = inverted(model, Storage("features"), steps=3).trace
    forms = recorded_forms(unet, Capture(), "features", ClipShape(3, 16, 16, 77))
    latents, text = (x.to(unet.device) for x in (planned.latents[0], planned.text))
    recording = Recording(store, forms)
    given = (unet, latents, text, planned.prompt, planned.schedule)
    return invert_latents(*given, capture=Capture(), recording=recording, passes=passes)


@pytest.mark.parametrize(("passes", "failing"), [(0, 2), (1, 3)])  # a recorded call; one of a pass, behind a whole step
def test_an_inversion_out_of_memory_moves_what_it_recorded_and_goes_on(model, caplog, passes, failing):
    disturbed, wanted = MemoryStore(), MemoryStore()
    whole = recorded_with(model, wanted, passes=passes)
    with too_little_memory(model.unet, lambda _batch, call: call == 3 + failing):
        trace = recorded_with(model, disturbed, passes=passes)
    assert [record.getMessage() for record in caplog.records] == [
        "The device ran out of memory: recorded attention moves to the computer's memory."
    ]
    assert disturbed.device == torch.device("cpu")
    assert trace.latents.equal(whole.latents)
    for step in range(3):
        ours, theirs = disturbed.read(step), wanted.read(step)
        assert list(ours) == list(theirs)
        assert all(ours[at].kept.values.equal(record.kept.values) for at, record in theirs.items())


def test_an_inversion_into_the_computer_s_memory_has_nothing_to_move(model):
    with too_little_memory(model.unet, lambda _batch, call: call == 3 + 2):
        with pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
            recorded_with(model, MemoryStore(torch.device("cpu")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_was_recorded_leaves_the_device(model):
    cuda, store, whole = load_model(GOLDEN / "model", device="cuda"), MemoryStore(), MemoryStore()
    recorded_with(model, whole, cuda.unet)
    with too_little_memory(cuda.unet, lambda _batch, call: call == 2):
        recorded_with(model, store, cuda.unet)
    for step in range(3):
        for at, record in whole.read(step).items():
            assert record.kept.values.is_cuda and not store.read(step)[at].kept.values.is_cuda
            assert store.read(step)[at].kept.values.equal(record.kept.values.cpu())


def test_a_call_under_a_control_is_not_tried_again(model, kept):
    """It went through the control already, which may count its calls."""
    with register_attention_control(model.unet, lambda *given: plain(*given)):
        with too_little_memory(model.unet, two_chunks), pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
            edited(model, kept)
        with too_little_memory(model.unet, lambda _batch, call: call == 3 + 2):
            with pytest.raises(torch.cuda.OutOfMemoryError, match=ADVICE):
                recorded_with(model, MemoryStore())


def test_nothing_of_an_edit_outlives_it_without_the_garbage_collector(model):
    """On a GPU what lives on is missing where the frames are decoded; on disk it keeps an entry in use."""
    controller = inverted(model, Storage("features"), reconstruct=Reconstruction(guidance=3.0))
    store = weakref.ref(controller.trace.store)
    edited(model, controller)
    gc.disable()
    try:
        del controller
        assert store() is None
    finally:
        gc.enable()
