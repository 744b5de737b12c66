"""Tune on Clip in ComfyUI: cancelled in the middle and run again, its result edited, and other branches as before."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.comfyui.in_process import Executor
from tests.comfyui.workflows import EDIT, INVERT, LATENTS, LOAD, REGISTER, small_graph, with_copy
from tests.tuning_widgets import UNCHANGED

TUNE, CURVE = "30", "31"
STEPS, STOP = 4, 2
TUNING = {
    "prompt": "a red circle on the grass",
    "name": "circle",
    "steps": STEPS,
    "learning_rate": 1e-4,
    **UNCHANGED,
    "save_every": 50,
    "preview_every": 2,
}

pytestmark = pytest.mark.usefixtures("loaded")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """ComfyUI's folder of models in diffusers layout."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([str(tmp_path)], ["folder"]))
    return tmp_path


def branches():
    """Two edits: "1.." of the model as it is, the other of the tuned one."""
    graph = with_copy(small_graph(), REGISTER)
    links = {"unet": [LOAD, 0], "clip": [LOAD, 1], "latent": ["4", 0]}
    graph[TUNE] = {"class_type": "FateZero_TuneOnClip", "inputs": {**links, **TUNING}}
    graph[REGISTER]["inputs"]["unet"] = [TUNE, 0]
    return graph


def is_meta(module):
    return next(module.parameters()).is_meta


def test_a_cancelled_run_goes_on_and_other_branches_are_as_before(models):
    plain = Executor().run(small_graph()).latents(LATENTS)
    graph, executor, calls = branches(), Executor(), []
    import comfy.model_management

    def press(module, _inputs):
        # It is being trained, and not planned: plans have no memory.
        if type(module).__name__ == "UNet2DConditionModel" and torch.is_grad_enabled() and not is_meta(module):
            calls.append(module)
            if len(calls) == STOP:
                comfy.model_management.interrupt_current_processing(True)

    hook = register_module_forward_pre_hook(press)
    try:
        stopped = executor.run(graph)
    finally:
        hook.remove()
    assert stopped.interrupted == TUNE, stopped.error
    assert not (models / "circle").exists()
    state = load_file(models / "circle.tuning.safetensors")
    assert len(state["losses"]) == STOP

    again = executor.run(graph)
    assert again.error is None and TUNE in again.executed
    tuned = load_file(models / "circle.tuning.safetensors")
    assert len(tuned["losses"]) == STEPS and tuned["losses"][:STOP].equal(state["losses"])
    other = f"1{LATENTS}"
    assert again.latents(other) == plain != again.latents(LATENTS)
    assert {INVERT, EDIT} <= set(again.executed)
    assert (models / "circle" / "model_index.json").exists()

    whole = Executor().run({**graph, TUNE: {**graph[TUNE], "inputs": {**graph[TUNE]["inputs"], "name": "whole"}}})
    assert whole.latents(LATENTS) == again.latents(LATENTS)


def test_the_saved_model_is_offered_after_a_refresh(models):
    graph = {name: node for name, node in branches().items() if int(name) < 100 and name not in (LATENTS, EDIT)}
    graph[CURVE] = {"class_type": "PreviewImage", "inputs": {"images": [TUNE, 1]}}
    assert Executor().run(graph).error is None
    import nodes

    offered = nodes.NODE_CLASS_MAPPINGS["FateZero_LoadPseudo3DUNet"].GET_SCHEMA().inputs[0].options
    assert "circle" in offered
