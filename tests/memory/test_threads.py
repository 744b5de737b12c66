"""Threads that share one model, and what each of them sees of the others: nothing."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from fatezero_ext import Storage, plain, register_attention_control
from fatezero_ext.memory.residency import stay_put
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..shared_model import JOBS, alone, shared
from ..small_runs import EDIT, SOURCE, STEPS, clip, edited, inverted

SHORT = ("features blend clip", "disk refine", "control", "nested")


def in_a_thread(work):
    """What `work` gives in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.slow
def test_threads_that_share_a_model_compute_what_one_computes_alone(model, tmp_path):
    """The whole of it is `python -m tests.shared_model`."""
    assert set(SHORT) <= set(JOBS)
    wanted = alone(model, tmp_path, SHORT)
    assert not shared(model, wanted, InversionCache(tmp_path / "shared"), threads=4, edits=2)


def test_two_threads_that_save_the_same_inversion_at_once_are_both_right(model, tmp_path):
    wanted = inverted(model, Storage("features", "ram"))
    cache, both = InversionCache(tmp_path), threading.Barrier(2, timeout=60)

    def work(_number):
        def meet(step):
            if step.done in (1, STEPS):  # each has begun before either has ended
                both.wait()

        controller = inverted(model, Storage("features", "disk", cache=cache), on_step=meet)
        return controller, edited(model, controller)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, range(2)))
    bits = edited(model, wanted)
    for controller, latents in found:
        assert controller.trace.latents.equal(wanted.trace.latents) and latents.equal(bits)
    (entry,) = cache.verify()
    assert entry.sound and list((cache.folder / ".drafts").iterdir()) == []


def test_a_control_takes_part_in_the_thread_that_registered_it(model):
    with register_attention_control(model.unet, partial(plain)) as here:
        assert model.unet.attend is here.attend
        assert in_a_thread(lambda: model.unet.attend) is model.unet.kernel

        def there():
            with register_attention_control(model.unet, partial(plain)) as own:
                return model.unet.attend is own.attend

        assert in_a_thread(there) and model.unet.attend is here.attend
    assert model.unet.attend is model.unet.kernel


def test_a_run_says_once_that_another_thread_s_control_takes_no_part(model, caplog):
    def mine(*given):
        return plain(*given)

    def run():
        return edited(model, inverted(model, Storage("features", "ram"), steps=1), "replace")

    with register_attention_control(model.unet, mine), register_attention_control(model.unet, None):
        in_a_thread(run)
        in_a_thread(run)
        (said,) = caplog.messages
        assert said.startswith(f"mine is registered on {model.unet.name} by another thread and takes no part in this")
    with register_attention_control(model.unet, mine):
        run()
        assert len(caplog.messages) == 1


def test_a_control_of_a_thread_that_has_ended_is_let_go(model):
    def control(*given):
        return plain(*given)

    left, wanted = weakref.ref(control), list(model.unet._controls)
    in_a_thread(partial(register_attention_control, model.unet, control))
    del control
    with register_attention_control(model.unet, partial(plain)):
        gc.collect()
        assert left() is None
    assert model.unet._controls == wanted


def test_any_thread_may_take_a_control_off(model):
    registration = register_attention_control(model.unet, partial(plain))
    in_a_thread(registration.unregister)
    assert model.unet.attend is model.unet.kernel
    registration.unregister()


def test_sites_of_several_clips_are_kept_at_once_and_not_without_end(model):
    unet = model.unet
    first, second = unet.sites(3, 16, 16), unet.sites(2, 16, 24)
    assert unet.sites(3, 16, 16) is first and unet.sites(2, 16, 24) is second
    for frames in range(1, 20):
        unet.sites(frames, 8, 8)
    assert len(unet._sites) <= 8
    unet.run(lambda: unet.sites(3, 16, 16), 1, 3, 16, 16)
    assert not unet._sites


def test_one_model_at_a_time_is_brought_to_the_device(model):
    moving, most = [], []

    def bring(_working_memory):
        moving.append(1)
        time.sleep(0.02)
        most.append(len(moving))
        moving.pop()

    parts = (model.unet, model.text_encoder)
    for part in parts:
        part.load_to_device = bring
    try:
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(model.unet.run, lambda: None, 1, 3, 16, 16) for _ in range(2)]
            runs += [pool.submit(model.text_encoder.encode, EDIT) for _ in range(2)]
            for run in runs:
                run.result()
    finally:
        for part in parts:
            part.load_to_device = stay_put
    assert most == [1] * 4


@pytest.mark.parametrize("clip_skip", [None, -2])
def test_threads_that_share_a_text_encoder_read_the_same(model, clip_skip):
    text = model.text_encoder.clone()
    if clip_skip:
        text.clip_layer(clip_skip)
    prompts = [SOURCE, EDIT, "a", "curvy road " * 30]
    wanted = {prompt: text.encode(prompt) for prompt in prompts}
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda prompt: text.encode(prompt).equal(wanted[prompt]), prompts * 16)
    assert all(found)


def test_a_run_is_the_same_while_another_thread_loads_a_model(model):
    """diffusers and transformers set the default dtype of the whole process to a model's while they build it."""
    latents = clip()
    wanted = edited(model, inverted(model, Storage("features", "ram"), latents=latents))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        found = edited(model, inverted(model, Storage("features", "ram"), latents=latents))
    finally:
        torch.set_default_dtype(before)
    assert found.equal(wanted)
