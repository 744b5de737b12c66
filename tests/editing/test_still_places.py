"""What stands still in a clip stands still in its edit."""

from dataclasses import replace

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    EditSettings,
    SettingsError,
    Storage,
    edit,
    resolved_settings,
)
from fatezero_ext.editing.still_places import MOST_CHANGE, StillPlaces

from ..small_runs import EDIT, FRAMES, SIDE, film, inverted, named


def grown(cells, by=1):
    return torch.nn.functional.max_pool2d(cells[:, None].float(), 2 * by + 1, 1, by)[:, 0] > 0


def test_all_that_a_thing_does_not_touch_is_still_in_spite_of_a_camera_s_noise():
    frames, covered = film(noise=MOST_CHANGE / 4)
    assert torch.equal(StillPlaces(frames).still, ~grown(covered))


def test_every_cell_is_drawn_once_and_what_moves_is_left_alone(noise):
    frames, covered = film()
    x, still = noise(*frames.shape), ~grown(covered)
    held = StillPlaces(frames).hold(x)
    where = (~still)[:, None].expand_as(x)
    assert torch.equal(held[where], x[where])
    for row in range(SIDE):
        for column in range(SIDE):
            shows = held[still[:, row, column], :, row, column]
            assert len(shows.unique(dim=0)) == 1
            assert (x[:, :, row, column] == shows[0]).all(1).any()  # the latents of one of the frames, not a mean


def test_a_place_is_taken_from_the_frame_nearest_the_middle_that_has_it_clear(noise):
    frames, _ = film()
    x = noise(*frames.shape)
    held = StillPlaces(frames).hold(x)
    assert torch.equal(held[:, :, -1], x[2:3, :, -1].expand(FRAMES, -1, -1))  # far from all
    # Two cells from the thing in the middle frame, four from that in the one before it, on it in the one behind.
    assert torch.equal(held[2, :, 5, 10], x[1, :, 5, 10])


def test_cells_that_may_not_differ_are_neither_shown_nor_changed(noise):
    frames, covered = film()
    x, free = noise(*frames.shape), ~grown(covered, 2)
    free[2] = False
    held = StillPlaces(frames).hold(x, free)
    assert torch.equal(held[2], x[2])
    where = (~free)[:, None].expand_as(x)
    assert torch.equal(held[where], x[where])
    assert torch.equal(held[[0, 1, 3, 4], :, -1], x[1:2, :, -1].expand(4, -1, -1))  # the next nearest


def test_nothing_of_a_clip_that_moves_everywhere_is_held(noise):
    x = noise(FRAMES, 4, SIDE, SIDE)
    assert torch.equal(StillPlaces(noise(FRAMES, 4, SIDE, SIDE) * 2).hold(x), x)
    assert torch.equal(StillPlaces(film()[0][:1]).hold(x[:1]), x[:1])


@pytest.mark.parametrize("blend", [None, BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)])
def test_an_edit_holds_still_what_its_source_does_in_parts_too(exact_model, blend):
    frames, covered = film()
    whole = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=3)
    settings = named(guidance=3.0, blend=blend, hold_still=True)
    edited = edit(whole, exact_model.text_encoder, EDIT, settings)
    parts = edit(whole, exact_model.text_encoder, EDIT, settings, frames_at_once=2)
    assert (edited.latents - parts.latents).abs().max() < 1e-4
    held = ~grown(covered) & edited.last_mask  # True everywhere without a mask
    both = held[1:] & held[:-1]
    assert both.float().mean() > 0.1

    def change(latents):
        return (latents[1:] - latents[:-1]).abs().mean(1)[both].mean()

    left = edit(whole, exact_model.text_encoder, EDIT, replace(settings, hold_still=False))
    assert change(edited.latents) == 0
    assert change(left.latents) > 1e-3


def test_previews_hold_still_as_the_result_does(exact_model):
    frames, covered = film()
    source = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=3)
    shown, still = [], ~grown(covered)
    both = still[1:] & still[:-1]
    settings = named(guidance=3.0, hold_still=True)
    edit(source, exact_model.text_encoder, EDIT, settings, on_step=lambda step: shown.append(step.preview()))
    assert [(one[1:] - one[:-1]).abs().mean(1)[both].max() for one in shown] == [0, 0, 0]
    assert (shown[0][1:] - shown[0][:-1]).abs().mean(1)[~both].max() > 1e-3


def test_words_keep_what_is_still_outside_their_mask(exact_model):
    """Where latents were put back they are the frame's own source, and no other frame's edit."""
    frames, _ = film(noise=MOST_CHANGE / 4)
    source = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=5)
    blend = BlendSettings(("jeep",), ("car",), threshold=0.5, latents=True)
    levels = []
    settings = named(guidance=3.0, blend=blend, hold_still=True)
    edit(
        source,
        exact_model.text_encoder,
        EDIT,
        settings,
        on_step=lambda step: levels.append((step.latents, step.latent_mask)),
    )
    blended = [(at + 1, mask) for at, (_, mask) in enumerate(levels) if mask is not None]
    assert blended
    for step, mask in blended:
        outside = ~mask
        assert outside.float().mean() > 0.1
        kept = source.trace.latents[5 - step].to(levels[step - 1][0])
        assert torch.equal(*(x.movedim(1, -1)[outside] for x in (levels[step - 1][0], kept)))


@pytest.mark.parametrize("latents", [True, False], ids=["latents", "attention alone"])
def test_a_frame_that_may_not_differ_is_neither_held_nor_shown_to_others(exact_model, latents):
    """At every step: before and behind those that blend latents, and where none does."""
    frames, _ = film()
    source = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=5)
    mask = torch.ones(FRAMES, SIDE, SIDE)
    mask[FRAMES // 2] = 0
    settings = named(guidance=3.0, self_replace=0.6, blend=BlendSettings((), latents=latents), hold_still=True)
    held, left = (
        edit(source, exact_model.text_encoder, EDIT, replace(settings, hold_still=holds), mask=mask).latents
        for holds in (True, False)
    )
    # The middle frame's keys alone are read by others, so that it does not hang on what they become.
    torch.testing.assert_close(held[FRAMES // 2], left[FRAMES // 2], rtol=0, atol=1e-6)
    shown, closed = held[FRAMES // 2 - 1, :, -1], held[FRAMES // 2, :, -1]
    assert torch.equal(held[-1, :, -1], shown)
    assert (shown - closed).abs().mean() > 0.5 * (left[FRAMES // 2 - 1, :, -1] - closed).abs().mean() > 1e-3


def test_a_users_mask_decides_from_the_first_step_on(exact_model, monkeypatch):
    frames, _ = film()
    source = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=3)
    given, hold = [], StillPlaces.hold
    monkeypatch.setattr(StillPlaces, "hold", lambda still, x, free: given.append(free) or hold(still, x, free))
    mask = torch.zeros(1, 2 * SIDE, 2 * SIDE)
    mask[:, :SIDE] = 1
    settings = named(guidance=1.0, self_replace=0.0, blend=BlendSettings((), latents=True), hold_still=True)
    edit(source, exact_model.text_encoder, EDIT, settings, mask=mask)
    assert len(given) == 3
    for free in given:
        assert free.shape == (FRAMES, SIDE, SIDE) and free[:, : SIDE // 2].all() and not free[:, SIDE // 2 :].any()


def test_nothing_is_held_at_strength_zero(exact_model):
    frames, _ = film(noise=MOST_CHANGE / 4)
    source = inverted(exact_model, Storage("features", "ram"), latents=frames, steps=3)
    settings = named(guidance=3.0, strength=0.0)
    held, left = (
        edit(source, exact_model.text_encoder, EDIT, replace(settings, hold_still=holds)).latents
        for holds in (True, False)
    )
    assert torch.equal(held, left)


def test_new_backgrounds_and_styles_of_the_built_in_models_hold_still_by_themselves():
    source = "a red circle on the grass"
    edits = {"a red circle on the sand": True, "a blue circle on the grass": False}
    edits |= {f"{style} of {source}": True for style in ("a sketch", "a watercolor painting")}
    for prompt, holds in edits.items():
        assert resolved_settings(EditSettings(), source, prompt, built_in=True).hold_still is holds
        assert resolved_settings(EditSettings(), source, prompt).hold_still is False
        for asked in (True, False):
            assert resolved_settings(EditSettings(hold_still=asked), source, prompt).hold_still is asked
        original = EditSettings(quirks="original")
        assert resolved_settings(original, source, prompt, built_in=True).hold_still is False
    with pytest.raises(SettingsError, match="hold_still is 'yes'; True, False or 'auto' is needed"):
        EditSettings(hold_still="yes")
