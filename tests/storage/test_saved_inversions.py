"""Inversions saved on disk: found by what they depend on, and by nothing else."""

import gc
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from fatezero_ext import (
    Capture,
    InflationSettings,
    Pseudo3DUNet,
    Storage,
    TemporalLayers,
    plain,
    register_attention_control,
)
from fatezero_ext.errors import SettingsError, StoreError
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_store import DiskStore
from fatezero_ext.storage.record_store import Recomputed

from ..conftest import GOLDEN, relative
from ..small_runs import ROUNDING, SOURCE, calls_of, clip, edited, inverted

FEW = 2  # steps of inversions that are not edited


@pytest.fixture
def cache(tmp_path):
    return InversionCache(tmp_path / "inversions")


def on_disk(cache, policy="features", **options):
    return Storage(policy, "disk", cache=cache, **options)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A cache with one inversion, the same kept in memory as an edit, and its trace."""
    cache = InversionCache(tmp_path_factory.mktemp("saved"))
    controller = inverted(model, on_disk(cache))
    return cache, edited(model, inverted(model, Storage("features"))), controller.trace


def test_a_second_inversion_is_found_and_edits_to_the_same_bits(model, saved):
    cache, wanted, trace = saved
    with calls_of(model.unet.net) as calls:
        found = inverted(model, on_disk(cache))
    assert calls == [] and isinstance(found.trace.store, DiskStore)
    assert found.trace.latents.equal(trace.latents) and found.trace.noise.equal(trace.noise)
    assert edited(model, found).equal(wanted)


def test_a_found_inversion_is_told_and_reported_as_done(model, saved):
    told, done = [], []
    inverted(model, on_disk(saved[0]), on_plan=told.append, on_step=lambda step: done.append((step.done, step.total)))
    assert len(told) == 1 and told[0].startswith("found on disk, nothing to invert: ") and done == [(5, 5)]


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from fatezero_ext import Storage, load_model
from fatezero_ext.storage.disk_cache.cache import InversionCache
from tests.small_runs import calls_of, edited, inverted

model = load_model(sys.argv[1])
with calls_of(model.unet.net) as calls:
    controller = inverted(model, Storage("features", "disk", cache=InversionCache(Path(sys.argv[2]))))
assert calls == [], calls
save_file({"edited": edited(model, controller)}, sys.argv[3])
"""


@pytest.mark.slow
def test_another_process_finds_it_and_edits_to_the_same_bits(saved, tmp_path):
    cache, wanted, _ = saved
    places = [str(place) for place in (GOLDEN / "model", cache.folder, tmp_path / "edited")]
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, *places], check=True, cwd=GOLDEN.parent.parent)
    assert load_file(tmp_path / "edited")["edited"].equal(wanted)


@pytest.mark.parametrize(
    ("policy", "precision"), [("features", "int8"), ("features", "bfloat16"), ("maps", "int8"), ("maps", "float16")]
)
def test_what_is_read_back_is_what_memory_would_have_kept(model, cache, policy, precision):
    ram = inverted(model, Storage(policy, precision=precision), steps=FEW).trace.store
    disk = inverted(model, on_disk(cache, policy, precision=precision), steps=FEW).trace.store
    for step in range(FEW):
        kept, read = ram.read(step), disk.read(step)
        assert kept.keys() == read.keys()
        for at, record in kept.items():
            assert type(record) is type(read[at])
            pairs = zip(record.kept.tensors(), read[at].kept.tensors(), strict=True)
            assert all(a.dtype == b.dtype and a.equal(b) for a, b in pairs)


def asked(**changes):
    """Arguments of an inversion that is saved, changed in some way."""
    return {"storage": on_disk, "steps": FEW, "latents": clip()} | changes


def nudged(latents):
    changed = latents.clone()
    changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(100.0))
    return changed


CHANGES = {
    "latents": asked(latents=nudged(clip())),
    "the order of frames": asked(latents=clip().flip(0)),
    "prompt": asked(prompt=SOURCE + "."),
    "steps": asked(steps=FEW + 1),
    "cells captured": asked(capture=Capture(most_cells=64)),
    "self-attention captured": asked(capture=Capture(self_attention=False)),
    "policy": asked(storage=lambda cache: on_disk(cache, "maps")),
    "precision": asked(storage=lambda cache: on_disk(cache, precision="float16")),
    "reconstruction": asked(reconstruct=Reconstruction(guidance=3.0)),
}


@pytest.fixture(scope="module")
def short(model, tmp_path_factory):
    """A cache with one short inversion."""
    cache = InversionCache(tmp_path_factory.mktemp("short"))
    inverted(model, on_disk(cache), steps=FEW)
    return cache


def is_found(model, cache, *, storage=on_disk, unet=None, **options):
    net = (unet or model.unet).net
    with calls_of(net) as calls:
        inverted(model, storage(cache), unet=unet, **({"steps": FEW} | options))
    return calls == []


@pytest.mark.parametrize("change", CHANGES)
def test_an_inversion_of_anything_else_is_not_found(model, short, change):
    assert is_found(model, short)
    assert not is_found(model, short, **CHANGES[change])


@pytest.mark.parametrize(
    "other", [Reconstruction(4.0, "a lake"), Reconstruction(3.0, "a sea"), Reconstruction(1.0, "a lake")]
)
def test_a_reconstruction_is_found_by_its_guidance_and_negative_prompt(model, cache, other):
    kept = Reconstruction(3.0, "a lake")
    assert not is_found(model, cache, reconstruct=kept, steps=1)
    assert is_found(model, cache, reconstruct=kept, steps=1)
    assert not is_found(model, cache, reconstruct=other, steps=1)


def test_a_weight_changed_in_place_is_another_model(golden, model, short):
    unet = golden.unet()
    unet.latent_format, unet.scheduler = model.unet.latent_format, model.unet.scheduler
    assert is_found(model, short, unet=unet)
    weight = unet.net.mid_block.resnets[1].conv2.weight
    before = weight.clone()
    with torch.no_grad():
        weight.view(-1)[7] += 1e-3
    assert not is_found(model, short, unet=unet)
    with torch.no_grad():
        weight.copy_(before)
    assert is_found(model, short, unet=unet)


INFLATED = [
    InflationSettings(key_frames=(-1,)),
    InflationSettings(key_frames=("first", -1)),
    InflationSettings(least_sc_channel=32),
    InflationSettings(norm="frame"),
    InflationSettings(temporal=TemporalLayers()),
]


@pytest.mark.parametrize("settings", INFLATED)
def test_a_unet_inflated_otherwise_is_another_model(golden, model, short, settings):
    unet = golden.unet(settings)
    unet.latent_format, unet.scheduler = model.unet.latent_format, model.unet.scheduler
    assert not is_found(model, short, unet=unet)


@pytest.mark.parametrize("change", [{"attention_head_dim": 4}, {"norm_eps": 1e-3}, {"upcast_attention": True}])
def test_the_same_weights_under_another_config_are_another_model(model, short, change):
    """Heads, for example, are not seen in any weight, and change every map."""
    config = UNet2DConditionModel.load_config(GOLDEN / "model" / "unet")
    net = UNet2DConditionModel.from_config(config | change)
    net.load_state_dict(model.unet.net.state_dict())
    unet = Pseudo3DUNet(net, latent_format=model.unet.latent_format, scheduler=model.unet.scheduler)
    assert not is_found(model, short, unet=unet)


@pytest.mark.parametrize("change", [{"beta_end": 0.013}, {"prediction_type": "v_prediction"}])
def test_another_schedule_is_another_inversion(golden, model, short, change):
    unet = golden.unet()
    unet.latent_format, unet.scheduler = model.unet.latent_format, {**model.unet.scheduler, **change}
    assert not is_found(model, short, unet=unet)


def test_latents_of_another_scale_are_another_clip(golden, model, short):
    unet = golden.unet()
    unet.latent_format, unet.scheduler = replace(model.unet.latent_format, scale=0.13), model.unet.scheduler
    assert not is_found(model, short, unet=unet)


def test_an_inversion_under_a_registered_control_is_not_saved(model, cache):
    """What it does cannot be told, so that the inversion could not be found again."""
    with register_attention_control(model.unet, lambda *given: plain(*given)), calls_of(model.unet.net) as calls:
        with pytest.raises(SettingsError, match="'disk' needs.*; a registered controller.*ram or on the gpu"):
            inverted(model, on_disk(cache))
    assert not calls and not cache.folder.exists()


@pytest.mark.parametrize("again", [None, Reconstruction(guidance=3.0)])
@pytest.mark.parametrize("policy", ["recompute", "recompute same level"])
def test_an_inversion_that_keeps_no_attention_is_found_again_by_its_latents(model, cache, policy, again):
    first = inverted(model, on_disk(cache, policy), steps=FEW, reconstruct=again)
    (entry,) = cache.entries()
    assert not entry.in_use and entry.nbytes < 2 * first.trace.nbytes
    said = []
    with calls_of(model.unet.net) as calls:
        found = inverted(model, on_disk(cache, policy), steps=FEW, reconstruct=again, on_plan=said.append)
    assert calls == [] and said[0].startswith("found on disk")
    assert found.trace.latents.equal(first.trace.latents) and found.trace.noise.equal(first.trace.noise)
    in_memory = inverted(model, Storage(policy, "ram"), steps=FEW, reconstruct=again)
    wanted = edited(model, in_memory, "replace")
    assert all(relative(edited(model, each, "replace"), wanted) < ROUNDING for each in (first, found))


def test_latents_found_on_disk_serve_both_ways_to_run_the_source_again(model, cache):
    inverted(model, on_disk(cache, "recompute"), steps=FEW)
    with calls_of(model.unet.net) as calls:
        found = inverted(model, on_disk(cache, "recompute same level"), steps=FEW)
    assert calls == []
    wanted = inverted(model, Storage("recompute same level"), steps=FEW)
    assert relative(*(edited(model, each, "replace") for each in (found, wanted))) < ROUNDING


def test_damaged_latents_of_a_saved_inversion_are_computed_again(model, cache, caplog):
    first = inverted(model, on_disk(cache, "recompute"), steps=FEW)
    (path,) = cache.folder.glob("*/levels*")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    again = inverted(model, on_disk(cache, "recompute"), steps=FEW)
    assert "inverted again" in caplog.text and again.trace.latents.equal(first.trace.latents)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", [1, FEW])
def test_a_stopped_inversion_is_no_entry_and_is_held_by_nobody(model, cache, error, when):
    """What it leaves is the subject of test_resumed_inversions.py."""

    def stop(step):
        if step.done == when:
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        inverted(model, on_disk(cache), steps=FEW, on_step=stop)
    assert cache.entries() == [] and not list(cache.folder.glob(".drafts/*.lock"))
    cache.prune(0)
    assert list((cache.folder / ".drafts").iterdir()) == []


def test_a_stopped_inversion_does_not_say_that_it_goes_on(model, tmp_path, caplog):
    def stop(_step):
        raise KeyboardInterrupt

    for number in range(10):
        with pytest.raises(KeyboardInterrupt):
            inverted(model, on_disk(InversionCache(tmp_path / str(number))), steps=1, on_step=stop)
    assert caplog.messages == []


def test_an_unwritable_folder_is_refused_before_the_unet_is_called(model, tmp_path):
    (tmp_path / "file").write_text("in its place")
    cache = InversionCache(tmp_path / "file")
    with calls_of(model.unet.net) as calls, pytest.raises(StoreError, match="file.*cannot be written"):
        inverted(model, on_disk(cache), steps=FEW)
    assert calls == []


def test_an_inversion_larger_than_the_cache_is_refused_before_the_unet_is_called(model, tmp_path):
    cache = InversionCache(tmp_path / "small", limit=100_000)
    with calls_of(model.unet.net) as calls, pytest.raises(StoreError, match="raise the limit with FATEZERO_CACHE_GB"):
        inverted(model, on_disk(cache), steps=FEW)
    assert calls == []


def test_an_inversion_is_in_use_as_long_as_its_controller_lives(model, cache):
    controller = inverted(model, on_disk(cache), steps=FEW)
    (key,) = (entry.key for entry in cache.entries())
    assert cache.prune(0).removed == () and not cache.remove(key)
    del controller
    gc.collect()
    assert [entry.key for entry in cache.prune(0).removed] == [key]
    assert not is_found(model, cache)


def test_an_entry_says_what_it_is_of(model, cache):
    inverted(model, on_disk(cache), steps=FEW)
    (entry,) = cache.entries()
    wanted = {"model": "model", "prompt": SOURCE, "frames": 3, "size": [128, 128], "steps": FEW}
    layers = [str(layer.address) for layer in model.unet.layers]
    assert entry.about == wanted | {"policy": "features", "layers": layers}
    inverted(model, on_disk(cache, precision="int8"), steps=FEW)
    assert {entry.about["policy"] for entry in cache.entries()} == {"features", "features (int8)"}


def test_auto_runs_the_source_again_where_the_cache_has_no_room(model, tmp_path):
    said, cache = [], InversionCache(tmp_path / "cache", limit=1000)
    storage = Storage("auto", "disk", cache=cache)
    controller = inverted(model, storage, on_plan=said.append)
    assert isinstance(controller.trace.store, Recomputed)
    assert "raise the limit with FATEZERO_CACHE_GB" in said[-1] and "run the source again" in said[-1]
    wanted = edited(model, inverted(model, Storage("features", "ram")))
    assert edited(model, controller).equal(wanted)
