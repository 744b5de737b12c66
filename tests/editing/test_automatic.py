"""What is left to the program: the kind of an edit, its words, and the values that suit them."""

from dataclasses import fields, replace

import pytest

from fatezero_ext import BlendSettings, Capture, Controller, EditSettings, edit, invert, resolved_settings
from fatezero_ext.editing.settings import AUTO
from fatezero_ext.errors import PromptError, SettingsError

from ..small_runs import EDIT, REFINED, SOURCE, STEPS, clip, named

CIRCLE, ROAD = "a red circle on the grass", "a silver jeep driving down a curvy road"
READ = [
    (CIRCLE, "a blue circle on the grass", "colour", "replace", ("red circle",), ("blue circle",)),
    (CIRCLE, "an orange circle on the grass", "colour", "replace", ("red circle",), ("orange circle",)),
    ("a circle on the grass", "a blue circle on the grass", "colour", "refine", ("circle",), ("blue circle",)),
    ("a cat on a red sofa", "a cat on a blue sofa", "colour", "replace", ("red sofa",), ("blue sofa",)),
    ("a red ball on a red mat", "a blue ball on a red mat", "colour", "replace", ("red ball",), ("blue ball",)),
    (CIRCLE, "a red square on the grass", "object", "replace", ("circle",), ("square",)),
    (CIRCLE, "a blue square on the grass", "object", "replace", ("red circle",), ("blue square",)),
    (ROAD, "a red porsche car driving down a curvy road", "object", "refine", ("silver jeep",), ("red porsche car",)),
    ("a dog on the beach", "a dog with a hat on the beach", "object", "refine", ("dog",), ("hat",)),
    ("a man is surfing", "a panda is surfing", "object", "replace", ("man",), ("panda",)),
    (CIRCLE, "a red circle on the sand", "background", "replace", ("grass",), ()),
    ("a red circle on plain white", "a red circle on plain blue", "background", "replace", ("white",), ()),
    ("a red circle in front of the wall", "a red circle in front of the sea", "background", "replace", ("wall",), ()),
    (CIRCLE, f"a watercolor painting of {CIRCLE}", "style", "refine", None, None),
    (CIRCLE, f"{CIRCLE} in pixel art style", "style", "refine", None, None),
    ("a photo of a cat", "a pencil sketch of a cat", "style", "refine", None, None),
    ("a sketch of a cat", "a painting of a cat", "style", "refine", None, None),
    ("a dog", "a dog with a hat", "object", "refine", ("dog",), ("hat",)),
    ("a dog with a hat", "a dog", "object", "refine", ("hat",), ("dog",)),
    ("a dog on the beach", "a dog on the beach with a hat", "object", "refine", ("dog",), ("hat",)),
    ("a man is surfing on a wave", "a man is surfing on a wave with a hat", "object", "refine", ("man",), ("hat",)),
    ("a wall", "a wall with a painting", "object", "refine", ("wall",), ("painting",)),
    ("a man", "a man holding a picture", "object", "refine", ("man",), ("holding a picture",)),
    ("a dog", "a dog and a cat", "object", "refine", None, None),  # nothing makes way for a second thing
    ("a dog on the beach and a cat", "a dog on the beach", "object", "refine", ("cat",), ()),
    ("dogs", "two dogs", "object", "refine", ("dogs",), ("two",)),
    ("a dog on a mat", "a running dog on a mat", "object", "refine", ("dog",), ("running",)),
    ("a dog on the beach", "a dog", "background", "refine", ("beach",), ()),
    ("a dog", "a dog on the beach", "background", "refine", None, None),
    ("a dog", "a dog in the snow", "background", "refine", None, None),
    ("a dog", "a dog by the sea", "background", "refine", None, None),
    ("a wall", "a wall behind a picture", "background", "refine", None, None),
    ("a painting of a dog", "a dog", "style", "refine", None, None),
    ("a dog", "watercolor, a dog", "style", "refine", None, None),
    ("a dog", "a dog, oil painting", "style", "refine", None, None),
    ("a dog, watercolor", "a dog, oil painting", "style", "refine", None, None),
    ("a dog in watercolor", "a dog in pixel art", "style", "refine", None, None),
    ("a dog", "a dog in black and white", "style", "refine", None, None),
    ("a dog", "a dog in the style of Joe Bloggs", "style", "refine", None, None),
    (ROAD, f"{ROAD}, Van Gogh style", "style", "refine", None, None),
    ("a dog", "a dog by Joe Bloggs", "style", "refine", None, None),
    ("a dog", "a painting of a dog with a hat", "style", "refine", None, None),
    ("a dog", "a dog in a park in watercolor style", "style", "refine", None, None),
    ("a car on the road", "a car on the winding road", "background", "refine", ("road",), ()),
    ("a dog in the park", "a dog in the park with a painting", "object", "refine", ("dog",), ("painting",)),
    ("dogs", "a group of dogs", "object", "refine", ("dogs",), ("group",)),
    (
        f"{CIRCLE} in pixel art style",
        "a red circle on the sand in pixel art style",
        "background",
        "replace",
        ("grass",),
        (),
    ),
    (CIRCLE, "a grass grass on the grass", "removal", "replace", ("red circle",), ()),
    (CIRCLE, "A blue circle, on the grass.", "colour", "replace", ("red circle",), ("blue circle,",)),
]


@pytest.mark.parametrize(
    ("source", "target", "kind", "mode", "own", "joining"), READ, ids=lambda given: str(given)[:40]
)
def test_kind_mode_and_words_are_read_from_the_prompts(source, target, kind, mode, own, joining):
    # A new colour's words join no mask of the built-in model.
    found = resolved_settings(EditSettings(), source, target, built_in=kind != "colour")
    assert (found.kind, found.mode) == (kind, mode)
    words = (None, None) if found.blend is None else (found.blend.source_words, found.blend.edit_words)
    assert words == (own, joining)


@pytest.mark.parametrize(
    ("source", "target", "spared"),
    [
        (CIRCLE, "a red circle on the sand", ("red circle",)),
        ("a photo of a cat and a ball on the grass", "a photo of a cat and a ball on the sand", ("cat", "ball")),
        ("a man walking on the beach", "a man walking on the snow", ("man",)),
        ("a king on a throne", "a king on a horse", ("king",)),
        ("a red building at the sea", "a red building at the lake", ("red building",)),
        ("a red circle in front of a house", "a red circle in front of a forest", ("red circle",)),
        ("a bowl of fruit on the table", "a bowl of fruit on the floor", ("bowl", "fruit")),
        ("a dog and a dog on the grass", "a dog and a dog on the sand", ("dog",)),
        ("a circle on a circle", "a circle on a square", ()),  # one cannot be told from the other
        (f"{CIRCLE} in watercolor style", "a red circle on the sand in watercolor style", ("red circle",)),
        ("a black cat and a ball on the grass", "a black dog and a ball on the sand", ("ball",)),
        ("a dog", "a dog on the beach", None),  # nothing makes way, so there is no mask
        ("a dog, mountain background", "a dog, city background", ()),  # where the background begins is not said
        (CIRCLE, "a red square on the sand", ()),
    ],
)
def test_a_new_background_spares_the_things_in_front(source, target, spared):
    found = resolved_settings(EditSettings(kind="background"), source, target, built_in=True).blend
    if spared is None:
        assert found is None
    else:
        assert found.spare_words == spared and found.spare_threshold == 0.3
    for kind in ("object", "colour"):
        assert resolved_settings(EditSettings(kind=kind), CIRCLE, "a red disc on the grass").blend.spare_words == ()


def test_a_new_colour_of_the_built_in_model_stays_in_the_old_ones_place():
    blend = resolved_settings(EditSettings(), CIRCLE, "a blue circle on the grass", built_in=True).blend
    assert (blend.source_words, blend.edit_words) == (("red circle",), ())


TRAIN = "a train traveling down tracks next to a forest filled with trees and a man on the side of the track"
FOX, CAT = "a white fox sitting in the grass", "A black cat walking on the floor next to a wall"
PUBLISHED = [
    (ROAD, f"watercolor painting of {ROAD}", "style"),
    ("a pink water lily", "Claude Monet painting of a pink water lily", "style"),
    ("A rabbit is eating a watermelon", "pokemon cartoon of A rabbit is eating a watermelon", "style"),
    ("a yellow sunflower", "van gogh style painting of a yellow sunflower", "style"),
    ("a man surfing on a white wave", "The Ukiyo-e style painting of a man surfing on a white wave", "style"),
    ("a black swan near a wall and bushes,", "cartoon photo of a black swan near a wall and bushes", "style"),
    (TRAIN, f"{TRAIN} Makoto Shinkai style", "style"),
    (FOX, "a white fox sitting in the snow", "background"),
    (CAT, "A black cat walking on the grass next to a wall", "background"),
    (FOX, "a grey wolf sitting in the grass", "object"),
    (CAT, "a yellow cute Shiba-Inu walking on the floor next to a wall", "object"),
    ("A squirrel is eating a carrot", "A robot squirrel is eating a carrot", "object"),
    (f"{ROAD} in the countryside,", "a Porsche car driving down a curvy road in the countryside", "object"),
]
"""Prompts of the authors' configs, long ones shortened, and what they change."""


@pytest.mark.parametrize(("source", "target", "kind"), PUBLISHED, ids=lambda given: str(given)[:30])
def test_the_authors_prompts_are_read_as_they_are_meant(source, target, kind):
    assert resolved_settings(EditSettings(), source, target).kind == kind


@pytest.mark.parametrize(
    ("kind", "built_in", "cross", "own", "guidance"),
    [
        ("object", True, 0.7, 0.5, 4.0),
        ("colour", True, 0.8, 0.8, 3.0),
        ("background", True, 0.8, 0.8, 3.0),
        ("style", True, 0.35, 0.8, 2.0),
        ("removal", True, 0.4, 0.4, 3.0),
        ("object", False, 0.5, 0.5, 7.5),
        ("colour", False, 0.7, 0.7, 7.5),
        ("background", False, 0.5, 0.5, 7.5),
        ("removal", False, 0.4, 0.4, 7.5),
        ("style", False, 0.8, 0.8, 7.5),
    ],
)
def test_windows_and_guidance_suit_the_kind_and_the_model(kind, built_in, cross, own, guidance):
    found = resolved_settings(EditSettings(kind=kind), SOURCE, EDIT, built_in=built_in)
    assert (found.cross_replace, found.self_replace, found.guidance) == ((0.0, cross), (0.0, own), guidance)
    assert found.hold_still is (built_in and kind in ("background", "style"))
    assert AUTO not in [getattr(found, each.name) for each in fields(found)]


DRAFTS = {
    "a new shape of the toy model": ({}, {"built_in": True}, 4),
    "the objects model": ({}, {"built_in": True, "draws_objects": True}, 1),
    "another model": ({}, {}, 1),
    "another model with fresh noise": ({"fresh_noise_seed": 3}, {}, 1),
    "a new background": ({"kind": "background"}, {"built_in": True}, 1),
    "the authors' quirks": ({"quirks": "original"}, {"built_in": True}, 1),
    "no mask": ({"blend": None}, {"built_in": True}, 1),
    "the inversion's noise": ({"fresh_noise_seed": None}, {"built_in": True}, 1),
    "a number that is given": ({"drafts": 2}, {"built_in": True}, 2),
}


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (CIRCLE, f"a pencil sketch of {CIRCLE}", "red circle"),
        (CIRCLE, f"{CIRCLE}, charcoal drawing", "red circle"),
        (CIRCLE, f"a watercolor painting of {CIRCLE}", None),
        (CIRCLE, f"a watercolor sketch of {CIRCLE}", None),
        (CIRCLE, f"an ink wash painting of {CIRCLE}", None),
        (CIRCLE, f"a pixel art drawing of {CIRCLE}", None),
        (CIRCLE, f"a black and white drawing of {CIRCLE}", None),
        (f"a sketch of {CIRCLE}", f"a pencil sketch of {CIRCLE}", None),  # lines already
        ("a red circle", "a pencil sketch of a red circle", None),  # nothing says what stands in front
        ("a pencil on the desk", "a pencil sketch of a pencil on the desk", None),  # the style would be strengthened
        (CIRCLE, "a red square on the grass", None),
    ],
)
def test_things_are_strengthened_where_a_style_draws_lines(source, target, words):
    found = resolved_settings(EditSettings(), source, target, built_in=True)
    if words:
        assert (found.equalizer, found.cross_replace, found.self_replace) == ({words: 5.0}, (0.0, 0.8), (0.0, 0.65))
        assert found.guidance == 4
    else:
        assert found.equalizer == {}
        other_lines = source == "a red circle"  # new lines, without a thing to strengthen
        ends = ((0.0, 0.5), (0.0, 0.8), 3.0) if other_lines else ((0.0, 0.35), (0.0, 0.8), 2.0)
        assert found.kind != "style" or (found.cross_replace, found.self_replace, found.guidance) == ends


@pytest.mark.parametrize(
    "given",
    [
        {"equalizer": {}},
        {"equalizer": {"circle": 1.0}},
        {"cross_replace": 0.5},
        {"self_replace": 0.8},
        {"quirks": "original"},
    ],
    ids=str,
)
def test_values_that_are_given_leave_the_things_of_a_sketch_alone(given):
    found = resolved_settings(EditSettings(**given), CIRCLE, f"a pencil sketch of {CIRCLE}", built_in=True)
    assert found.equalizer == given.get("equalizer", {})
    assert (found.cross_replace, found.self_replace, found.guidance) == ((0.0, 0.5), (0.0, 0.8), 3.0)


def test_lines_of_the_objects_model_and_edits_without_a_source_prompt_have_the_usual_guidance():
    sketch = resolved_settings(
        EditSettings(), CIRCLE, f"a pencil sketch of {CIRCLE}", built_in=True, draws_objects=True
    )
    anew = resolved_settings(EditSettings(), "", CIRCLE, built_in=True)
    for found in (sketch, anew):
        assert (found.kind, found.equalizer, found.hold_still) == ("style", {}, False)
        assert (found.cross_replace, found.self_replace, found.guidance) == ((0.0, 0.5), (0.0, 0.8), 3.0)


@pytest.mark.parametrize(
    ("target", "of_model", "cross"),
    [
        ("a red square on the grass", {}, 0.7),
        ("a blue square on the grass", {}, 0.8),
        ("a blue square on the grass", {"draws_objects": True}, 0.7),
    ],
)
def test_a_new_shape_is_held_longer_if_its_colour_is_new_too(target, of_model, cross):
    found = resolved_settings(EditSettings(), CIRCLE, target, built_in=True, **of_model)
    assert (found.kind, found.cross_replace) == ("object", (0.0, cross))


def test_things_are_not_strengthened_with_others_models():
    assert resolved_settings(EditSettings(), CIRCLE, f"a pencil sketch of {CIRCLE}").equalizer == {}


@pytest.mark.parametrize("name", DRAFTS)
def test_the_number_of_drafts_suits_the_kind_and_the_model(name):
    given, of_model, drafts = DRAFTS[name]
    assert resolved_settings(EditSettings(**{"kind": "object", **given}), SOURCE, EDIT, **of_model).drafts == drafts


def test_values_that_are_given_stay_and_resolving_twice_is_resolving_once():
    given = EditSettings(
        "refine",
        (0.1, 0.3),
        self_replace=0.6,
        blend=None,
        equalizer={},
        guidance=4.0,
        kind="style",
        strength=0.5,
        quirks="original",
        hold_still=True,
        fresh_noise_seed=3,
        drafts=2,
    )
    assert resolved_settings(given, SOURCE, EDIT) == given
    chosen = resolved_settings(EditSettings(), SOURCE, EDIT)
    assert resolved_settings(chosen, SOURCE, EDIT) == chosen


def test_words_of_a_given_mask_can_be_those_that_differ():
    asked = BlendSettings("auto", "auto", threshold=0.6)
    found = resolved_settings(named(blend=asked), CIRCLE, "a blue square on the grass").blend
    assert found == BlendSettings(("red circle",), ("blue square",), threshold=0.6)
    of_edit = resolved_settings(
        named(blend=replace(asked, source_words=("grass",))), CIRCLE, "a red square on the grass"
    )
    assert of_edit.blend == BlendSettings(("grass",), ("square",), threshold=0.6)


def test_a_prompt_that_has_the_word_auto_means_that_word():
    source, target = "ein rotes auto am see", "ein rotes boot am see"
    asked = named(blend=BlendSettings("auto", ("boot",)))
    assert resolved_settings(asked, source, target).blend.source_words == ("auto",)


def test_a_users_mask_alone_decides_unless_masks_are_given():
    assert resolved_settings(EditSettings(), SOURCE, EDIT, with_mask=True).blend == BlendSettings((), latents=True)
    assert resolved_settings(EditSettings(blend=None), SOURCE, EDIT, with_mask=True).blend is None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (CIRCLE, "are the same"),
        (f" {CIRCLE} ", "are the same"),
        ("A red circle, on the grass.", "differ in nothing but case or punctuation .*'A red circle, on the grass.'"),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [EditSettings(), EditSettings(kind="colour"), named(blend=BlendSettings("auto")), named(self_replace=AUTO)],
)
def test_prompts_that_differ_nowhere_are_refused_where_words_are_needed(settings, target, said):
    with pytest.raises(PromptError, match=f"source and edit prompt {said}.*Change a word of the edit prompt"):
        resolved_settings(settings, CIRCLE, target)
    assert resolved_settings(named(), CIRCLE, target).mode == "replace"


def test_an_empty_edit_prompt_is_refused():
    with pytest.raises(PromptError, match="edit_prompt is empty"):
        resolved_settings(EditSettings(), CIRCLE, " ")


def test_under_an_empty_source_prompt_an_edit_differs_everywhere_unless_a_mask_is_asked_for():
    found = resolved_settings(EditSettings(), "", EDIT)
    assert (found.kind, found.mode, found.blend) == ("style", "refine", None)
    for kind in ("object", "colour", "background", "removal"):
        with pytest.raises(PromptError, match=f"source_prompt is empty; an edit of the kind '{kind}' makes a mask"):
            resolved_settings(EditSettings(kind=kind), "", EDIT)
        assert resolved_settings(EditSettings(kind=kind), "", EDIT, with_mask=True).blend.latents
        assert resolved_settings(EditSettings(kind=kind, blend=None), "", EDIT).blend is None
    with pytest.raises(PromptError, match="'auto', words of the source prompt .* that is empty"):
        resolved_settings(named(blend=BlendSettings("auto")), "", EDIT)


@pytest.mark.parametrize("blend", ["auto", BlendSettings(("+boat",), threshold=0.6, latents=True)])
def test_a_clip_inverted_under_an_empty_prompt_is_edited(model, blend):
    inverted = invert(Controller(model.unet), model.text_encoder, clip(), "", steps=STEPS, inversion_passes=0)
    result = edit(inverted, model.text_encoder, EDIT, EditSettings(blend=blend, guidance=3.0))
    assert result.latents.isfinite().all() and bool(result.last_mask.all()) is (blend == "auto")


def test_a_mask_of_words_that_are_only_added_has_none_to_read():
    with pytest.raises(PromptError, match="'auto', words of the source prompt that make way, but .* replaces no word"):
        resolved_settings(named(blend=BlendSettings("auto")), SOURCE, REFINED)
    assert resolved_settings(EditSettings(kind="object"), SOURCE, REFINED).blend is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "shape"}, "kind is 'shape'.*object, colour, background, style, removal"),
        ({"strength": 1.2}, "strength is 1.2; 0 .* to 1"),
        ({"strength": -0.1}, "strength is -0.1"),
        ({"strength": float("nan")}, "a finite number"),
        ({"strength": "half"}, "a finite number"),
        ({"blend": "red circle"}, "BlendSettings, 'auto' or None"),
    ],
)
def test_choices_outside_the_range_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        EditSettings(**options)


@pytest.mark.parametrize("target", [EDIT, REFINED])
def test_an_edit_without_settings_is_the_edit_of_what_is_chosen(model, target):
    inverted = invert(Controller(model.unet), model.text_encoder, clip(), SOURCE, steps=STEPS)
    chosen = resolved_settings(EditSettings(), SOURCE, target, built_in=model.unet.built_in)
    plainly, by_hand = (edit(inverted, model.text_encoder, target, given) for given in (None, chosen))
    assert plainly.latents.equal(by_hand.latents) and plainly.mask.equal(by_hand.mask)


def test_without_recorded_self_attention_its_window_is_left_empty(model):
    controller = Controller(model.unet, Capture(self_attention=False))
    inverted = invert(controller, model.text_encoder, clip(), SOURCE, steps=2)
    assert edit(inverted, model.text_encoder, EDIT).latents.isfinite().all()
