"""Recorded maps as a researcher reads them, against maps caught on their way by another route."""

import weakref

import pytest
import torch

from fatezero_ext import (
    Capture,
    Controller,
    InversionCache,
    LayerAddress,
    Storage,
    attention_probs,
    plain,
    recorded_maps,
)
from fatezero_ext.errors import SettingsError, StoreError

from ..conftest import relative
from ..small_runs import ROUNDING, clip, edited
from ..small_runs import inverted as inverted_in_steps

CLOSE = 1e-5  # of shares of attention: the same map on another path through float32
STEPS = 2
WAYS = [
    *((policy, place) for policy in ("features", "maps") for place in ("ram", "disk")),
    ("recompute", "ram"),
    ("recompute", "disk"),
]


def inverted(model, storage, **options):
    return inverted_in_steps(model, storage, steps=STEPS, **options)


def watched(model, trace, step, level):
    """The maps of one call of the UNet, as a function in its layers' place sees them."""
    seen = {}

    def attend(q, k, v, site):
        seen[site.address] = attention_probs(q, k, site)
        return plain(q, k, v, site)

    with torch.no_grad():
        model.unet(trace.latents[level], trace.schedule.timesteps[step], trace.text, frames=trace.frames, attend=attend)
    return seen


def assert_same_maps(got, wanted):
    assert list(got) == list(wanted)
    for at, reference in wanted.items():
        probs = got[at]
        assert probs.shape == reference.shape and probs.dtype == torch.float32 and probs.device.type == "cpu"
        torch.testing.assert_close(probs, reference, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("policy", "place"), WAYS)
def test_every_policy_gives_the_maps_of_the_models_own_call(model, tmp_path, policy, place):
    controller = inverted(model, Storage(policy, place, cache=InversionCache(tmp_path / "cache")))
    for step in range(STEPS):
        wanted = watched(model, controller.trace, step, level=STEPS - 1 - step)
        assert_same_maps(recorded_maps(controller, step), wanted)


def test_the_same_noise_level_gives_the_maps_of_the_edits_own_level(model):
    controller = inverted(model, Storage("recompute same level"))
    for step in range(STEPS):
        wanted = watched(model, controller.trace, step, level=STEPS - step)
        assert_same_maps(recorded_maps(controller, step), wanted)


@pytest.mark.parametrize("policy", ["features", "recompute"])
def test_maps_are_made_one_at_a_time_and_not_held(model, policy):
    maps = recorded_maps(inverted(model, Storage(policy)), 0)
    alive = []
    for at in maps:
        alive.append(weakref.ref(maps[at]))
        assert alive[-1]() is None


def test_a_few_layers_may_be_read(model):
    controller = inverted(model, Storage("recompute"))
    mid = LayerAddress("mid", 0, 0, "cross")
    maps = recorded_maps(controller, STEPS - 1, [mid])
    assert list(maps) == [mid] and maps[mid].shape[::3] == (3, 77)
    assert list(recorded_maps(controller, 0, [])) == []


def test_reading_maps_changes_no_edit(model):
    controller = inverted(model, Storage("maps"))
    before = edited(model, controller)
    for step in range(STEPS):
        for probs in recorded_maps(controller, step).values():
            probs.zero_()
    assert relative(edited(model, controller), before) < ROUNDING


@pytest.mark.parametrize("step", [-1, STEPS, 0.5, None])
def test_a_step_that_was_not_recorded_is_refused(model, step):
    with pytest.raises(SettingsError, match=f"step is {step}.*the steps 0 to {STEPS - 1}"):
        recorded_maps(inverted(model, Storage("recompute")), step)


def test_a_layer_that_was_not_recorded_is_refused(model):
    controller = inverted(model, Storage("recompute"), capture=Capture(self_attention=False), latents=clip())
    with pytest.raises(SettingsError, match=r"layer mid\.0\.0\.self was not recorded; down\.0\.0\.cross, "):
        recorded_maps(controller, 0, [LayerAddress("mid", 0, 0, "self")])


def test_maps_of_nothing_are_refused(model):
    with pytest.raises(StoreError, match="no inversion"):
        recorded_maps(Controller(model.unet), 0)
    with pytest.raises(StoreError, match="came in place of the controller"):
        recorded_maps(model, 0)


AT = LayerAddress("up", 1, 0, "cross")


@pytest.mark.parametrize("layers", [["up.1.0.cross"], "up.1.0.cross", AT, {AT}, ("up.1.0.cross", AT)])
def test_layers_may_be_given_as_they_print_and_one_alone(model, layers):
    assert list(recorded_maps(inverted(model, Storage("features")), 0, layers)) == [AT]


@pytest.mark.parametrize("layers", ["up.1", ["up.1.0.cross", "cross"], 5, [None]])
def test_layers_that_are_none_are_refused(model, layers):
    with pytest.raises(SettingsError, match="layer .* is no attention layer; .* is needed. See which there are"):
        recorded_maps(inverted(model, Storage("features")), 0, layers)
