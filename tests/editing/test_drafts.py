"""Frames that hardly show an edit's words are drawn again, and of each the best draft is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    EditSettings,
    InflationSettings,
    SettingsError,
    Storage,
    edit,
    register_attention_control,
)
from fatezero_ext.attention.functional import plain
from fatezero_ext.editing import drafts as drafts_module
from fatezero_ext.editing.drafts import best_drafts, draft_settings, reads_others, weak_frames
from fatezero_ext.editing.edit import plan_edit
from fatezero_ext.editing.loop import EditedLatents
from fatezero_ext.models.load import load_model

from ..conftest import GOLDEN
from ..small_runs import EDIT, FRAMES, film, inverted, named

BLEND = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
SETTINGS = named(guidance=3.0, blend=BLEND, fresh_noise_seed=4)


@pytest.fixture(scope="module")
def own_keys():
    """The reference model in float64, each frame of which depends on itself alone."""
    return load_model(GOLDEN / "model", InflationSettings(key_frames=(), norm="frame"), dtype=torch.float64)


@pytest.fixture(scope="module")
def source(own_keys):
    return inverted(own_keys, Storage("features", "ram"), latents=film()[0], steps=5)


def draft(number, shown):
    """A draft whose every value is its number."""
    frames = len(shown)
    full = torch.full((frames, 2, 2), float(number))
    return EditedLatents(full[:, None], full / 10, full % 2 > 0, torch.tensor(shown))


def drawn(rows, drafts, *, together=False):
    """The best of drafts that show so much, and the numbers of those that were drawn."""
    asked = []

    def draw(number):
        asked.append(number)
        return draft(number, rows[number])

    return *best_drafts(draw, drafts, together=together), asked


def test_weak_frames_are_drawn_again_until_none_is_left():
    rows = [[1.0, 0.4, 0.1], [0.2, 0.6, 0.4], [0.9, 0.9, 0.2], [0.0, 0.0, 0.5]]
    best, numbers, asked = drawn(rows, 9)
    assert asked == [0, 1, 2, 3] and numbers.tolist() == [0, 1, 3]
    for each, scale in ((best.latents[:, 0], 1), (best.mask, 10), (best.last_mask.float(), 1)):
        assert torch.equal((each * scale)[:, 0, 0].round() % 2, numbers.float() % 2)
    assert best.shown.tolist() == pytest.approx([1.0, 0.6, 0.5])


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_no_more_drafts_are_drawn_than_asked_for(drafts):
    rows = [[1.0, 0.0], [1.0, 0.4], [1.0, 0.35], [1.0, 1.0]]
    _, numbers, asked = drawn(rows, drafts)
    assert asked == list(range(drafts)) and numbers.tolist() == [0, min(drafts - 1, 1)]


def test_frames_that_all_show_the_words_are_drawn_once():
    assert drawn([[0.5, 0.9, 1.0]], 4)[2] == [0]
    assert drawn([[0.0, 0.0]], 4)[2] == [0]  # nothing to compare with
    assert weak_frames(torch.tensor([0.49, 0.5, 1.0, torch.nan]), torch.tensor(1.0)).tolist() == [True, *[False] * 3]


def test_frames_that_have_nothing_to_show_are_neither_weak_nor_replaced():
    nan = float("nan")
    assert drawn([[1.0, nan]], 4)[2] == [0]
    _, numbers, asked = drawn([[1.0, nan, 0.2], [3.0, 9.0, 2.9]], 2)
    assert numbers.tolist() == [0, 0, 1] and asked == [0, 1]
    assert drawn([[1.0, nan, 0.2], [1.0, nan, 0.9]], 4, together=True)[1].tolist() == [1, 1, 1]


def test_a_draft_that_shows_little_is_not_taken_for_one_that_shows_less():
    _, numbers, asked = drawn([[1.0, 0.00001], [1.0, 0.2], [1.0, 0.35]], 3)
    assert numbers.tolist() == [0, 2] and asked == [0, 1, 2]


def test_frames_that_depend_on_each_other_are_taken_from_one_draft():
    rows = [[1.0, 0.1, 0.2], [1.0, 0.3, 0.6], [0.2, 0.2, 0.2], [0.9, 0.8, 0.7]]
    best, numbers, asked = drawn(rows, 4, together=True)
    assert numbers.tolist() == [3, 3, 3] and asked == [0, 1, 2, 3]
    assert best.shown.tolist() == pytest.approx(rows[3])
    assert drawn(rows, 3, together=True)[1].tolist() == [1, 1, 1]  # alike, but all faint beside the best


def test_which_models_frames_depend_on_each_other(own_keys, exact_model):
    assert not reads_others(own_keys.unet)
    assert reads_others(exact_model.unet)  # they read the middle frame's keys


def test_each_frame_of_a_better_draft_is_what_the_next_seed_gives(source, own_keys, monkeypatch):
    """Its latents and masks are those of an edit from that seed alone."""
    first, second = (
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, fresh_noise_seed=seed)) for seed in (4, 5)
    )
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: torch.ones_like(shown, dtype=torch.bool))
    best = edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2))
    assert set(best.drafts.tolist()) == {0, 1} and best.drafts.shape == (FRAMES,)
    for frame, number in enumerate(best.drafts.tolist()):
        wanted = (first, second)[number]
        for name in ("latents", "mask", "last_mask"):
            assert torch.equal(getattr(best, name)[frame], getattr(wanted, name)[frame])


def test_looking_how_a_draft_came_out_does_not_change_it(source, own_keys, monkeypatch):
    once = edit(source, own_keys.text_encoder, EDIT, SETTINGS)
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: torch.zeros_like(shown, dtype=torch.bool))
    looked_at = edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=3))
    assert torch.equal(once.latents, looked_at.latents) and not looked_at.drafts.any()


def test_what_frames_show_is_the_same_in_parts(source, own_keys, monkeypatch):
    seen = []

    def watched(shown, highest):
        seen.append(shown)
        return weak_frames(shown, highest)

    monkeypatch.setattr(drafts_module, "weak_frames", watched)
    for frames_at_once in (0, 2):
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2), frames_at_once=frames_at_once)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-6)
    assert seen[0].shape == (FRAMES,) and (seen[0] > 0).all() and (seen[0] <= 1).all()


def test_steps_are_counted_anew_in_every_draft_and_can_end_the_run(source, own_keys, monkeypatch):
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: torch.ones_like(shown, dtype=torch.bool))
    done = []

    def stops(step):
        done.append((step.done, step.total))
        if len(done) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2), on_step=stops)
    assert done == [(step, 5) for step in (1, 2, 3, 4, 5, 1, 2)]


ONCE = {
    "the inversion's noise": {"fresh_noise_seed": None},
    "no words to show": {"blend": replace(BLEND, edit_words=())},
    "a weaker edit": {"strength": 0.5},
    "no mask": {"blend": None},
    "the authors' quirks": {"quirks": "original"},
}


@pytest.mark.parametrize("name", ONCE)
def test_an_edit_is_drawn_once_where_another_draft_is_of_no_use(source, own_keys, name):
    settings = replace(SETTINGS, drafts=4, **ONCE[name])
    plan = plan_edit(own_keys.unet, source.inverted(), own_keys.text_encoder, EDIT, settings)
    assert plan.drafts(source.inverted().schedule, FRAMES) == 1
    usual = plan_edit(own_keys.unet, source.inverted(), own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=4))
    assert [usual.drafts(source.inverted().schedule, frames) for frames in (FRAMES, 1)] == [4, 1]


def steps_of(own_keys, settings, drafts):
    """Number of the first and the last step of 20 that takes the source's attention, by draft."""
    source = inverted(own_keys, Storage("features", "ram"), latents=film()[0], steps=20).inverted()
    found = {"replace_cross": [], "fuse_self": []}
    for number in range(drafts):
        wanted = draft_settings(settings, number)
        steps = plan_edit(own_keys.unet, source, own_keys.text_encoder, EDIT, wanted).steps
        for name, places in found.items():
            held = [place for place, step in enumerate(steps) if getattr(step, name)]
            places.append((held[0], held[-1]) if held else None)
    return found


def test_later_drafts_hold_less_of_the_source_and_have_seeds_of_their_own(own_keys):
    settings = replace(SETTINGS, cross_replace=0.7, self_replace=(0.5, 1.0), fresh_noise_seed=2**32 - 1)
    assert [draft_settings(settings, number).fresh_noise_seed for number in range(4)] == [2**32 - 1, 0, 1, 2]
    assert steps_of(own_keys, settings, 6) == {
        "replace_cross": [(0, 13), (0, 13), (0, 7), (0, 3), (0, 3), (0, 3)],
        "fuse_self": [(10, 19), (10, 19), (10, 15), (10, 12), (10, 12), (10, 12)],
    }
    of_words = draft_settings(replace(settings, cross_replace_words={"car": (0.5, 1.0)}), 2).cross_replace_words
    assert of_words["car"] == pytest.approx((0.5, 0.8))


HARD = {
    "edit words join the last mask at the last step": {"blend": replace(BLEND, latents=False), "self_replace": 1.0},
    "a window that shrinks to nothing": {"blend": replace(BLEND, latents=False), "self_replace": (0.59, 0.65)},
    "what stands still": {"hold_still": True},
}


@pytest.mark.parametrize("name", HARD)
def test_all_drafts_of_an_edit_can_be_drawn_and_judged(source, own_keys, monkeypatch, name):
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: torch.ones_like(shown, dtype=torch.bool))
    monkeypatch.setattr(drafts_module, "HELD_BY_DRAFTS", (1.0, 0.1))
    settings, steps = replace(SETTINGS, drafts=3, **HARD[name]), []
    result = edit(source, own_keys.text_encoder, EDIT, settings, on_step=lambda step: steps.append(step.done))
    assert steps == 3 * [1, 2, 3, 4, 5] and torch.isfinite(result.latents).all()


def test_frames_of_several_drafts_are_not_mixed_where_the_ground_is_held_or_keys_are_shared(
    source, own_keys, exact_model, monkeypatch
):
    asked = []
    monkeypatch.setattr("fatezero_ext.editing.edit.best_drafts", lambda *_, together: asked.append(together) or 1 / 0)
    of_mid = inverted(exact_model, Storage("features", "ram"), latents=film()[0], steps=5)
    for controller, holds in ((source, False), (source, True), (of_mid, False)):
        with pytest.raises(ZeroDivisionError):
            edit(controller, own_keys.text_encoder, EDIT, replace(SETTINGS, hold_still=holds, drafts=2))
    assert asked == [False, True, True]


def test_a_frame_without_the_object_is_not_drawn_again(source, own_keys, monkeypatch):
    """Nor is one in which a mask allows nothing."""
    seen = []
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: seen.append(shown) or shown < 0)
    mask = torch.ones(FRAMES, 16, 16)
    mask[1] = 0
    blend = replace(BLEND, mask_use="intersect")
    edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, blend=blend, drafts=2), mask=mask)
    assert seen[0].isnan().tolist() == [False, True, False, False, False]
    edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2))
    assert not seen[1].isnan().any()
    monkeypatch.setattr("fatezero_ext.editing.loop.FOUND", 1.0)  # but in the frame that has the most of it
    edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2))
    assert seen[2].isnan().sum() == FRAMES - 1


def test_a_registered_controller_sees_one_draft(source, own_keys, monkeypatch):
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown, _: torch.ones_like(shown, dtype=torch.bool))
    steps = []
    with register_attention_control(own_keys.unet, lambda q, k, v, site: plain(q, k, v, site)):
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=3), on_step=steps.append)
    assert len(steps) == 5


@pytest.mark.parametrize("wrong", [0, -1, 17, 2.5, True, "many", None])
def test_a_number_of_drafts_that_cannot_be_is_refused_in_words(wrong):
    with pytest.raises(SettingsError, match="drafts is .*a whole number from 1 to 16 or 'auto' is needed"):
        EditSettings(drafts=wrong)


def test_a_number_of_drafts_of_another_library_is_a_whole_number():
    assert type(EditSettings(drafts=np.int64(2)).drafts) is int
