"""What ComfyUI frees is given back: models are in its list while they are loaded, and nothing holds them afterwards."""

import gc
import weakref

import pytest

from tests.comfyui.in_process import Executor, Take
from tests.comfyui.workflows import INVERT, LATENTS, small_graph

TAKE = "21"

pytestmark = pytest.mark.usefixtures("loaded")


def ran():
    """An executor that has run an edit, its graph, and weak references to the UNet and the recorded attention."""
    Take.taken.clear()
    graph = small_graph()
    graph[TAKE] = {"class_type": "TestTake", "inputs": {"controller": [INVERT, 0]}}
    executor = Executor()
    latents = executor.run(graph).latents(LATENTS)
    controller = Take.taken.pop()
    kept = [weakref.ref(tensor) for tensor in controller.trace.store.held_tensors()]
    return executor, graph, latents, weakref.ref(controller.unet.net), kept


def test_unloaded_models_are_loaded_again_by_the_next_run_with_the_same_result():
    from comfy import model_management

    executor, graph, latents, net, _kept = ran()
    assert any(held(each, net()) for each in model_management.current_loaded_models)
    model_management.unload_all_models()
    assert not any(held(each, net()) for each in model_management.current_loaded_models)
    graph["8"]["inputs"]["guidance"] = 4.0
    changed = executor.run(graph)
    assert changed.error is None and "3" not in changed.executed
    assert any(held(each, net()) for each in model_management.current_loaded_models)
    graph["8"]["inputs"]["guidance"] = 3.0
    assert executor.run(graph).latents(LATENTS) == latents


def held(loaded, net):
    """Whether an entry of ComfyUI's list of loaded models is this UNet's."""
    return loaded.model is not None and any(module is net for module in loaded.model.model.modules())


def test_nothing_holds_the_model_and_the_attention_once_comfyui_has_unloaded_it_and_forgotten_its_results():
    from comfy import model_management

    executor, _graph, _latents, net, kept = ran()
    assert kept and all(tensor() is not None for tensor in kept)
    model_management.unload_all_models()
    executor.forget()
    gc.collect()
    assert net() is None and all(tensor() is None for tensor in kept)
