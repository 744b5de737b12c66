"""Kind and strength of P2PEdit: which widgets they use, what is checked before a run, and what the node says."""

import json
from itertools import product

import pytest
import torch

from fatezero_ext import (
    BlendSettings,
    Controller,
    EditSettings,
    InflationSettings,
    invert,
    load_toy,
)
from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack

from ..small_runs import named
from .test_nodes import EDIT_WIDGETS, SETTINGS

CIRCLE, BLUE = "a red circle on the grass", "a blue circle on the grass"
OLD = {name: value for name, value in EDIT_WIDGETS.items() if name != "kind"}
PLAIN = OLD | {"blend_words": "", "blend_edit_words": "", "subtract_words": "", "blend_latents": False}


@pytest.fixture(scope="module")
def widgets():
    return load_pack("nodes.method.edit_widgets")


@pytest.fixture(scope="module")
def mistakes():
    return load_pack("nodes.method.edit_checks").edit_mistakes


def same(theirs, ours):
    """Settings of the pack's copy of the package compare by what they print."""
    return repr(theirs) == repr(ours)


def test_a_graph_without_a_kind_is_what_its_widgets_say(widgets):
    assert same(widgets.from_widgets(OLD, with_mask=False), SETTINGS)
    assert same(widgets.from_widgets(OLD | {"kind": "custom"}, with_mask=False), SETTINGS)


@pytest.mark.parametrize("kind", ["auto", "object", "colour", "background", "style", "removal"])
def test_other_kinds_use_no_widget_of_windows_and_masks(widgets, kind):
    asked = OLD | {"kind": kind, "strength": 0.4, "equalizer": "", "word_windows": ""}
    assert same(widgets.from_widgets(asked, with_mask=False), EditSettings(kind=kind, strength=0.4))


def test_an_empty_equalizer_is_left_to_the_kind_and_is_none_with_custom(widgets):
    empty = PLAIN | {"equalizer": "", "word_windows": ""}
    assert widgets.from_widgets(empty | {"kind": "style"}, with_mask=False).equalizer == "auto"
    assert widgets.from_widgets(empty | {"kind": "custom"}, with_mask=False).equalizer == {}
    given = widgets.from_widgets(empty | {"kind": "style", "equalizer": "circle: 2"}, with_mask=False)
    assert given.equalizer == {"circle": 2.0}


def test_mask_words_of_custom_edits_can_be_those_that_differ(widgets):
    asked = PLAIN | {"blend_words": "auto", "blend_edit_words": " auto "}
    found = widgets.from_widgets(asked, with_mask=False).blend
    assert same(found, BlendSettings("auto", "auto", 0.4, subtract_threshold=0.9))


def test_equal_prompts_are_a_mistake_of_the_edit_prompt_before_any_work(mistakes):
    for wrong in ({**PLAIN, "kind": "auto"}, {**PLAIN, "kind": "colour"}, {**PLAIN, "blend_words": "auto"}):
        found = mistakes({**wrong, "equalizer": "", "word_windows": ""}, [CIRCLE], CIRCLE)
        assert list(found) == ["edit_prompt"] and "source and edit prompt are the same" in found["edit_prompt"]
    custom = {**PLAIN, "equalizer": "", "word_windows": "", "kind": "custom"}
    assert mistakes(custom, [CIRCLE], CIRCLE) == {}


def test_automatic_mask_words_that_only_the_edit_has_are_a_mistake_of_blend_words(mistakes):
    wrong = {**PLAIN, "mode": "refine", "blend_words": "auto", "equalizer": "", "word_windows": ""}
    found = mistakes(wrong, [f"a watercolor painting of {CIRCLE}"], CIRCLE)
    assert list(found) == ["blend_words"] and "replaces no word" in found["blend_words"]


def test_widgets_that_a_kind_does_not_use_are_no_mistakes(mistakes):
    odd = {**OLD, "kind": "auto", "cross_replace_start": 0.9, "blend_words": "boat", "subtract_words": "boat"}
    odd |= {"equalizer": "", "word_windows": "", "blend_edit_words": "boat"}
    assert mistakes(odd, [BLUE], CIRCLE) == {}
    assert mistakes(odd, ["a big blue circle on the grass"], CIRCLE) == {}
    assert mistakes({**odd, "kind": None}, [BLUE], CIRCLE) == {}  # linked: known when it runs
    assert set(mistakes({**odd, "kind": "custom"}, [BLUE], CIRCLE)) >= {"cross_replace_start", "blend_words"}


def test_words_of_the_equalizer_are_looked_for_under_every_kind(mistakes):
    asked = {**PLAIN, "kind": "auto", "equalizer": "boat: 2", "word_windows": ""}
    assert "'boat' is not in the prompt" in mistakes(asked, [BLUE], CIRCLE)["equalizer"]


@pytest.mark.parametrize(
    ("wrong", "place", "message"),
    [
        ({"kind": "shape"}, "kind", "kind is 'shape'; it must be one of auto, object"),
        ({"kind": "auto", "strength": 1.5}, "strength", "strength is 1.5"),
        ({"kind": "auto", "edit_prompt": ""}, "edit_prompt", "edit_prompt is empty"),
    ],
)
def test_what_no_widget_would_give_is_a_mistake_at_its_input(mistakes, wrong, place, message):
    asked = {**PLAIN, "equalizer": "", "word_windows": "", **wrong}
    found = mistakes(asked, [asked.get("edit_prompt", BLUE)] if "edit_prompt" in wrong else [BLUE], CIRCLE)
    assert list(found) == [place] and message in found[place]


def test_edits_without_source_words_are_known_by_their_kind():
    needs = load_pack("nodes.method.edit_checks").needs_source_words
    assert needs({"kind": "object"}) and needs({"kind": "removal", "mode": "refine"})
    assert not needs({"kind": "object", "mask": ["3", 0]})  # it takes the place of the words' mask
    assert not needs({"kind": "auto", "mode": "replace"})  # without words of the source it edits everything
    assert not needs({"kind": "style", "mode": "replace"}) and not needs({"kind": ["3", 0]})
    assert needs({"mode": "replace"}) and not needs({"mode": "refine"})


def test_of_an_empty_source_prompt_only_words_with_a_plus_are_looked_for(mistakes):
    custom = {**PLAIN, "mode": "refine", "equalizer": "", "word_windows": "", "kind": "custom"}
    assert mistakes({**custom, "blend_words": "+dog"}, [BLUE], "") == {}
    assert mistakes({**custom, "blend_words": "dog"}, [BLUE], "") == {}  # DDIM Inversion's
    assert "a plus without words" in mistakes({**custom, "blend_words": "+"}, [BLUE], "")["blend_words"]
    assert mistakes({**custom, "kind": "auto"}, [BLUE], "") == {}


@pytest.fixture(scope="module")
def toy():
    """The built-in model with an inverted frame, as Python loads it and with key frames."""

    def made(settings):
        model = load_toy(settings)
        latents = torch.zeros(1, 4, 16, 16)
        return model, invert(Controller(model.unet), model.text_encoder, latents, CIRCLE, steps=2)

    return {name: made(settings) for name, settings in (("own", None), ("mid", InflationSettings(("mid",))))}


@pytest.mark.parametrize(
    ("loaded", "prompt", "settings", "remark"),
    [
        (
            "own",
            "a teal circle on the grass",
            EditSettings(),
            "does not know 'teal', and can neither find nor draw it.\nColours it knows: ",
        ),
        (
            "own",
            "a read circle on the gras",
            EditSettings(),
            "know 'read', 'gras', and can neither find nor draw them. Nearest to read: red",
        ),
        ("own", "a red circle on the sand", EditSettings(), "flicker less with key_frames mid, 0"),
        (
            "own",
            BLUE,
            EditSettings(),
            "middle of 3 or more steps (blend_latents of Prompt-to-Prompt Edit); in 2 none",
        ),
        ("own", f"a sketch of {CIRCLE}", EditSettings(), ""),
        ("mid", "a red circle on the sand", named(), ""),
        ("mid", "a red circle on the sand", EditSettings(kind="background", blend=None), ""),
    ],
)
def test_what_makes_results_poor_is_said_before_the_edit(toy, loaded, prompt, settings, remark):
    model, controller = toy[loaded]
    remarks = load_pack("nodes.method.remarks").edit_remarks
    said = remarks(controller, model.text_encoder, prompt, settings, with_mask=False)
    assert said[-1].startswith("Edit of 1 frames in 2 steps")
    before = " ".join(said[:-1]).strip()
    assert (remark in before) if remark else before == ""


def draws_objects(graph):
    return any(node["inputs"].get("model") == "built-in objects model" for node in graph.values())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[0-9]_*.json")), ids=lambda path: path.stem)
def test_widgets_that_the_kind_does_not_use_are_named_unless_they_say_what_it_chose(path):
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    changed_widgets = load_pack("nodes.method.edit")._changed
    graph = load_pack("nodes.headless.formats.read").graph_from(json.loads(path.read_text()), types).api_format()
    asked, source = graph["8"]["inputs"], graph["7"]["inputs"]["source_prompt"]
    resolved = load_pack("fatezero_ext.editing.automatic").resolved_settings
    remarks = load_pack("nodes.method.remarks")

    def said(**changed):
        links = ("controller", "clip", "images")
        inputs = {name: value for name, value in (asked | changed).items() if name not in links}
        settings = load_pack("nodes.method.edit_widgets").from_widgets(inputs, with_mask=False)
        chosen = resolved(settings, source, asked["edit_prompt"], built_in=True, draws_objects=draws_objects(graph))
        return remarks.not_used(remarks.unused_widgets(changed_widgets(inputs), chosen), chosen)

    assert said() == said(kind="auto") == said(blend_words="auto") == said(kind="custom", blend_words="boat") == ""
    assert said(strength=0.5, equalizer="a: 2", negative_prompt="boat") == ""
    of_fresh_noise = "Not used: guidance, cross_replace_end." if asked["kind"] == "object" else ""
    assert said(quirks="original").startswith(of_fresh_noise) and bool(said(quirks="original")) == bool(of_fresh_noise)
    assert "Not used: guidance, blend_words." in said(blend_words="jeep, +shadow", guidance=5.0)
    assert f"The kind {asked['kind']} chooses these itself; choose the kind custom" in said(mask_use="override")
    others = {"cross_replace_start": 0.1, "cross_replace_end": 0.9, "self_replace_start": 0.1, "self_replace_end": 0.9}
    others |= {"subtract_words": "boat", "subtract_threshold": 0.2, "blend_resolution": "1/2", "follow_shapes": True}
    others |= {"blend_edit_words": "boat", "blend_threshold": 0.7, "blend_self_attention": False}
    for name, value in others.items():
        assert f"Not used: {name}. " in said(**{name: value}), name


def test_still_places_are_held_as_the_node_says_with_every_kind():
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(load_pack("nodes.method.edit").P2PEdit)
    of, chosen = load_pack("nodes.method.edit_widgets").from_widgets, load_pack("nodes.method.remarks").chosen
    resolved = load_pack("fatezero_ext.editing.automatic").resolved_settings
    source, sand = "a red circle on the grass", "a red circle on the sand"
    for kind, says, holds in [
        ("auto", "auto", True),
        ("auto", "off", False),
        ("custom", "auto", False),
        ("custom", "on", True),
        ("style", "on", True),
    ]:
        settings = of(widgets | {"kind": kind, "hold_still": says}, with_mask=False)
        found = resolved(settings, source, sand, built_in=True)
        assert found.hold_still is holds, (kind, says)
        assert ("still places held" in chosen(found)) == holds
    graph_from_before = {name: value for name, value in widgets.items() if name not in ("hold_still", "kind")}
    assert of(graph_from_before, with_mask=False).hold_still is False
    for kind in ("auto", "custom"):
        with pytest.raises(
            load_pack("fatezero_ext.errors").SettingsError, match="hold_still is 'yes'; True, False or 'auto' is needed"
        ):
            of(widgets | {"kind": kind, "hold_still": "yes"}, with_mask=False)


def test_the_seed_of_fresh_noise_counts_with_every_kind():
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(load_pack("nodes.method.edit").P2PEdit)
    of, chosen = load_pack("nodes.method.edit_widgets").from_widgets, load_pack("nodes.method.remarks").chosen
    resolved = load_pack("fatezero_ext.editing.automatic").resolved_settings
    source, sand, square = "a red circle on the grass", "a red circle on the sand", "a red square on the grass"
    choices = [("auto", -1, 0), ("auto", 7, 7), ("custom", -1, None), ("custom", 7, 7), ("style", 7, 7)]
    for (kind, says, seed), prompt in product(choices, (sand, square)):
        settings = of(widgets | {"kind": kind, "fresh_noise_seed": says}, with_mask=False)
        found = resolved(settings, source, prompt, built_in=True)
        assert found.fresh_noise_seed == seed, (kind, says, prompt)
        assert (f"fresh noise {seed}" in chosen(found)) == (seed is not None)
    linked = widgets | {"kind": "auto", "fresh_noise_seed": None}
    assert of(linked, with_mask=False).fresh_noise_seed == "auto"
    graph_from_before = {name: value for name, value in widgets.items() if name not in ("fresh_noise_seed", "kind")}
    assert of(graph_from_before, with_mask=False).fresh_noise_seed is None


@pytest.mark.parametrize(
    ("kind", "says", "drafts"), [("auto", 0, "auto"), ("auto", 3, 3), ("custom", 0, 1), ("custom", 3, 3)]
)
def test_the_number_of_drafts_counts_with_every_kind(kind, says, drafts):
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(load_pack("nodes.method.edit").P2PEdit, kind=kind)
    of = load_pack("nodes.method.edit_widgets").from_widgets
    assert of(widgets | {"drafts": says}, with_mask=False).drafts == drafts
    assert of(widgets | {"drafts": None}, with_mask=False).drafts == of(widgets, with_mask=False).drafts
    before = {name: value for name, value in widgets.items() if name != "drafts"}
    assert of(before, with_mask=False).drafts == of(widgets, with_mask=False).drafts


def test_the_node_says_how_many_drafts_there_may_be_and_which_frames_had_another():
    model = load_toy()
    controller = invert(Controller(model.unet), model.text_encoder, torch.zeros(2, 4, 16, 16), CIRCLE, steps=3)
    remarks, told = load_pack("nodes.method.remarks").edit_remarks, load_pack("nodes.method.remarks").drawn_again
    square, blend = "a red square on the grass", BlendSettings(("red circle",), latents=True)

    def said(prompt, **settings):
        return remarks(controller, model.text_encoder, prompt, EditSettings(**settings), with_mask=False)

    assert "up to" not in said(BLUE)[-1]
    assert "fresh noise 0, up to 3 drafts" in said(square, drafts=3)[-1]
    for given in (
        {"fresh_noise_seed": None},
        {"strength": 0.5},
        {"blend": blend, "fresh_noise_seed": 1},
        {"kind": "style"},
    ):
        *others, last = said(square, drafts=3, **given)
        assert any(one.startswith("drafts 3 is not used: that needs more than one frame") for one in others)
        assert "drafts" not in last
    assert not any("drafts" in one for one in said(square, fresh_noise_seed=None))
    assert told(torch.tensor([0, 2, 0, 1])) == "Drawn again, as they hardly showed the new words: frames 1, 3"
    assert told(torch.ones(9)).endswith("frames 0, 1, 2, 3, 4 and 4 more")
    assert told(torch.zeros(4)) == ""


def test_a_node_names_the_widgets_it_does_not_use_before_it_works(toy):
    model, controller = toy["own"]
    remarks = load_pack("nodes.method.remarks").edit_remarks
    changed = {"blend_words": "red circle, +shadow", "edit_prompt": BLUE}
    said = remarks(controller, model.text_encoder, BLUE, EditSettings(), with_mask=False, changed=changed)
    assert said[0].startswith("Not used: blend_words. The kind colour chooses these itself; ")


@pytest.mark.parametrize("kind", ["auto", "colour", "object"])
def test_widgets_that_nobody_set_are_not_named_whatever_the_kind(toy, kind):
    """Those at their defaults; words that somebody typed are, even if they are in no prompt."""
    model, controller = toy["own"]
    remarks, of = load_pack("nodes.method.remarks").edit_remarks, load_pack("nodes.method.edit")
    widgets = load_pack("nodes.method.video_edit_graph").widgets_of(of.P2PEdit, edit_prompt=BLUE, kind=kind)
    assert set(of._changed(widgets)) <= {"edit_prompt", "kind"}
    for words in ("", "auto", "dog", "silver jeep, grass"):
        changed = of._changed(widgets | {"blend_words": words})
        said = remarks(controller, model.text_encoder, BLUE, EditSettings(), with_mask=False, changed=changed)
        assert said[0].startswith("Not used: blend_words.") == (words not in ("", "auto"))


def test_the_node_names_the_words_that_a_sketch_strengthens(toy):
    model, controller = toy["own"]
    remarks = load_pack("nodes.method.remarks").edit_remarks
    sketch = f"a pencil sketch of {controller.trace.prompt.text}"
    said = remarks(controller, model.text_encoder, sketch, EditSettings(), with_mask=False)
    assert "guidance 4, red circle x 5" in said[-1]
    plain = remarks(controller, model.text_encoder, sketch, EditSettings(equalizer={}), with_mask=False)
    assert " x " not in plain[-1]


def test_the_node_says_what_was_chosen(toy):
    model, controller = toy["own"]
    remarks = load_pack("nodes.method.remarks").edit_remarks
    said = remarks(controller, model.text_encoder, BLUE, EditSettings(strength=0.5), with_mask=False)
    assert said[-1] == (
        "Edit of 1 frames in 2 steps, colour, replace, cross-attention 0-0.8, self-attention 0-0.8, guidance 3, mask "
        "from red circle above 0.3, strength 0.5: a blue circle on the grass"
    )


def test_the_node_speaks_of_fresh_noise_only_where_the_edit_begins_from_it(toy):
    model, controller = toy["own"]
    remarks = load_pack("nodes.method.remarks").edit_remarks
    for strength in (0.0, 1.0):
        settings = EditSettings(strength=strength)
        *_, said = remarks(controller, model.text_encoder, "a red square on the grass", settings, with_mask=False)
        assert ("fresh noise 0" in said) == (strength > 0)
    masks = BlendSettings(("red circle",))
    settings = EditSettings(self_replace=(0.5, 1.0), blend=masks, fresh_noise_seed=4)
    *_, remark, said = remarks(controller, model.text_encoder, "a red square on the grass", settings, with_mask=False)
    assert remark.startswith("fresh_noise_seed 4 is not used: none of the 2 steps but the last reads the mask.")
    assert "fresh noise" not in said


def test_key_frames_that_are_left_to_the_program_are_those_of_the_model(toy, model):
    words = load_pack("nodes.text_lists")
    assert (words.key_frames_or_auto(" auto "), words.key_frames_or_auto("")) == ("auto", ())
    assert toy["own"][0].unet.settings.key_frames == () and toy["own"][0].unet.built_in
    assert model.unet.settings.key_frames == (-1, "first") and not model.unet.built_in
    assert toy["mid"][0].unet.settings.key_frames == ("mid",)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[0-9]_*.json")), ids=lambda path: path.stem)
def test_the_kind_of_a_template_is_read_from_its_prompts_and_chooses_what_its_widgets_say(widgets, path):
    types = load_pack("nodes.headless.schemas.registry").pack_node_types()
    graph = load_pack("nodes.headless.formats.read").graph_from(json.loads(path.read_text()), types).api_format()
    asked, source = graph["8"]["inputs"], graph["7"]["inputs"]["source_prompt"]
    resolved = load_pack("fatezero_ext.editing.automatic").resolved_settings
    by_kind, by_widgets = (
        resolved(
            widgets.from_widgets(asked | {"kind": kind}, with_mask=False),
            source,
            asked["edit_prompt"],
            built_in=True,
            draws_objects=draws_objects(graph),
        )
        for kind in ("auto", "custom")
    )
    assert (by_kind.kind, asked["strength"]) == (asked["kind"], 1.0)
    for name in ("mode", "cross_replace", "self_replace", "guidance", "equalizer"):
        assert getattr(by_kind, name) == getattr(by_widgets, name), name
