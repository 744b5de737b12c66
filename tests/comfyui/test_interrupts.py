"""Runs that are stopped at any step: no further step is done, and the next run ends as a clean one."""

import random
import sys

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from fatezero_ext.storage.disk_cache.cache import InversionCache
from tests.comfyui.in_process import Executor, Give, Take
from tests.comfyui.small_native import native_model
from tests.comfyui.workflows import EDIT, INVERT, KEEP, LATENTS, REGISTER, small_graph

STEPS = 4
WAYS = (("features", "ram"), ("maps", "ram"), ("recompute", "auto"), ("features", "disk"))
ROUNDS = 30
SEEDS = range(ROUNDS)
NATIVE_SEEDS = range(6)
UNETS = ("UNet2DConditionModel", "UNetModel")
TAKE, GIVE = "21", "22"

pytestmark = pytest.mark.usefixtures("loaded")


class Steps:
    """Counts the UNet's calls; in call `stop` the user presses the stop button."""

    def __init__(self):
        self.calls, self.stop = 0, None

    def __call__(self, module, _inputs):
        if type(module).__name__ in UNETS:
            self.calls += 1
            if self.calls == self.stop:
                import comfy.model_management

                comfy.model_management.interrupt_current_processing(True)

    def stop_at(self, call):
        self.calls, self.stop = 0, call


@pytest.fixture
def steps():
    counted = Steps()
    hook = register_module_forward_pre_hook(counted)
    yield counted
    hook.remove()


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FATEZERO_CACHE_DIR", str(tmp_path))
    return tmp_path


def graph_of(policy, place, *, native=False):
    graph = small_graph(STEPS)
    graph[KEEP]["inputs"] |= {"policy": policy, "place": place}
    graph[TAKE] = {"class_type": "TestTake", "inputs": {"controller": [REGISTER, 0]}}
    if native:
        graph[GIVE] = {"class_type": "TestGive", "inputs": {"name": "model"}}
        graph[REGISTER]["inputs"] |= {"unet": [GIVE, 0], "key_frames": ""}
    return graph


def controlled(executor, graph):
    """The UNet that the graph's controller holds, after the graph's inputs alone were run."""
    Take.taken.clear()
    before = {name: node for name, node in graph.items() if name not in (KEEP, INVERT, EDIT, LATENTS)}
    assert executor.run(before).error is None
    return Take.taken[0].unet


def clean_run(graph, steps):
    """Latents of a run that nobody stops, and the UNet's calls in its inversion and in all of it."""
    steps.stop_at(None)
    executor = Executor()
    latents = executor.run(graph).latents(LATENTS)
    return latents, steps.calls


def calls_of_a_step(graph, steps):
    """The UNet's calls in each step of a clean run, one after the other."""
    latents, calls = clean_run(graph, steps)
    assert calls % STEPS == 0
    of_edit = calls // STEPS - 1
    return latents, [1] * STEPS + [of_edit] * STEPS


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stop_in_any_step_ends_the_run_there_and_the_next_run_is_a_clean_one(steps, cache_folder, seed):
    chosen = random.Random(seed)
    policy, place = WAYS[seed % len(WAYS)]
    graph = graph_of(policy, "ram" if place == "disk" else place)
    latents, each = calls_of_a_step(graph, steps)
    graph = graph_of(policy, place)
    step = chosen.randrange(len(each))
    stop = sum(each[:step]) + chosen.randrange(each[step]) + 1
    executor = Executor("lru 50" if seed % 3 == 0 else "classic")
    unet = controlled(executor, graph)
    weights = {name: x.clone() for name, x in unet.net.state_dict().items()}

    steps.stop_at(stop)
    stopped = executor.run(graph)
    assert stopped.interrupted == (INVERT if step < STEPS else EDIT), stopped.error
    assert steps.calls <= sum(each[: step + 1])  # the step in which the button was pressed is the last
    assert unet.attend is unet.kernel and not unet._sites
    assert all(torch.equal(x, weights[name]) for name, x in unet.net.state_dict().items())
    found = [entry for entry in InversionCache(cache_folder).entries() if entry.draft is None]
    assert not (step < STEPS and found)  # an inversion that is half done can be gone on with, and not be found

    steps.stop_at(None)
    again = executor.run(graph)
    assert again.latents(LATENTS) == latents
    assert stopped.interrupted in again.executed and stopped.interrupted not in again.cached
    assert (INVERT in again.executed) == (step < STEPS)


@pytest.mark.parametrize("seed", NATIVE_SEEDS)
def test_a_stop_under_a_native_model_leaves_it_as_it_was(steps, seed):
    chosen = random.Random(seed)
    Give.given["model"] = model = native_model()
    graph = graph_of("features", "ram", native=True)
    latents, each = calls_of_a_step(graph, steps)
    stop = (seed * len(each)) // len(NATIVE_SEEDS) + chosen.randrange(2) * (seed < 5) + 1
    executor = Executor()
    unet = controlled(executor, graph)
    options, weights = repr(model.model_options), {n: x.clone() for n, x in model.model.state_dict().items()}

    steps.stop_at(stop)
    stopped = executor.run(graph)
    assert stopped.interrupted == (INVERT if stop <= STEPS else EDIT), stopped.error
    assert steps.calls == stop
    assert unet.attend is unet.kernel and not unet._sites
    assert not sys.modules[type(unet).__module__]._RUNS.get()
    assert repr(model.model_options) == options and not model.patches and not model.object_patches
    assert not model.backup and not model.object_patches_backup
    assert all(torch.equal(x, weights[name]) for name, x in model.model.state_dict().items())

    steps.stop_at(None)
    again = executor.run(graph)
    assert again.latents(LATENTS) == latents
    assert stopped.interrupted in again.executed


def test_a_stop_before_the_run_is_not_left_over_for_the_next(steps):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    run = Executor().run(small_graph())
    assert run.interrupted is None and run.latents(LATENTS)
