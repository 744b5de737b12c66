"""MODELs that other nodes made to sample in a way edits cannot follow are refused by name, with what to do."""

from types import SimpleNamespace

import pytest
import torch

import fatezero_ext as ext
from fatezero_ext.cli.node_pack import load_pack
from tests.comfyui.small_native import native_model

FRAMES = 4


def under_control(model):
    return load_pack("nodes.native.model").NativeModel(model)


def refused(model):
    with pytest.raises(ext.FateZeroError) as error:
        under_control(model)
    return str(error.value)


def with_context_windows(model):
    """As ComfyUI's own node does it; skips where this version has none."""
    windows = pytest.importorskip("comfy_extras.nodes_context_windows")
    more = {"closed_loop": False, "context_stride": 1, "fuse_method": "pyramid"}
    names = windows.ContextWindowsManualNode.execute.__code__.co_varnames
    if "freenoise" in names:
        more["freenoise"] = False
    return windows.ContextWindowsManualNode.execute(model, 2, 1, "standard_static", dim=0, **more).args[0]


def test_context_windows_are_refused_by_name(comfyui):
    said = refused(with_context_windows(native_model()))
    assert "Context Windows" in said and "Take that node out" in said
    assert "Load a checkpoint" not in said


@pytest.mark.parametrize("place", ["model_options", "additional_models"])
def test_models_on_several_gpus_are_refused_by_name(comfyui, place):
    model = native_model()
    if place == "model_options":
        model.model_options["multigpu_clones"] = {"cuda:1": model}
    else:
        model.set_additional_models("multigpu", [model.clone()])
    said = refused(model)
    assert "several GPUs" in said and "MultiGPU CFG Split" in said and "Take that node out" in said


def with_evolved(model, **options):
    """What AnimateDiff-Evolved leaves on a MODEL for its context options."""
    told = {"context_length": None, "use_on_equal_length": False, "contexts": (), **options}
    model.set_attachments("ADE_params", SimpleNamespace(context_options=SimpleNamespace(**told)))
    return model


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"context_length": 3}, "at most 3 frames"),
        ({"context_length": FRAMES, "use_on_equal_length": True}, "at most 3 frames"),
        ({"contexts": (SimpleNamespace(context_schedule="view_as_context"),)}, "Take Context Options out"),
    ],
)
def test_context_options_shorter_than_the_clip_are_refused_before_any_work(comfyui, options, advice):
    native, ran = under_control(with_evolved(native_model(), **options)), []
    with pytest.raises(ext.FateZeroError, match=f"AnimateDiff-Evolved's Context Options.*together.*{advice}"):
        native.run(lambda: ran.append(1), 1, FRAMES, 8, 8)
    assert ran == []


@pytest.mark.parametrize("options", [{}, {"context_length": FRAMES}, {"context_length": 16}])
def test_context_options_that_hold_the_clip_are_let_through(comfyui, options):
    native = under_control(with_evolved(native_model(), **options))
    assert native.run(lambda: torch.ones(1), 1, FRAMES, 8, 8).item() == 1


def test_motion_models_with_inputs_of_their_own_are_refused_by_name(comfyui):
    model, motion = native_model(), native_model()
    motion.set_attachments("ADE", SimpleNamespace(orig_camera_entries=[1], orig_pia_images=None))
    model.set_additional_models("ADE", [motion])
    assert "camera poses (CameraCtrl)" in refused(model)


def test_motion_models_alone_are_let_through(comfyui):
    model, motion = native_model(), native_model()
    motion.set_attachments("ADE", SimpleNamespace(orig_camera_entries=None))
    model.set_additional_models("ADE", [motion])
    under_control(model)
