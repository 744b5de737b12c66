"""`frames_at_once` of the nodes: the same edit in parts, and what cannot be split told before any work."""

from functools import cache

import pytest
import torch

from fatezero_ext import Controller, InflationSettings, SettingsError, load_model
from fatezero_ext.cli.node_pack import load_pack

from ..conftest import GOLDEN
from ..small_runs import EDIT, SOURCE, calls_of, clip

STEPS = 3


@pytest.fixture(scope="module")
def framewise():
    def model(keys=(-1, "first")):
        return load_model(GOLDEN / "model", InflationSettings(key_frames=keys, norm="frame"), dtype=torch.float64)

    return cache(model)


@pytest.fixture(scope="module")
def nodes():
    return load_pack("nodes.headless.schemas.registry").pack_node_types()


def run(nodes, model, *, inverts=0, edits=0):
    invert, edit = (nodes[f"FateZero_{name}"] for name in ("DDIMInvert", "P2PEdit"))
    latent = {"samples": clip(frames=5, height=8, width=8)}
    inverted = invert.node_class.execute(
        Controller(model.unet), model.text_encoder, latent, SOURCE, STEPS, frames_at_once=inverts
    ).result[0]
    widgets = {each.id: each.default for each in edit.widgets}
    widgets |= {"edit_prompt": EDIT, "kind": "colour", "frames_at_once": edits}
    with calls_of(model.unet.net) as calls:
        result = edit.node_class.execute(inverted, model.text_encoder, **widgets).result
    return result, max(calls)


def test_an_edit_in_parts_is_that_of_the_whole_clip_and_does_as_its_inversion_unless_told(nodes, framewise):
    (whole, *masks), most = run(nodes, framewise())
    assert most == 10  # both texts of guidance
    for inverts, edits, largest in [(2, 0, 4), (0, 3, 6), (2, 3, 6)]:
        (latent, *in_parts), calls = run(nodes, framewise(), inverts=inverts, edits=edits)
        assert calls == largest
        torch.testing.assert_close(latent["samples"], whole["samples"], atol=1e-4, rtol=0)
        assert all(one.equal(other) for one, other in zip(in_parts, masks, strict=True))


def test_a_unet_that_must_see_the_whole_clip_is_told_before_any_work(nodes, model):
    """A hook on the UNet itself would be passed over where parts wait for each other."""
    with calls_of(model.unet.net) as calls, pytest.raises(SettingsError, match="normalises over all frames.*'frame'"):
        run(nodes, model, inverts=2)
    assert not calls


@pytest.mark.parametrize("registered", [False, True], ids=["key frames", "a controller on maps"])
def test_an_edit_that_cannot_be_split_ends_the_inversion_before_it_begins(nodes, framewise, registered):
    """Both nodes are checked together: the edit's number is known from the graph."""
    keys = (-1, "first") if registered else (-1, "last")
    why = "AttentionStore is registered" if registered else "read each other's keys"
    model = framewise(keys)
    store = load_pack("fatezero_ext.attention.controller_bases").AttentionStore() if registered else None
    plan = load_pack("fatezero_ext.inversion.plan").plan_inversion(
        Controller(model.unet), model.text_encoder, clip(frames=5, height=8, width=8), SOURCE, steps=STEPS
    )
    upcoming, edit = load_pack("nodes.method.upcoming_edits"), nodes["FateZero_P2PEdit"]
    widgets = {each.id: each.default for each in edit.widgets} | {"edit_prompt": EDIT, "kind": "auto"}
    links = {"controller": ["1", 0], "clip": ["2", 1]}
    graph = {
        "1": {"class_type": "FateZero_DDIMInvert", "inputs": {"clip": ["2", 1]}},
        "3": {"class_type": "FateZero_P2PEdit", "inputs": {**widgets, **links, "frames_at_once": 2}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0]}},
    }
    required = load_pack("nodes.method.edit").EDIT_WIDGETS
    register = load_pack("fatezero_ext.diffusion.noise_model").register_attention_control
    with register(model.unet, store), pytest.raises(SettingsError, match=f"frames_at_once is 2.*{why}"):
        upcoming.check_edits(plan, model.text_encoder, graph, "1", required)


def test_the_whole_edit_passes_the_number_on():
    made, framing = load_pack("nodes.method.video_edit_choices"), load_pack("fatezero_ext.media.framing").Framing()
    choices = made.Choices(framing, 20, 1024, 8, masked=False, lines=(), remarks=(), frames_at_once=6)
    words = {"source_prompt": SOURCE, "edit_prompt": EDIT, "kind": "auto", "strength": 1.0}
    links = {name: ["1", 0] for name in ("model", "clip", "vae", "video")}
    graph = load_pack("nodes.method.video_edit_graph").edit_graph(links, words, 8.0, choices).expand
    (inversion,) = (each for each in graph.values() if each["class_type"] == "FateZero_DDIMInvert")
    assert inversion["inputs"]["frames_at_once"] == 6
    with pytest.raises(SettingsError, match="frames_at_once is -1; 0 or more is needed"):
        load_pack("nodes.method.video_edit_choices").Asked(frames_at_once=-1)
