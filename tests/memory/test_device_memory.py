"""How runs treat a device's memory and its streams, as far as that can be seen without one.

Faults are injected at the borders: the UNet's calls, a store, what stands in for a library.
"""

import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fatezero_ext import Capture, LayerAddress, Storage
from fatezero_ext.attention import kernels
from fatezero_ext.attention.functional import explicit
from fatezero_ext.attention.records import FeatureRecord, StoredTensor, to_precision
from fatezero_ext.diffusion import finite
from fatezero_ext.inversion.footprint import ClipShape, recorded_forms
from fatezero_ext.inversion.loop import Recording, invert_latents
from fatezero_ext.memory.free_memory import within_memory
from fatezero_ext.storage import offload as carriers
from fatezero_ext.storage import record_store as stores
from fatezero_ext.storage.offload import Offloader, copy_stream
from fatezero_ext.storage.record_store import MemoryStore

from ..attention.test_kernels import called
from ..small_runs import edited, inverted

ADDRESS = LayerAddress("down", 0, 0, "self")
CPU = torch.device("cpu")


def out_of_memory():
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


@contextmanager
def without_collector():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class FailsHalfway:
    """A call of the UNet that runs out of memory in its middle block; remembers what it had made by then."""

    def __init__(self, unet, noise, error, times=1):
        self.call = partial(unet, noise(3, 4, 16, 16), 501, noise(1, 77, 32), frames=3)
        self.unet, self.error, self.left, self.made = unet, error, times, None

    def __call__(self):
        block = self.unet.net.mid_block
        block.forward = self.fail  # not by a hook: torch holds what it calls hooks with
        try:
            return self.call()
        finally:
            del block.forward

    def fail(self, x, *given, **named):
        if self.left:
            self.left -= 1
            self.made = weakref.ref(x)
            raise self.error
        return type(self.unet.net.mid_block).forward(self.unet.net.mid_block, x, *given, **named)


def test_what_a_failed_call_made_is_let_go_before_the_remedy(model, noise):
    compute = FailsHalfway(model.unet, noise, out_of_memory())
    seen = []

    def remedy():
        seen.append(compute.made())
        return "something is freed"

    with without_collector(), torch.no_grad():
        got = within_memory(compute, [remedy], "advice")
    assert seen == [None]
    assert got.equal(compute.call())


def test_an_error_that_is_kept_holds_nothing_of_the_call(model, noise):
    """A program that shows an error, or frees its models because of it, looks at it for a while."""
    compute = FailsHalfway(model.unet, noise, out_of_memory())
    with without_collector(), torch.no_grad():
        with pytest.raises(torch.cuda.OutOfMemoryError, match="advice") as caught:
            within_memory(compute, [], "advice")
        assert compute.made() is None and isinstance(caught.value.__cause__, torch.cuda.OutOfMemoryError)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    ],
)
def test_errors_of_another_class_that_say_the_same_are_treated_alike(model, noise, words):
    compute, done = FailsHalfway(model.unet, noise, RuntimeError(words), times=9), []
    with torch.no_grad(), pytest.raises(torch.cuda.OutOfMemoryError, match="(?s)CUD.*advice"):
        within_memory(compute, [lambda: done.append("freed") or "freed"], "advice")
    assert done == ["freed"]


def test_an_inversion_whose_page_does_not_fit_when_it_is_packed_moves_the_store_and_goes_on(model):
    class FullAtStep3(MemoryStore):
        def write(self, step, page, part=0):
            if step == 1 and self.device is None:
                raise out_of_memory()
            super().write(step, page, part)

    planned = inverted(model, Storage("features"), steps=4).trace
    forms = recorded_forms(model.unet, Capture(), "features", ClipShape(3, 16, 16, 77))

    def recorded(store):
        given = (planned.latents[0], planned.text, planned.prompt, planned.schedule)
        return invert_latents(model.unet, *given, capture=Capture(), recording=Recording(store, forms))

    store, wanted = FullAtStep3(), MemoryStore()
    assert recorded(store).latents.equal(recorded(wanted).latents)
    assert store.device == CPU and len(store) == 4
    for step in range(4):
        for at, record in wanted.read(step).items():
            assert store.read(step)[at].kept.values.equal(record.kept.values)


class OnAFullDevice(StoredTensor):
    """A tensor on a device that has no room to pack it."""

    def to_precision(self, precision, shared):
        if precision != "as computed":
            raise out_of_memory()
        return self

    def to(self, device, *, non_blocking=False):
        return StoredTensor(self.values)


def carried(page, precision):
    arrived, carrier = [], Offloader(precision)
    carrier.submit(page, arrived.append)
    carrier.finish()
    return arrived[0]


def test_a_page_that_cannot_be_packed_on_the_device_is_packed_where_it_arrives(noise):
    values = noise(3, 12, 8)
    there = carried({ADDRESS: FeatureRecord(OnAFullDevice(values))}, "int8")[ADDRESS].kept
    here = StoredTensor(values).to_precision("int8", FeatureRecord.shared)
    assert there.values.equal(here.values) and there.scale.equal(here.scale)


def test_a_page_that_did_not_arrive_is_not_left_out(noise):
    """Each page after it raises what it raised, so that no store is sealed without it."""
    page = {ADDRESS: FeatureRecord(StoredTensor(noise(3, 12, 8)))}

    def lost(_page):
        raise MemoryError("no memory for the page")

    carrier = Offloader("as computed")
    carrier.submit(page, lost)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no memory for the page"):
            carrier.submit(page, lambda _page: None)
    with pytest.raises(MemoryError, match="no memory for the page"):
        carrier.finish()


class MostAlive(TorchDispatchMode):
    """Counts the half precision tensors of this device that live at the same time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float16 and out.device == CPU:
            self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(out)]
            self.most = max(self.most, len(self.alive))
        return out


def test_packing_a_page_for_elsewhere_needs_room_for_one_tensor(noise):
    page = {LayerAddress("up", block, 0, "self"): FeatureRecord(StoredTensor(noise(3, 12, 8))) for block in range(5)}
    with MostAlive() as watch:
        moved = to_precision(page, torch.device("meta"), "float16")
    assert list(moved) == list(page) and watch.most == 1


class FailsOnce:
    """A store whose pages are far; one reading of a step runs out of memory, as where the device is full."""

    parts = ()

    def __init__(self, store, step):
        self.store, self.fails_at = store, step

    def read(self, step, part=0):
        if step == self.fails_at:
            self.fails_at = None
            raise out_of_memory()
        return self.store.read(step, part)


@pytest.mark.parametrize("step", [0, 2])
def test_a_page_that_did_not_fit_beside_a_step_is_fetched_between_two(model, step):
    controller = inverted(model, Storage("features"))
    store = FailsOnce(controller.trace.store, step)
    again = replace(controller, trace=replace(controller.trace, store=store))
    assert edited(model, again).equal(edited(model, controller)) and store.fails_at is None


def test_two_edits_of_one_store_that_run_out_of_memory_move_it_once_and_both_go_on(noise, monkeypatch):
    store = MemoryStore()
    store.write(0, {ADDRESS: FeatureRecord(StoredTensor(noise(3, 12, 8)))})
    store.seal()
    moved, both, lock = [], threading.Barrier(2, timeout=60), threading.Lock()

    @contextmanager
    def leaving():
        both.wait()  # each has found the store on its device before either moves it
        with lock:
            yield

    def counted(page, device, precision):
        moved.append(device)
        return to_precision(page, device, precision)

    monkeypatch.setattr(stores, "to_precision", counted)
    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(MemoryStore, "_leaving", property(lambda _store: leaving()))
        assert list(pool.map(lambda _number: store.leave_device(), range(2))) == [True, True]
    assert moved == [CPU] and not store.leave_device()
    assert copy.deepcopy(store).read(0)[ADDRESS].kept.values.equal(store.read(0)[ADDRESS].kept.values)


def test_a_device_has_one_stream_for_copies(monkeypatch):
    made = []
    monkeypatch.setattr(carriers.torch.cuda, "Stream", lambda device: made.append(device) or object())
    copy_stream.cache_clear()
    try:
        first, second, other = (copy_stream(torch.device("cuda", index)) for index in (0, 0, 1))
    finally:
        copy_stream.cache_clear()
    assert first is second and first is not other and len(made) == 2


def memory_efficient_attention(query, key, value, attn_bias=None):
    """What xformers computes, and what it refuses: rows of a bias that do not begin at multiples of 16 bytes."""
    if attn_bias is not None:
        alignment = 16 // attn_bias.itemsize
        strides = attn_bias.stride()
        assert all(stride % alignment == 0 for stride in strides[:-1]) and strides[-1] == 1, strides
        assert attn_bias.dtype == query.dtype and attn_bias.shape == (*query.transpose(1, 2).shape[:3], key.shape[1])
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    scores = scores if attn_bias is None else scores + attn_bias.float()
    return (scores.softmax(-1) @ v.float()).to(q.dtype).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("key_frames", [(), (-1, "first"), (0, "mid", 1)])
def test_a_bias_reaches_xformers_aligned(monkeypatch, noise, key_frames, dtype):
    """12, 24 and 36 keys: 77 of a text are no multiple of 8 either. Source: xformers, `_check_bias_alignment`."""
    ops = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setattr(kernels, "import_module", lambda _name: ops)
    q, k, v, site = called(noise, key_frames, with_bias=True, dtype=dtype)
    narrow = replace(site, bias=site.bias[:, :, :1])  # one row for all cells
    for given in (site, narrow):
        got = kernels.memory_efficient(q, k, v, given)
        torch.testing.assert_close(got, explicit(q, k, v, given), rtol=0, atol=1e-5 if dtype == torch.float32 else 5e-3)


WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "unique2", "lift_fresh")
"""Operators for which the computer waits until the device has done all it was given, or sends it numbers anew."""


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in WAITS or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def waits_between_steps(run):
    """What a run makes the computer wait for after its first step and before the last, whose result is looked at."""
    watch, on = Waits(), []

    def on_step(step):
        if step.done == 1:
            on.append(watch.__enter__())
        elif step.done == step.total - 1:
            on.pop().__exit__(None, None, None)

    run(on_step)
    assert not on
    return watch.seen


@pytest.fixture
def runs_ahead(monkeypatch):
    """The processor is taken for a device that computes by itself."""
    monkeypatch.setattr(finite, "runs_ahead", lambda _device: True)


@pytest.mark.parametrize("policy", ["features", "maps", "recompute"])
def test_nothing_in_a_step_makes_the_computer_wait_for_the_device(model, runs_ahead, policy):
    kept = []
    inversion = waits_between_steps(lambda on: kept.append(inverted(model, Storage(policy), on_step=on)))
    assert inversion == []
    for name in ("replace", "blend", "refine"):
        assert (name, waits_between_steps(lambda on, name=name: edited(model, kept[0], name, on_step=on))) == (name, [])
