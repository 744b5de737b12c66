"""What objects on the graph tell programs that keep results between runs."""

import pytest
import torch

from fatezero_ext import Controller, Storage
from fatezero_ext.cache_folder import InversionCache

from .small_runs import edited, inverted


@pytest.mark.parametrize("policy", ["features", "maps", "recompute"])
def test_an_inversion_reports_all_that_it_keeps_in_memory(model, policy):
    controller = inverted(model, Storage(policy, "ram"))
    assert controller.get_ram_usage() == controller.trace.nbytes
    assert sum(tensor.nbytes for tensor in controller._comfy_cache_tensors()) == controller.trace.nbytes


def test_pages_on_disk_are_no_memory(model, tmp_path):
    kept = inverted(model, Storage("features", "disk", cache=InversionCache(tmp_path)))
    bare = inverted(model, Storage("recompute"))
    assert kept.get_ram_usage() == bare.get_ram_usage() < kept.trace.nbytes


def test_tensors_elsewhere_are_named_but_are_no_memory_of_the_computer(model):
    controller = inverted(model, Storage("features", "ram"))
    far = controller.trace.store._pages = {0: {}}
    assert far and controller.get_ram_usage() < controller.trace.nbytes + 1
    elsewhere = torch.empty(4, device="meta")
    controller.trace.store.held_tensors = lambda: iter([elsewhere])
    assert controller._comfy_cache_tensors()[-1] is elsewhere
    assert controller.get_ram_usage() == inverted(model, Storage("recompute")).get_ram_usage()


def test_a_controller_leaves_the_weights_to_the_node_that_loaded_them(model):
    assert Controller(model.unet).get_ram_usage() == 0
    for part in (model.unet, model.text, model.vae):
        weights = [*part.net.parameters(), *part.net.buffers()]
        assert part.get_ram_usage() == sum(tensor.nbytes for tensor in weights) > 0


def test_nothing_of_a_clips_shape_stays_with_the_unet_after_a_run(model):
    controller = inverted(model, Storage("features"))
    edited(model, controller)
    assert model.unet._sites == {}
