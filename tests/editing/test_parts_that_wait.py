"""Clips in parts where norms run over all frames, as a checkpoint of Stable Diffusion is loaded by default."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    InflationSettings,
    Reconstruction,
    SettingsError,
    Storage,
    TemporalLayers,
    edit,
    load_model,
    recorded_maps,
    word_heats,
)
from fatezero_ext.inversion import guided_prediction, storage_plan
from fatezero_ext.storage.disk_cache.cache import InversionCache

from ..conftest import GOLDEN
from ..small_runs import EDIT, calls_of, clip, inverted, named, trained_over_time
from .test_frames_at_once import BLEND, COLOUR, FRAMES, IN_RAM, check_alike
from .test_smaller_parts import room_for

STEPS = 3


@pytest.fixture(scope="module")
def waits():
    """The small model as published: key frames (-1, "first"), norms over all frames; in float64, see `models`."""
    return load_model(GOLDEN / "model", InflationSettings(), dtype=torch.float64)


def inverted_in(model, at_once, storage=IN_RAM, **options):
    options = {"steps": STEPS, "frames_at_once": at_once, **options}
    return inverted(model, storage, latents=clip(2, FRAMES, 8, 12), **options)


@pytest.fixture(scope="module")
def kept(waits):
    return cache(lambda at_once, storage=IN_RAM: inverted_in(waits, at_once, storage))


SHAPES = replace(BLEND, follow_shapes=True, source_words=("jeep", "+shadow"), edit_words=(), threshold=0.9)
OTHERS = {
    "maps": (Storage("maps", "ram"), BLEND),
    "recompute": (Storage("recompute"), SHAPES),
    "int8": (Storage("features", "ram", "int8"), SHAPES),
    "shapes of maps": (Storage("maps", "ram"), SHAPES),
}


@pytest.mark.parametrize("way", OTHERS)
def test_attention_may_be_stored_in_every_way(waits, kept, way):
    storage, blend = OTHERS[way]
    settings = named(guidance=3.0, blend=blend)
    whole, parts = (edit(kept(n, storage), waits.text_encoder, EDIT, settings) for n in (0, 3))
    assert 0.1 < whole.mask.mean() < 0.95
    check_alike(parts, whole)


def test_no_call_has_more_frames_and_an_edit_may_have_other_parts_than_its_inversion(waits, kept):
    of_whole, of_parts = kept(0), kept(3)
    whole = edit(of_whole, waits.text_encoder, *COLOUR)
    with calls_of(waits.unet.net.conv_in) as calls:
        check_alike(edit(of_parts, waits.text_encoder, *COLOUR), whole)
        check_alike(edit(of_whole, waits.text_encoder, *COLOUR, frames_at_once=2), whole)
    assert set(calls) == {6, 4, 2}  # two texts


def test_a_reconstruction_and_fixed_point_passes_go_in_parts(waits):
    guided = Reconstruction(3.0)
    whole, parts = (inverted_in(waits, n, reconstruct=guided, inversion_passes=1) for n in (0, 3))
    assert (parts.trace.latents - whole.trace.latents).abs().max() < 1e-4
    check_alike(*(edit(each, waits.text_encoder, *COLOUR) for each in (parts, whole)))


def test_heat_and_recorded_maps_are_those_of_the_whole_clip(waits, kept):
    whole, parts = (kept(n, Storage("recompute")) for n in (0, 3))
    torch.testing.assert_close(*(word_heats(each, ("jeep",)) for each in (whole, parts)), atol=1e-5, rtol=1e-4)
    of_whole, of_parts = (recorded_maps(each, 1) for each in (whole, parts))
    for at, probs in of_whole.items():
        torch.testing.assert_close(of_parts[at], probs, atol=1e-5, rtol=1e-4)


def test_a_saved_inversion_is_found_whatever_the_parts(waits, kept, tmp_path):
    said, storage = [], Storage("features", "disk", cache=InversionCache(tmp_path))
    written = inverted_in(waits, 3, storage, on_plan=said.append)
    assert "3 frames at once, up to" in said[-1] and "wait in ram (none with norm 'frame')" in said[-1]
    found = inverted_in(waits, 0, storage, on_plan=said.append)
    assert "found on disk" in said[-1]
    whole = edit(kept(0), waits.text_encoder, *COLOUR)
    for each in (written, found):
        check_alike(edit(each, waits.text_encoder, *COLOUR), whole)


def test_too_little_ram_for_what_waits_is_told_before_the_first_step(waits, kept, monkeypatch):
    controller = kept(0)
    monkeypatch.setattr(storage_plan, "free_ram", lambda: 1_000_000)
    with calls_of(waits.unet.net.conv_in) as calls:
        with pytest.raises(SettingsError, match="7 frames need up to .* 976.6 KiB are free. Load it with norm 'frame'"):
            inverted_in(waits, 3)
        with pytest.raises(SettingsError, match="wait for each other in ram"):
            edit(controller, waits.text_encoder, *COLOUR, frames_at_once=3)
    assert not calls


def test_blend_words_taken_from_the_edit_are_found_part_by_part(waits, kept):
    """The maps of an edit wait in RAM as well."""
    settings = named(guidance=1.0, blend=BlendSettings(("jeep",), ("car",), 0.6))
    whole, parts = (edit(kept(n), waits.text_encoder, EDIT, settings) for n in (0, 3))
    check_alike(parts, whole)


def test_a_whole_clip_is_not_split_in_the_middle_where_ram_cannot_hold_what_waits(waits, monkeypatch):
    monkeypatch.setattr(storage_plan, "free_ram", lambda: 1_000_000)
    with room_for(waits.unet, 3) as calls:
        with pytest.raises(torch.cuda.OutOfMemoryError, match="7 frames need up to .* 976.6 KiB are free. Load it"):
            inverted_in(waits, 0, Storage("recompute"))
    assert calls == [FRAMES]


def asked(model, controller, at_once=3):
    """An edit, and how often it asks whether it is to end."""
    heard = []
    made = edit(controller, model.text_encoder, *COLOUR, frames_at_once=at_once, on_frames=heard.append)
    return made, len(heard)


def test_every_layer_asks_whether_the_run_is_to_end(waits, kept, monkeypatch, caplog):
    """Those of the source that runs again too, and those of both texts where RAM is short and they come in turn."""
    layers = STEPS * len(waits.unet.layers) * len(waits.unet.parts(FRAMES, 3))
    again = kept(3, Storage("recompute"))
    (_, of_features), (whole, together) = asked(waits, kept(3)), asked(waits, again)
    assert of_features == layers + STEPS and together > of_features + layers / STEPS
    monkeypatch.setattr(guided_prediction, "free_ram", lambda: 0)
    made, in_turn = asked(waits, again)
    assert "one after the other" in caplog.text and in_turn == together + layers
    check_alike(made, whole)


@pytest.mark.parametrize("norm", ["frame", "clip"])
@pytest.mark.parametrize("storage", [IN_RAM, Storage("recompute")], ids=lambda storage: storage.policy)
def test_edits_of_a_model_with_trained_layers_over_time_go_in_parts(norm, storage, monkeypatch):
    """Also where its memory runs out in the middle, and where RAM cannot hold what waits."""
    settings = InflationSettings(norm=norm, temporal=TemporalLayers(rank=4))
    model = load_model(GOLDEN / "model", settings, dtype=torch.float64)
    trained_over_time(model.unet, size=0.1)
    whole = inverted_in(model, 0, storage)
    wanted = edit(whole, model.text_encoder, *COLOUR)
    said = []
    parts = inverted_in(model, 3, storage, on_plan=said.append)
    assert (parts.trace.latents - whole.trace.latents).abs().max() < 1e-4
    assert "of the others wait in ram" in said[0] and "none with" not in said[0]
    check_alike(edit(parts, model.text_encoder, *COLOUR), wanted)
    with room_for(model.unet, 4, after=1) as calls:
        check_alike(edit(whole, model.text_encoder, *COLOUR), wanted)
    assert max(calls[4:]) <= 4
    monkeypatch.setattr(storage_plan, "free_ram", lambda: 1_000_000)
    with pytest.raises(SettingsError, match="has trained layers over time, so that .* are free. Use fewer or smaller"):
        inverted_in(model, 3, storage)
