"""Frames that hardly show an edit's words are drawn again, and of each the best draft is kept."""

from dataclasses import replace

import pytest
import torch

from fatezero_ext import BlendSettings, EditSettings, InflationSettings, SettingsError, Storage, edit
from fatezero_ext.editing import drafts as drafts_module
from fatezero_ext.editing.drafts import best_drafts, reads_others, weak_frames
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
    rows = [[1.0, 0.4, 0.1], [0.2, 0.6, 0.3], [9.0, 9.0, 0.2], [0.0, 0.0, 0.5]]
    best, numbers, asked = drawn(rows, 9)
    assert asked == [0, 1, 2, 3] and numbers.tolist() == [0, 1, 3]
    for each, scale in ((best.latents[:, 0], 1), (best.mask, 10), (best.last_mask.float(), 1)):
        assert torch.equal((each * scale)[:, 0, 0].round() % 2, numbers.float() % 2)
    assert best.shown.tolist() == pytest.approx([1.0, 0.6, 0.5])


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_no_more_drafts_are_drawn_than_asked_for(drafts):
    rows = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.05], [1.0, 1.0]]
    _, numbers, asked = drawn(rows, drafts)
    assert asked == list(range(drafts)) and numbers.tolist() == [0, min(drafts - 1, 1)]


def test_frames_that_all_show_the_words_are_drawn_once():
    assert drawn([[0.5, 0.9, 1.0]], 4)[2] == [0]
    assert drawn([[0.0, 0.0]], 4)[2] == [0]  # nothing to compare with
    assert weak_frames(torch.tensor([0.49, 0.5, 1.0])).tolist() == [True, False, False]


def test_frames_that_depend_on_each_other_are_taken_from_one_draft():
    rows = [[1.0, 0.1, 0.9], [0.2, 0.2, 0.2], [5.0, 0.15, 5.0]]
    best, numbers, asked = drawn(rows, 3, together=True)
    assert numbers.tolist() == [1, 1, 1] and asked == [0, 1]  # its frames are alike
    assert best.shown.tolist() == pytest.approx(rows[1])
    kept = drawn([rows[0], [5.0, 0.05, 5.0]], 2, together=True)
    assert kept[1].tolist() == [0, 0, 0]


def test_which_models_frames_depend_on_each_other(own_keys, exact_model):
    assert not reads_others(own_keys.unet)
    assert reads_others(exact_model.unet)  # they read the middle frame's keys


def test_each_frame_of_a_better_draft_is_what_the_next_seed_gives(source, own_keys, monkeypatch):
    """Its latents and masks are those of an edit from that seed alone."""
    first, second = (
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, fresh_noise_seed=seed)) for seed in (4, 5)
    )
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown: torch.ones_like(shown, dtype=torch.bool))
    best = edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2))
    assert set(best.drafts.tolist()) <= {0, 1} and best.drafts.shape == (FRAMES,)
    for frame, number in enumerate(best.drafts.tolist()):
        wanted = (first, second)[number]
        for name in ("latents", "mask", "last_mask"):
            assert torch.equal(getattr(best, name)[frame], getattr(wanted, name)[frame])


def test_looking_how_a_draft_came_out_does_not_change_it(source, own_keys, monkeypatch):
    once = edit(source, own_keys.text_encoder, EDIT, SETTINGS)
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown: torch.zeros_like(shown, dtype=torch.bool))
    looked_at = edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=3))
    assert torch.equal(once.latents, looked_at.latents) and not looked_at.drafts.any()


def test_what_frames_show_is_the_same_in_parts(source, own_keys, monkeypatch):
    seen = []

    def watched(shown):
        seen.append(shown)
        return weak_frames(shown)

    monkeypatch.setattr(drafts_module, "weak_frames", watched)
    for frames_at_once in (0, 2):
        edit(source, own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=2), frames_at_once=frames_at_once)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-6)
    assert seen[0].shape == (FRAMES,) and (seen[0] > 0).all() and (seen[0] <= 1).all()


def test_steps_are_counted_anew_in_every_draft_and_can_end_the_run(source, own_keys, monkeypatch):
    monkeypatch.setattr(drafts_module, "weak_frames", lambda shown: torch.ones_like(shown, dtype=torch.bool))
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
}


@pytest.mark.parametrize("name", ONCE)
def test_an_edit_is_drawn_once_where_another_draft_is_of_no_use(source, own_keys, name):
    settings = replace(SETTINGS, drafts=4, **ONCE[name])
    plan = plan_edit(own_keys.unet, source.inverted(), own_keys.text_encoder, EDIT, settings)
    schedule = source.inverted().schedule
    assert plan.drafts(schedule) == 1 and plan.judged(schedule) is None
    usual = plan_edit(own_keys.unet, source.inverted(), own_keys.text_encoder, EDIT, replace(SETTINGS, drafts=4))
    assert usual.drafts(schedule) == 4 and usual.judged(schedule) == 4


def test_later_drafts_hold_less_of_the_source_and_have_seeds_of_their_own(own_keys):
    source = inverted(own_keys, Storage("features", "ram"), latents=film()[0], steps=20)
    settings = replace(
        SETTINGS, fresh_noise_seed=2**32 - 1, cross_replace=(0.0, 0.7), self_replace=(0.1, 0.5), drafts=9
    )
    plan = plan_edit(own_keys.unet, source.inverted(), own_keys.text_encoder, EDIT, settings)
    assert plan.draft(0) is plan
    held = [plan.draft(number) for number in range(6)]
    assert [one.settings.fresh_noise_seed for one in held] == [2**32 - 1, 0, 1, 2, 3, 4]
    assert [sum(step.replace_cross for step in one.steps) for one in held] == [14, 14, 9, 5, 5, 5]
    assert [sum(step.fuse_self for step in one.steps) for one in held] == [8, 8, 4, 2, 2, 2]
    blended = [[step.blend_latents for step in one.steps] for one in held]
    assert all(each == blended[0] for each in blended) and any(blended[0])


@pytest.mark.parametrize("wrong", [0, -1, 17, 2.5, True, "many", None])
def test_a_number_of_drafts_that_cannot_be_is_refused_in_words(wrong):
    with pytest.raises(SettingsError, match="drafts is .*a whole number from 1 to 16 or 'auto' is needed"):
        EditSettings(drafts=wrong)
