"""What objects on the graph tell programs that keep results between runs."""

import gc
from dataclasses import replace

import pytest
import torch

from fatezero_ext import Controller, Storage
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.record_store import MemoryStore

from ..small_runs import STEPS, clip, edited, inverted


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
    near = inverted(model, Storage("features", "ram"))
    far = MemoryStore(torch.device("meta"))
    for step in range(STEPS):
        far.write(step, near.trace.store.read(step))
    controller = replace(near, trace=replace(near.trace, store=far))
    assert len(controller._comfy_cache_tensors()) == len(near._comfy_cache_tensors())
    assert controller.get_ram_usage() == near.get_ram_usage() - near.trace.store.nbytes > 0


def test_a_controller_leaves_the_weights_to_the_node_that_loaded_them(model):
    assert Controller(model.unet).get_ram_usage() == 0
    for part in (model.unet, model.text_encoder, model.vae):
        weights = [*part.net.parameters(), *part.net.buffers()]
        assert part.get_ram_usage() == sum(tensor.nbytes for tensor in weights) > 0


def test_no_index_of_frames_outlives_a_run(model):
    frames = 7  # of no other clip here
    controller = inverted(model, Storage("features"), latents=clip(frames=frames))
    edited(model, controller)
    gc.collect()
    alive = [each for each in gc.get_objects() if type(each) is torch.Tensor and each.shape == (frames,)]
    assert [each for each in alive if each.dtype == torch.int64] == []
