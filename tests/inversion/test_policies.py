"""Ways to keep attention give the same edits, as exactly as each promises."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel

from fatezero_ext import (
    Capture,
    InflationSettings,
    Pseudo3DUNet,
    Storage,
    edit,
    invert,
    load_model,
    load_toy,
)
from fatezero_ext.cli.demo import example_clip
from fatezero_ext.editing.masks import blend_layers
from fatezero_ext.inversion.controller import Controller
from fatezero_ext.inversion.invert import Reconstruction
from fatezero_ext.inversion.source_reader import SourceReader
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..conftest import GOLDEN, relative
from ..small_runs import BLEND, EDIT, EDITS, ROUNDING, STEPS, calls_of, clip, edited, inverted, named

PRECISIONS = {"float16": 3e-3, "bfloat16": 2e-2, "int8": 8e-2}  # relative L2 of an edit without word masks, with room


@pytest.fixture(scope="module")
def features(model):
    return inverted(model, Storage("features"))


@pytest.fixture(scope="module")
def recompute(model):
    return inverted(model, Storage("recompute"))


@pytest.fixture(scope="module")
def maps(model):
    return inverted(model, Storage("maps"))


@pytest.fixture(scope="module")
def of_features(model, features):
    """The latents of an edit by its name, from kept features."""
    return cache(lambda name: edited(model, features, name))


@pytest.fixture(scope="module")
def toy():
    """The trained model; gives the edit of a red circle into a blue one from attention kept in some way."""
    model, drawn = load_toy(), example_clip()
    latents = model.vae.encode(torch.as_tensor(drawn.frames)[::3])

    def run(storage, **settings):
        controller = invert(Controller(model.unet, storage=storage), model.text_encoder, latents, drawn.prompt, steps=6)
        asked = named(guidance=3.0, **settings)
        return edit(controller, model.text_encoder, drawn.prompt.replace("red", "blue"), asked).latents

    return run


@pytest.fixture(scope="module")
def of_toy(toy):
    return toy(Storage("features"))


@pytest.mark.parametrize("name", EDITS)
def test_features_and_maps_edit_alike(model, maps, of_features, name):
    assert relative(edited(model, maps, name), of_features(name)) < ROUNDING


@pytest.mark.slow
def test_features_and_maps_edit_a_trained_model_alike(toy, of_toy):
    assert relative(toy(Storage("maps")), of_toy) < 1e-5


@pytest.mark.parametrize("name", EDITS)
def test_running_the_source_again_gives_the_bits_of_kept_features(model, of_features, recompute, name):
    assert edited(model, recompute, name).equal(of_features(name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_running_the_source_again_gives_the_bits_of_kept_features_in_half_precision(dtype):
    half = load_model(GOLDEN / "model", dtype=dtype)
    kept, again = (
        edited(half, inverted(half, Storage(policy), latents=clip(1, 2, 8, 8), steps=3), "replace")
        for policy in ("features", "recompute")
    )
    assert again.equal(kept)


@pytest.mark.parametrize("capture", [Capture(most_cells=64), Capture(self_attention=False)])
def test_running_the_source_again_gives_the_bits_of_what_is_captured(model, capture):
    asked = named(guidance=3.0, self_replace=0.8 if capture.self_attention else 0.0)
    kept, again = (
        edit(inverted(model, Storage(policy), capture=capture, steps=3), model.text_encoder, EDIT, asked).latents
        for policy in ("features", "recompute")
    )
    assert again.equal(kept)


@pytest.fixture(scope="module")
def wide():
    """A UNet with layers so wide that cross-attention is kept as maps, as the deeper ones of Stable Diffusion are."""
    torch.manual_seed(0)
    arms = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    widths = {"block_out_channels": (32, 256), "attention_head_dim": 2, "norm_num_groups": 8, "layers_per_block": 1}
    return Pseudo3DUNet(UNet2DConditionModel(cross_attention_dim=32, **widths, **arms), InflationSettings())


@pytest.mark.slow
def test_what_is_kept_as_maps_changes_no_bit_of_what_is_computed(model, wide):
    kept = inverted(model, Storage("features"), unet=wide)
    assert {record.form for record in kept.trace.store.read(0).values()} == {"map", "features"}
    again = inverted(model, Storage("recompute"), unet=wide)
    assert again.trace.latents.equal(kept.trace.latents)
    for name in EDITS:
        assert edited(model, again, name).equal(edited(model, kept, name))


def test_features_on_disk_give_the_bits_of_features_in_memory(model, of_features, tmp_path):
    disk = inverted(model, Storage("features", "disk", cache=InversionCache(tmp_path)))
    assert edited(model, disk, "blend").equal(of_features("blend"))


@pytest.mark.parametrize("storage", [Storage("features"), Storage("maps"), Storage("recompute"), "disk"])
def test_two_runs_of_a_policy_give_the_same_bits(model, tmp_path, storage):
    runs = []
    for name in ("one", "two"):
        kept = Storage("features", "disk", cache=InversionCache(tmp_path / name)) if storage == "disk" else storage
        controller = inverted(model, kept, steps=3)
        runs.append((controller.trace.latents, controller.trace.noise, edited(model, controller)))
    assert all(one.equal(two) for one, two in zip(*runs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["features", "maps"])
def test_an_edit_loses_little_by_the_precision_that_attention_is_kept_in(model, policy):
    def result(precision):
        return edited(model, inverted(model, Storage(policy, precision=precision), steps=3), "replace")

    whole = result("as computed")
    lost = {precision: relative(result(precision), whole) for precision in PRECISIONS}
    assert all(lost[precision] < most for precision, most in PRECISIONS.items()), lost


def test_a_trained_model_s_edit_loses_little_by_8_bits(toy, of_toy):
    assert relative(toy(Storage("features", precision="int8")), of_toy) < 0.05


def what_attention_comes_from(model, latents, timestep, text):
    """Inputs of every self-attention and queries of every cross-attention [frames, cells, width], by hooks."""
    seen, hooks = {}, []
    for layer in model.unet.layers:
        if layer.address.kind == "self":
            watched, keep = layer.module.to_q, lambda at, given, made: seen.__setitem__(at, given[0])
        else:
            watched, keep = layer.module.to_q, lambda at, given, made: seen.__setitem__(at, made)
        hooks.append(
            watched.register_forward_hook(lambda _m, given, made, at=layer.address, keep=keep: keep(at, given, made))
        )
    try:
        with torch.no_grad():
            model.unet(latents, timestep, text, frames=len(latents))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize(("policy", "offset"), [("recompute", 0), ("recompute same level", 1)])
def test_a_step_that_runs_again_starts_from_its_level(model, policy, offset):
    """Step j of an edit stands at level T - j; its inversion step ran on the level below."""
    trace = inverted(model, Storage(policy)).trace
    addresses = [layer.address for layer in model.unet.layers]
    with SourceReader(model.unet, trace, [addresses] * STEPS) as pages, torch.no_grad():
        for step in (0, 2, STEPS - 1):
            level = trace.latents[STEPS - 1 - step + offset]
            wanted = what_attention_comes_from(model, level, trace.schedule.timesteps[step], trace.text)
            page = pages.read(step)
            assert list(page) == addresses
            for at, source in page.items():
                kept = source.record.kept.values
                assert wanted[at].equal(kept if at.kind == "self" else kept.transpose(1, 2).flatten(2))


def test_the_source_at_the_edit_s_own_level_is_close_to_the_source_as_inverted(toy, of_toy):
    free = toy(Storage("recompute"), cross_replace=0.0, self_replace=0.0)
    near = relative(toy(Storage("recompute same level")), of_toy)
    assert 1e-3 < near < 0.2 < 0.5 < relative(free, of_toy)


@pytest.mark.parametrize(("most_cells", "runs_last_block"), [(64, False), (1024, True)])
def test_the_source_runs_no_further_than_the_last_layer_that_is_read(model, most_cells, runs_last_block):
    controller = inverted(model, Storage("recompute"), capture=Capture(most_cells))
    net, settings = model.unet.net, named(cross_replace=0.6, self_replace=0.4, guidance=3.0)
    with calls_of(net.conv_in) as all_calls, calls_of(net.up_blocks[3]) as last, calls_of(net.conv_out) as whole:
        edit(controller, model.text_encoder, EDIT, settings)
    assert whole == [6] * STEPS
    assert sorted(all_calls) == [3] * 3 + [6] * STEPS  # 0.6 of 5 steps
    assert sorted(last) == [3] * 3 * runs_last_block + [6] * STEPS


def test_the_source_runs_up_to_the_last_layer_of_the_mask(model, recompute):
    """Where latents are blended and nothing is replaced, the mask alone is read, in two of five steps."""
    settings = named(cross_replace=0.0, self_replace=0.0, blend=replace(BLEND, downscale=4), guidance=3.0)
    assert str(mask_layers(model, recompute, 4)[-1]) == "up.1.2.cross"
    net = model.unet.net
    with calls_of(net.conv_in) as begun, calls_of(net.up_blocks[2]) as reached:
        edit(recompute, model.text_encoder, EDIT, settings)
    assert (begun.count(3), reached.count(3)) == (2, 0)


def mask_layers(model, controller, downscale):
    sites = model.unet.sites(controller.trace.frames, *controller.trace.size)
    return blend_layers(sites, controller.capture.most_cells, downscale)


def test_an_edit_that_takes_nothing_runs_no_source(model, recompute):
    with calls_of(model.unet.net) as calls:
        edit(recompute, model.text_encoder, EDIT, named(cross_replace=0.0, self_replace=0.0, guidance=3.0))
    assert calls == [6] * STEPS


def test_a_recomputed_inversion_keeps_its_latents_only(recompute):
    trace = recompute.trace
    assert trace.nbytes == trace.latents.nbytes + trace.noise.nbytes + trace.text.nbytes


def test_a_reconstruction_that_runs_again_edits_as_its_kept_features(model):
    kept, again = (
        edited(model, inverted(model, Storage(policy), steps=3, reconstruct=Reconstruction(guidance=3.0)))
        for policy in ("features", "recompute")
    )
    assert relative(again, kept) < ROUNDING  # two texts share a call in one, and one runs alone in the other


def test_the_level_makes_no_difference_to_a_reconstruction(model):
    """Its levels are its own, so there is but one."""
    one, two = (
        edited(model, inverted(model, Storage(policy), steps=3, reconstruct=Reconstruction(guidance=3.0)))
        for policy in ("recompute", "recompute same level")
    )
    assert one.equal(two)


def test_clips_of_any_seed_and_size_run_again_alike(model):
    for seed, (frames, height, width) in enumerate([(1, 16, 16), (2, 9, 24), (4, 20, 12)]):
        latents = clip(seed, frames, height, width)
        kept, again = (
            edited(model, inverted(model, Storage(policy), latents=latents, steps=2), "replace")
            for policy in ("features", "recompute")
        )
        assert again.equal(kept)
