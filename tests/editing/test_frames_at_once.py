"""A clip that is inverted and edited part by part has the result of the whole one, in every way to store attention."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    InflationSettings,
    LayerAddress,
    Reconstruction,
    SettingsError,
    Storage,
    edit,
    load_model,
    recorded_maps,
    register_attention_control,
    self_attention_maps,
    word_heats,
)
from fatezero_ext.attention.clip_parts import split_clip, whole_clip
from fatezero_ext.attention.controller_bases import AttentionStore, EmptyControl
from fatezero_ext.editing.masks import MaskMaker
from fatezero_ext.inspection import parts_to_read
from fatezero_ext.inversion import storage_plan, trace
from fatezero_ext.inversion.source_reader import SourceAttention
from fatezero_ext.storage.disk_cache.cache import InversionCache
from fatezero_ext.storage.disk_cache.completeness import LEVELS, PARTS
from fatezero_ext.storage.disk_cache.manifest import MANIFEST, decode, encode, new_manifest

from ..conftest import GOLDEN
from ..small_runs import EDIT, REFINED, calls_of, clip, inverted, named

NEAR = 1e-4  # max abs of latents of about unit size
STEPS = 4
FRAMES = 7
KEYS = {
    "own": (),
    "first": ("first",),
    "mid": ("mid",),
    "last": ("last",),
    "fixed": ("first", "last"),
    "published": (-1, "first"),
    "before": (-2,),
    "behind": (1,),
}
BLEND = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
COLOUR = (EDIT, named(guidance=3.0, equalizer={"car": 2.0}, blend=BLEND))


@pytest.fixture(scope="module")
def models():
    """The small model with group norms per frame, by its key frames.

    In float64: its weights are random, and what calls of other batch sizes round otherwise grows in it 50-fold.
    """
    made = {}

    def model(keys):
        if keys not in made:
            settings = InflationSettings(key_frames=keys, norm="frame")
            made[keys] = load_model(GOLDEN / "model", settings, dtype=torch.float64)
        return made[keys]

    return model


IN_RAM = Storage("features", "ram")


def inverted_in(model, at_once, storage=IN_RAM, **options):
    """A controller with the inversion of a clip that is not square, of an odd number of frames."""
    options = {"steps": STEPS, "frames_at_once": at_once, **options}
    return inverted(model, storage, latents=clip(2, FRAMES, 8, 12), **options)


@pytest.fixture(scope="module")
def kept(models):
    """Inversions that several tests read, by key frames, `frames_at_once` and storage."""
    return cache(lambda keys, at_once, storage=IN_RAM: inverted_in(models(keys), at_once, storage))


@pytest.fixture(scope="module")
def whole_edit(models, kept):
    """The colour edit of the whole clip, by key frames."""
    return cache(lambda keys: edit(kept(keys, 0), models(keys).text_encoder, *COLOUR))


def check_alike(edited, whole):
    assert (edited.latents - whole.latents).abs().max() < NEAR
    assert edited.mask.equal(whole.mask) and edited.last_mask.equal(whole.last_mask)


PUBLISHED = (-1, "first")
BOTH = pytest.mark.parametrize("keys", [("mid",), PUBLISHED], ids=["mid", "published"])


@pytest.mark.parametrize("keys", KEYS.values(), ids=list(KEYS))
def test_an_edit_in_parts_is_that_of_the_whole_clip_for_all_key_frames(models, kept, whole_edit, keys):
    whole = whole_edit(keys)
    # The masks have much inside and much outside, so that a part could get them wrong: rounding moves single cells.
    assert 0.5 < whole.mask.mean() < 0.8 and whole.last_mask.float().mean() < 0.95
    controller = kept(keys, 3)
    assert (controller.trace.latents - kept(keys, 0).trace.latents).abs().max() < NEAR
    check_alike(edit(controller, models(keys).text_encoder, *COLOUR), whole)


@pytest.mark.parametrize(
    "storage",
    [
        Storage("maps", "ram"),
        Storage("recompute"),
        Storage("recompute same level"),
        Storage("features", "ram", "int8"),
        Storage("maps", "ram", "int8"),
    ],
    ids=lambda storage: f"{storage.policy}, {storage.precision}",
)
def test_attention_may_be_stored_in_every_way(models, kept, storage):
    keys = PUBLISHED
    whole, parts = (edit(kept(keys, n, storage), models(keys).text_encoder, *COLOUR) for n in (0, 3))
    check_alike(parts, whole)


def test_fixed_point_passes_go_part_by_part(models):
    model = models(PUBLISHED)
    controllers = [inverted_in(model, n, Storage("recompute"), inversion_passes=1) for n in (0, 2)]
    whole, parts = (each.trace for each in controllers)
    assert (parts.evaluated - whole.evaluated).abs().max() < NEAR
    check_alike(*(edit(each, model.text_encoder, *COLOUR) for each in reversed(controllers)))


@BOTH
def test_an_inversion_may_have_other_parts_than_its_edits(models, kept, whole_edit, keys):
    for inverts, edits in [(0, 3), (3, FRAMES), (3, 2)]:
        result = edit(kept(keys, inverts), models(keys).text_encoder, *COLOUR, frames_at_once=edits)
        check_alike(result, whole_edit(keys))


SHAPES = replace(BLEND, follow_shapes=True)
KINDS = {
    "a style": ((REFINED, named("refine", guidance=3.0)), {}),
    "shapes": ((EDIT, named(guidance=3.0, blend=SHAPES)), {}),
    "other words": ((EDIT, named(guidance=3.0, blend=replace(SHAPES, source_words=("jeep", "+shadow")))), {}),
    "spared things": (
        (EDIT, named(guidance=1.0, blend=BlendSettings(("road",), spare_words=("jeep",), spare_threshold=0.6))),
        {},
    ),
    "joined last": ((EDIT, named(guidance=1.0, blend=BlendSettings(("jeep",), ("car",), 0.6))), {}),
    "quirks": ((EDIT, named(guidance=3.0, quirks="original", blend=BLEND)), {}),
    "fresh noise": ((EDIT, named(guidance=3.0, hold_still=True, fresh_noise_seed=3, blend=BLEND)), {}),
    "a mask": (
        (EDIT, named(guidance=3.0, blend=replace(BLEND, subtract_words=("road",)))),
        {"mask": torch.rand(FRAMES, 16, 24, generator=torch.Generator().manual_seed(4))},
    ),
}


WITH_MAPS = [("shapes", "maps"), ("other words", "maps"), ("shapes", "recompute"), ("other words", "recompute")]


@pytest.mark.parametrize(("kind", "policy"), [*((kind, "features") for kind in KINDS), *WITH_MAPS])
def test_masks_and_kinds_of_edits_are_those_of_the_whole_clip(models, kept, kind, policy):
    keys = PUBLISHED
    (prompt, settings), more = KINDS[kind]
    controllers = [kept(keys, at_once, Storage(policy, "ram")) for at_once in (0, 3)]
    whole, parts = (edit(each, models(keys).text_encoder, prompt, settings, **more) for each in controllers)
    check_alike(parts, whole)


def test_no_call_has_more_frames_and_progress_shows_the_whole_clip(models):
    model, seen, guided = models(PUBLISHED), [], Reconstruction(3.0)
    with calls_of(model.unet.net) as calls:
        controller = inverted_in(model, 3, on_step=seen.append, reconstruct=guided)
    assert set(calls) == {3, 6, 1, 2} and len(seen) == 2 * STEPS
    with calls_of(model.unet.net) as calls:
        edit(controller, model.text_encoder, *COLOUR, on_step=seen.append)
    assert set(calls) == {6, 2} and len(calls) == 3 * STEPS
    for step in seen:
        assert step.latents.shape[0] == step.preview().shape[0] == FRAMES
    assert seen[-2].attention_mask.shape == (FRAMES, 8, 12) and seen[9].latent_mask is not None


def test_memory_is_asked_for_a_part_with_the_frames_whose_keys_are_carried_to_it(models, monkeypatch):
    model, asked = models(PUBLISHED), []
    monkeypatch.setattr(model.unet, "load_to_device", asked.append)
    edit(inverted_in(model, 3), model.text_encoder, *COLOUR)
    assert asked == [model.unet.working_memory(texts, 3 + 2, 8, 12) for texts in (1, 2)]


def test_a_clip_that_no_call_can_hold_is_told_how_many_frames_would_fit(models, monkeypatch):
    model = models(PUBLISHED)
    of_a_frame = model.unet.working_memory(1, 1, 8, 12) * storage_plan.LEAST_OF_NARROW
    monkeypatch.setattr(storage_plan, "free_on", lambda _device: int(3.5 * of_a_frame))
    for at_once, told in ((FRAMES, "7 frames of 8x12"), (5, r"5 frames \(of 7\) of 8x12")):
        with pytest.raises(SettingsError, match=f"{told} cells need.*set frames_at_once to at most 3"):
            inverted_in(model, at_once)


def test_parts_are_not_advised_where_key_frames_keep_the_clip_together(models, monkeypatch):
    model = models((-1, "last"))
    of_a_frame = model.unet.working_memory(1, 1, 8, 12) * storage_plan.LEAST_OF_NARROW
    monkeypatch.setattr(storage_plan, "free_on", lambda _device: int(3.5 * of_a_frame))
    with pytest.raises(SettingsError, match="7 frames of 8x12 cells need.*3 would be the most\\.$"):
        inverted_in(model, 0)


def test_a_clip_that_nobody_split_leaves_the_weights_room_on_the_device(models, monkeypatch):
    """A program that manages memory keeps weights in RAM where it is asked for all frames of a long clip."""
    model, asked = models(PUBLISHED), []
    monkeypatch.setattr(model.unet, "load_to_device", asked.append)
    weights = sum(weight.nbytes for _, weight in model.unet.weights())
    room = model.unet.working_memory(4, 1, 8, 12) / storage_plan.SHARE_OF_CALLS
    monkeypatch.setattr(storage_plan, "total_on", lambda _device: int(weights + room) + 1)
    whole = inverted_in(model, 0)
    assert whole.trace.frames_at_once == 0  # the free memory, measured later, holds them all
    edit(whole, model.text_encoder, *COLOUR)
    edit(whole, model.text_encoder, *COLOUR, frames_at_once=FRAMES)
    assert asked == [model.unet.working_memory(*call, 8, 12) for call in ((1, 4), (2, 2), (2, FRAMES))]


def test_levels_stay_on_a_device_that_they_do_not_fill(monkeypatch):
    cuda, cpu, one = torch.device("cuda"), torch.device("cpu"), whole_clip(7)
    monkeypatch.setattr(trace, "free_on", lambda _device: 1000 / trace.MOST_OF_LEVELS)
    assert trace.keeps_levels(cuda, one, 1000) == cuda and trace.keeps_levels(cuda, one, 1001) == cpu
    assert trace.keeps_levels(cuda, split_clip([range(7)], 7, 3), 1000) == cpu


def test_edit_maps_that_wait_elsewhere_are_added_where_those_of_the_step_are():
    """As those of a whole clip on the device, once its parts wait in RAM."""
    maker = MaskMaker(None, None, {}, None, torch.zeros(2, 4, 4))
    maker.add_edit_maps({"at": torch.ones(2)}, summed=True)
    maker.add_edit_maps({"at": torch.ones(2, device="meta")}, summed=True)
    assert maker._edit_maps["at"].is_meta


def test_as_many_frames_as_the_memory_may_hold_are_taken_by_themselves(models, kept, monkeypatch):
    model, said = models(PUBLISHED), []
    of_a_frame = model.unet.working_memory(1, 1, 8, 12) * storage_plan.LEAST_OF_NARROW
    monkeypatch.setattr(storage_plan, "free_on", lambda _device: int(3.5 * of_a_frame))
    controller = inverted_in(model, 0, on_plan=said.append)
    assert controller.trace.frames_at_once == 3 and said[0].endswith("; 3 frames at once")
    assert (controller.trace.latents - kept(PUBLISHED, 0).trace.latents).abs().max() < NEAR
    with register_attention_control(model.unet, AttentionStore()), pytest.raises(SettingsError, match="7 frames of"):
        inverted_in(model, 0)


def test_a_reconstruction_in_parts_is_that_of_the_whole_clip(models):
    model, guided = models(("mid",)), Reconstruction(3.0)
    whole, parts = (inverted_in(model, at_once, reconstruct=guided) for at_once in (0, 3))
    assert (parts.trace.latents - whole.trace.latents).abs().max() < NEAR
    check_alike(*(edit(each, model.text_encoder, *COLOUR) for each in (parts, whole)))


@pytest.mark.parametrize(
    ("keys", "policy"), [(PUBLISHED, "features"), (("mid",), "features"), (PUBLISHED, "maps"), (PUBLISHED, "recompute")]
)
def test_heat_and_recorded_maps_are_those_of_the_whole_clip(models, kept, keys, policy):
    model = models(keys)
    whole, parts = (kept(keys, at_once, Storage(policy, "ram")) for at_once in (0, 3))
    for shapes in (False, True):
        options = {"text_encoder": model.text_encoder, "follow_shapes": shapes}
        heats = [word_heats(each, ("jeep", "+shadow"), **options) for each in (whole, parts)]
        torch.testing.assert_close(*heats, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*(self_attention_maps(each) for each in (whole, parts)), atol=1e-5, rtol=1e-4)
    of_whole, of_parts = (recorded_maps(each, 1) for each in (whole, parts))
    assert list(of_parts) == list(of_whole) and len(of_parts) == len(of_whole)
    for at, probs in of_whole.items():
        torch.testing.assert_close(of_parts[at], probs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("policy", ["features", "recompute"])
def test_a_clip_that_was_inverted_whole_is_read_a_few_frames_at_a_time(models, kept, monkeypatch, policy):
    whole, model = kept(PUBLISHED, 0, Storage(policy, "ram")), models(PUBLISHED)
    heat, at = word_heats(whole, ("jeep",), follow_shapes=True), "up.1.0.self"
    maps, makes = recorded_maps(whole, 1, at)[LayerAddress.parse(at)], []
    monkeypatch.setattr(parts_to_read, "FRAMES_AT_ONCE", 2)
    probs = SourceAttention.probs

    def noted(*given):
        makes.append(probs(*given))
        return makes[-1]

    monkeypatch.setattr(SourceAttention, "probs", noted)
    with calls_of(model.unet.net.conv_in) as calls:
        torch.testing.assert_close(word_heats(whole, ("jeep",), follow_shapes=True), heat, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(recorded_maps(whole, 1, at)[LayerAddress.parse(at)], maps, atol=1e-5, rtol=1e-4)
    assert 2 <= max(map(len, makes)) <= 4  # with frames of other parts, whose heat spreads to these
    assert max(calls, default=0) == (2 if policy == "recompute" else 0)


def test_a_saved_inversion_is_found_whatever_the_parts(models, whole_edit, tmp_path):
    model, said, whole = models(PUBLISHED), [], whole_edit(PUBLISHED)
    storage = Storage("features", "disk", cache=InversionCache(tmp_path))
    written = inverted_in(model, 3, storage)
    assert len(written.trace.store.entry.names) == 3 * STEPS + 1
    check_alike(edit(written, model.text_encoder, *COLOUR), whole)
    for at_once in (0, 2, 3):
        found = inverted_in(model, at_once, storage, on_plan=said.append)
        assert "found on disk" in said[-1] and found.trace.latents.equal(written.trace.latents)
        check_alike(edit(found, model.text_encoder, *COLOUR), whole)


def test_a_damaged_part_is_computed_again(models, whole_edit, tmp_path, caplog):
    model = models(PUBLISHED)
    storage = Storage("features", "disk", cache=InversionCache(tmp_path))
    controller = inverted_in(model, 3, storage)
    entry = controller.trace.store.entry
    place = entry.place("step-001-part-001")
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    check_alike(edit(controller, model.text_encoder, *COLOUR), whole_edit(PUBLISHED))
    assert "computed again" in caplog.text


def test_parts_that_make_no_clip_are_not_believed(models, tmp_path):
    model, cache = models(()), InversionCache(tmp_path)
    entry = inverted_in(model, 3, Storage("features", "disk", cache=cache)).trace.store.entry
    path = entry.place(LEVELS).parent / MANIFEST
    found = decode(path.read_bytes())
    for about in ({**found.about, PARTS: [[0, 1], [1, 2]]}, {k: v for k, v in found.about.items() if k != PARTS}):
        path.write_bytes(encode(new_manifest(found.key, about, found.files)))  # as a stranger might have written it
        assert not all(entry.sound for entry in cache.verify())


def test_the_attention_of_a_function_is_called_part_by_part(models, kept):
    model, sites, whole = models(PUBLISHED), [], kept(PUBLISHED, 0)

    def counted(q, k, v, site):
        sites.append((len(q), len(k), site.frames, site.before))
        return model.unet.kernel(q, k, v, site)

    with register_attention_control(model.unet, counted):
        parts = inverted_in(model, 3)
    assert (parts.trace.latents - whole.trace.latents).abs().max() < NEAR
    assert (3, 5, 3, 2) in sites and (1, 3, 1, 2) in sites


class Sharper(EmptyControl):
    """Squares maps, each row by itself, and mixes the latents of all frames after a step."""

    def __call__(self, attn, is_cross, place_in_unet):
        return attn**2 / (attn**2).sum(-1, keepdim=True)

    def step_callback(self, x_t):
        return 0.98 * x_t + 0.01 * x_t.mean(0)


@pytest.mark.parametrize("norm", ["frame", "clip"])
def test_a_controller_on_maps_that_is_the_same_for_each_frame_is_called_part_by_part(norm):
    model = load_model(GOLDEN / "model", InflationSettings(norm=norm), dtype=torch.float64)
    plain = inverted_in(model, 0)
    with register_attention_control(model.unet, Sharper(), per_frame=True):
        whole, parts = (inverted_in(model, at_once) for at_once in (0, 3))
        uncontrolled = named(cross_replace=0.0, self_replace=0.0, guidance=3.0)
        edits = [edit(each, model.text_encoder, EDIT, uncontrolled) for each in (whole, parts)]
    assert (whole.trace.latents - plain.trace.latents).abs().max() > 0.01
    assert (parts.trace.latents - whole.trace.latents).abs().max() < NEAR
    check_alike(*edits)


def test_controllers_on_maps_and_what_is_no_number_are_refused_before_any_work(models, kept):
    own, parts = models(()), kept((), 3)
    with register_attention_control(own.unet, AttentionStore()), calls_of(own.unet.net) as calls:
        with pytest.raises(SettingsError, match="AttentionStore is registered.*Use 7, all at once.*per_frame=True"):
            inverted_in(own, 3)
        with pytest.raises(SettingsError, match="AttentionStore is registered"):
            edit(parts, own.text_encoder, *COLOUR)
        assert not calls
        assert word_heats(parts, ("jeep",)).shape == (1, FRAMES, 8, 12)  # no controller takes part in it
    with calls_of(own.unet.net) as more, pytest.raises(SettingsError, match="frames_at_once is -1"):
        edit(parts, own.text_encoder, *COLOUR, frames_at_once=-1)
    assert not more


def test_no_part_keeps_the_maps_of_the_edit_that_its_masks_were_made_of(models, kept, monkeypatch):
    """They would grow with the clip on the device, whatever a call needs."""
    makers, begin = [], MaskMaker.__init__

    def noted(maker, *args):
        makers.append(maker)
        begin(maker, *args)

    monkeypatch.setattr(MaskMaker, "__init__", noted)
    after_steps = []
    text = models(()).text_encoder
    edit(kept((), 3), text, *COLOUR, on_step=lambda _: after_steps.extend(dict(each._edit_maps) for each in makers))
    assert len(makers) == 3 and len(after_steps) == 3 * STEPS and not any(after_steps)


def test_a_clip_no_longer_than_a_part_has_the_bits_of_the_whole(models, kept, whole_edit):
    model = models(PUBLISHED)
    short = inverted_in(model, FRAMES + 1)
    assert short.trace.latents.equal(kept(PUBLISHED, 0).trace.latents) and not short.trace.store.parts
    assert edit(short, model.text_encoder, *COLOUR).latents.equal(whole_edit(PUBLISHED).latents)
