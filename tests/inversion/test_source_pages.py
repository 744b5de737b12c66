"""How an edit reads its source's pages: ahead of need, by a thread that ends with the edit."""

import threading
from dataclasses import dataclass, field, replace

import pytest

from fatezero_ext import Storage, edit
from fatezero_ext.errors import StoreError
from fatezero_ext.inversion.source_reader import SourceReader
from fatezero_ext.storage.record_store import MemoryStore

from ..small_runs import EDIT, STEPS, edited, inverted, named

LONG = 20  # seconds; what is waited for takes milliseconds


@dataclass
class FarStore:
    """Pages that are somewhere else; remembers who read which.

    fails: the step whose page cannot be read
    """

    pages: MemoryStore
    fails: int | None = None
    parts: tuple = ()
    reads: list[tuple[int, str]] = field(default_factory=list)
    came: dict[int, threading.Event] = field(default_factory=lambda: {step: threading.Event() for step in range(STEPS)})

    @property
    def nbytes(self):
        return self.pages.nbytes

    def write(self, step, page, part=0):
        raise AssertionError("sealed")

    def seal(self):
        pass

    def read(self, step, part=0):
        self.reads.append((step, threading.current_thread().name))
        self.came[step].set()
        if step == self.fails:
            raise StoreError(f"step {step} is lost")
        return self.pages.read(step)


@pytest.fixture(scope="module")
def kept(model):
    return inverted(model, Storage("features"))


@pytest.fixture
def far(kept):
    store = FarStore(kept.trace.store)
    return store, replace(kept, trace=replace(kept.trace, store=store))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def addresses(model):
    return [layer.address for layer in model.unet.layers]


def test_an_edit_of_pages_far_away_has_the_bits_of_pages_at_hand(model, kept, far):
    assert edited(model, far[1]).equal(edited(model, kept))


def test_the_page_after_the_one_that_is_read_is_fetched_meanwhile(model, far):
    store, controller = far
    with SourceReader(model.unet, controller.trace, [addresses(model)] * STEPS) as pages:
        pages.read(0)
        assert store.came[1].wait(LONG)  # though nobody asked for it yet
        pages.read(1)
        assert store.came[2].wait(LONG)
    assert [step for step, _ in store.reads] == [0, 1, 2]


def test_no_page_is_read_twice_or_by_the_edit_itself(model, far):
    store, controller = far
    edit(controller, model.text_encoder, EDIT, named(cross_replace=1.0, self_replace=1.0))
    assert [step for step, _ in store.reads] == list(range(STEPS))
    assert all(name.startswith("source records") for _, name in store.reads)


def test_steps_that_want_nothing_are_passed_over(model, far):
    store, controller = far
    wanted = [addresses(model) if step in (0, 3) else () for step in range(STEPS)]
    with SourceReader(model.unet, controller.trace, wanted) as pages:
        read = [pages.read(step) for step in range(3)]
        assert list(read[0]) == addresses(model) and read[1:] == [{}, {}]
        assert store.came[3].wait(LONG)
        assert pages.read(3) and not pages.read(4)
    assert [step for step, _ in store.reads] == [0, 3]


def test_an_edit_reads_the_steps_of_its_windows_only(model, far):
    store, controller = far
    edit(controller, model.text_encoder, EDIT, named(cross_replace=(0.4, 0.8), self_replace=(0.4, 0.6)))
    assert [step for step, _ in store.reads] == [2, 3]


def test_only_the_layers_that_are_wanted_are_given(model, far):
    store, controller = far
    wanted = addresses(model)[3:7]
    with SourceReader(model.unet, controller.trace, [wanted] * STEPS) as pages:
        assert list(pages.read(2)) == wanted


def test_pages_at_hand_need_no_thread(model, kept):
    before = threading.active_count()
    with SourceReader(model.unet, kept.trace, [addresses(model)] * STEPS) as pages:
        assert pages.read(0) and threading.active_count() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_thread_ends_when_the_edit_is_stopped(model, far, error):
    """The fixture of this module looks for threads."""

    def stop(_step):
        assert any(thread.name.startswith("source records") for thread in threading.enumerate())
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        edit(far[1], model.text_encoder, EDIT, on_step=stop)


def test_a_page_that_cannot_be_read_ends_the_edit_at_its_step(model, far):
    store, controller = far
    store.fails, done = 2, []
    with pytest.raises(StoreError, match="step 2 is lost"):
        edit(controller, model.text_encoder, EDIT, on_step=lambda step: done.append(step.done))
    assert done == [1, 2]


def test_a_page_that_was_never_recorded_is_missing_by_name(model, kept):
    trace = replace(kept.trace, store=MemoryStore())
    with SourceReader(model.unet, trace, [addresses(model)] * STEPS) as pages:
        with pytest.raises(StoreError, match="step 0 is not in the store, which has 0"):
            pages.read(0)
