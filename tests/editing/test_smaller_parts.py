"""A device that runs out of memory in the middle: the step runs again with fewer frames, and the run goes on."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch

from fatezero_ext import InflationSettings, Storage, edit, load_model, register_attention_control
from fatezero_ext.inversion import run
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.record_store import MemoryStore

from ..conftest import GOLDEN
from ..small_runs import clip, inverted
from .test_frames_at_once import COLOUR, FRAMES, IN_RAM, KINDS, check_alike

STEPS = 4


@pytest.fixture(scope="module")
def models():
    def model(norm):
        return load_model(GOLDEN / "model", InflationSettings(norm=norm), dtype=torch.float64)

    return cache(model)


def inverted_in(model, storage=IN_RAM, **options):
    return inverted(model, storage, latents=clip(2, FRAMES, 8, 12), **{"steps": STEPS, **options})


@pytest.fixture(scope="module")
def whole(models):
    """The inversion of the whole clip, and its edits by kind."""
    controller = cache(lambda norm: inverted_in(models(norm)))

    @cache
    def edited(norm, kind=None):
        prompt, settings = COLOUR if kind is None else KINDS[kind][0]
        more = {} if kind is None else KINDS[kind][1]
        return edit(controller(norm), models(norm).text_encoder, prompt, settings, **more)

    return controller, edited


@contextmanager
def room_for(unet, most, after=0):
    """From its call `after` on, the middle of the UNet runs out of memory where it gets more frames than `most`."""
    calls = []

    def fail(_module, given):
        calls.append(len(given[0]))
        if len(calls) > after and calls[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    hook = unet.net.mid_block.attentions[0].proj_in.register_forward_pre_hook(fail)  # called by any way of computing
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("norm", ["frame", "clip"])
@pytest.mark.parametrize("storage", [IN_RAM, Storage("recompute")], ids=lambda storage: storage.policy)
def test_a_step_runs_again_with_fewer_frames(models, whole, norm, storage, caplog):
    (of_whole, edited), model = whole, models(norm)
    said = []
    with room_for(model.unet, 2, after=2) as calls:
        controller = inverted_in(model, storage, on_plan=said.append)
    assert len(said) == 2 and said[1].endswith("memory ran out on the way, 1 frames at once since then")
    assert (controller.trace.latents - of_whole(norm).trace.latents).abs().max() < 1e-4
    assert controller.trace.frames_at_once == 1 and "1 frames are computed at once" in caplog.text
    assert calls.count(FRAMES) == 3 and calls.count(3) == 1  # one failed call of each number; 2 steps were done
    check_alike(edit(controller, model.text_encoder, *COLOUR), edited(norm))


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("frame", None), ("clip", None), ("frame", "spared things"), ("frame", "joined last"), ("frame", "quirks"),
     ("clip", "shapes"), ("frame", "a mask"), ("frame", "fresh noise")],
)  # fmt: skip
@pytest.mark.parametrize("after", [1, 3])
def test_masks_go_on_where_an_edit_had_come_to(models, whole, norm, kind, after):
    (controller, edited), model = whole, models(norm)
    wanted = edited(norm, kind)
    prompt, settings = COLOUR if kind is None else KINDS[kind][0]
    more = {} if kind is None else KINDS[kind][1]
    with room_for(model.unet, 4, after) as calls:
        check_alike(edit(controller(norm), model.text_encoder, prompt, settings, **more), wanted)
    assert max(calls[after + 3 :]) <= 4


@pytest.mark.parametrize("kind", [None, "shapes", "a mask"])
@pytest.mark.parametrize("storage", [IN_RAM, Storage("recompute")], ids=lambda storage: storage.policy)
def test_a_step_runs_again_from_its_first_part_with_one_text_at_once(models, whole, kind, storage, caplog):
    (_, edited), model = whole, models("frame")
    prompt, settings = COLOUR if kind is None else KINDS[kind][0]
    controller, more = inverted_in(model, storage), {} if kind is None else KINDS[kind][1]
    with room_for(model.unet, 2, after=10) as calls:  # in the middle of a step
        found = edit(controller, model.text_encoder, prompt, settings, frames_at_once=2, **more)
    check_alike(found, edited("frame", kind))
    assert calls[10:].count(4) == 1 and "one after the other" in caplog.text
    assert "frames are computed at once" not in caplog.text


@contextmanager
def failing_at(unet, number):
    """The middle of the UNet runs out of memory once, at its call of a number."""
    calls = []

    def fail(_module, given):
        calls.append(len(given[0]))
        if len(calls) - 1 == number:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    hook = unet.net.mid_block.attentions[0].proj_in.register_forward_pre_hook(fail)
    try:
        yield calls
    finally:
        hook.remove()


def stays_on_the_device(monkeypatch):
    """A store of pages that are kept where they were computed, as on a GPU."""
    monkeypatch.setattr(run, "MemoryStore", lambda _device, *given: MemoryStore(None, *given))


@pytest.mark.parametrize("number", [3, 4, 5])  # of three parts of the second step
def test_an_inversion_does_a_step_again_when_its_store_left_the_device(models, whole, number, caplog, monkeypatch):
    (of_whole, edited), model = whole, models("frame")
    stays_on_the_device(monkeypatch)
    with failing_at(model.unet, number) as calls:
        controller = inverted_in(model, frames_at_once=3)
    assert len(calls) == 3 * STEPS + 1 + (number - 3) and "attention moves to the computer's memory" in caplog.text
    assert (controller.trace.latents - of_whole("frame").trace.latents).abs().max() < 1e-4
    check_alike(edit(controller, model.text_encoder, *COLOUR), edited("frame"))


@pytest.mark.parametrize("number", [4, 5, 6])
def test_an_edit_does_a_step_again_when_its_store_left_the_device(models, whole, number, caplog, monkeypatch):
    (_, edited), model = whole, models("frame")
    stays_on_the_device(monkeypatch)
    controller = inverted_in(model, frames_at_once=3)
    with failing_at(model.unet, number) as calls:
        found = edit(controller, model.text_encoder, *COLOUR, frames_at_once=2)  # parts that those stored do not match
    check_alike(found, edited("frame"))
    assert len(calls) == 4 * STEPS + 1 + (number - 4) and "attention moves to the computer's memory" in caplog.text


def test_a_source_that_ran_out_of_memory_runs_again_from_its_first_part(models, whole, caplog, monkeypatch):
    (_, edited), model = whole, models("frame")
    stays_on_the_device(monkeypatch)
    (prompt, settings), _ = KINDS["other words"]
    controller = inverted_in(model, Storage("maps", "ram"))
    with failing_at(model.unet, 2) as calls:  # the source's own, of the second part, under the word that it asks for
        found = edit(controller, model.text_encoder, prompt, settings, frames_at_once=2)
    assert calls[:5] == [2, 4, 2, 2, 2] and "attention moves to the computer's memory" in caplog.text
    check_alike(found, edited("frame", "other words"))


def test_pages_are_stored_as_they_would_have_been(models, whole, tmp_path):
    (of_whole, _), model = whole, models("frame")
    storage = Storage("features", "disk", cache=InversionCache(tmp_path))
    with room_for(model.unet, 3, after=1):
        in_files = inverted_in(model, storage)
    for at_once in (0, 4):  # 4: two files of a page were written before the clip was split further
        with room_for(model.unet, 3 if at_once else 99, after=3):
            controller = inverted_in(model, frames_at_once=at_once)
        assert len(controller.trace.store.parts) == (2 if at_once else 0)
        pages = [controller.trace.store, in_files.trace.store]
        for step in range(STEPS):
            found = [[store.read(step, part) for part in range(len(store.parts) or 1)] for store in pages]
            for at, record in of_whole("frame").trace.store.read(step).items():
                for each in found:
                    rows = torch.cat([page[at].kept.values for page in each])
                    torch.testing.assert_close(rows, record.kept.values, atol=1e-9, rtol=1e-9)


def test_a_clip_of_which_no_frame_fits_ends_with_advice_said_once(models):
    model = models("frame")
    with room_for(model.unet, 0), pytest.raises(torch.cuda.OutOfMemoryError, match="smaller frames") as caught:
        inverted_in(model)
    assert str(caught.value).count("Use fewer or smaller frames") == 1


def test_a_registered_function_is_not_called_again(models):
    model = models("frame")
    with register_attention_control(model.unet, lambda q, k, v, site: model.unet.kernel(q, k, v, site)):
        with room_for(model.unet, 3) as calls, pytest.raises(torch.cuda.OutOfMemoryError):
            inverted_in(model)
    assert calls == [FRAMES]
