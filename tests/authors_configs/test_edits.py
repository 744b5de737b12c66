"""One edit's settings as widgets."""

import pytest

from .conftest import SOURCE

MASKED = {"blend_words": [["silver", "jeep"], ["red", "car"]], "blend_self_attention": True, "blend_th": [0.3, 0.3]}


def test_windows_are_taken_over(edit):
    widgets, warnings = edit()
    names = ("cross_replace_start", "cross_replace_end", "self_replace_start", "self_replace_end", "word_windows")
    assert [widgets[name] for name in names] == [0.0, 0.5, 0.0, 0.4, ""]
    assert not warnings


@pytest.mark.parametrize(
    ("steps", "window", "single"),
    [
        (0.7, (0.0, 0.7), ""),
        (1, (0.0, 1.0), ""),
        ([0.2, 0.7], (0.2, 0.7), ""),
        ({"default_": [0.1, 0.9]}, (0.1, 0.9), ""),
        ({"car": 0.3}, (0.0, 1.0), "car: 0-0.3"),
        ({"default_": 0.4, "red": [0.25, 0.5], "car": 1.0}, (0.0, 0.4), "red: 0.25-0.5, car: 0-1"),
    ],
)
def test_every_way_to_write_cross_replace_steps(edit, steps, window, single):
    widgets, warnings = edit({"cross_replace_steps": steps})
    assert (widgets["cross_replace_start"], widgets["cross_replace_end"]) == window
    assert widgets["word_windows"] == single and not warnings


def test_windows_outside_the_steps_mean_the_steps_there_are(edit):
    widgets, warnings = edit({"self_replace_steps": [0.2, 1.5], "cross_replace_steps": [0.8, 0.5]})
    assert (widgets["self_replace_start"], widgets["self_replace_end"]) == (0.2, 1.0)
    assert (widgets["cross_replace_start"], widgets["cross_replace_end"]) == (0.5, 0.5)
    assert len(warnings) == 2


def test_words_of_windows_that_the_prompt_lacks_are_left_out(edit):
    widgets, warnings = edit({"cross_replace_steps": {"default_": 0.5, "Car": 0.2, "road": 0.3}})
    assert widgets["word_windows"] == ""
    assert warnings == [
        "editing_config.p2p_config.1.cross_replace_steps: 'Car', 'road' are not words of 'a red car on the road,'; "
        "without effect in the authors' program, left out."
    ]


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("cross_replace_steps", "0.5", "a share of the steps"),
        ("cross_replace_steps", [0.1, 0.2, 0.3], "a share of the steps"),
        ("cross_replace_steps", {"default_": None}, "a share of the steps"),
        ("cross_replace_steps", {1: 0.5}, "words of the edit prompt as keys"),
        ("self_replace_steps", -0.1, "none negative"),
        ("self_replace_steps", True, "a share of the steps"),
        ("is_replace_controller", "yes please", "true or false"),
        ("eq_params", {"words": ["car"], "values": ["2"]}, "a number"),
        ("eq_params", {"words": [2], "values": [2]}, "a list of words"),
        ("blend_words", [["jeep"], 5], "lists of words"),
        ("blend_words", "jeep", "lists of words"),
        ("blend_th", 0.3, "a pair of numbers"),
        ("blend_th", [], "a pair of numbers"),
    ],
)
def test_wrong_values_are_named_with_what_is_needed(refused, key, value, needed):
    message = refused({f"editing_config.p2p_config.1.{key}": value})
    assert f"editing_config.p2p_config.1.{key}" in message and needed in message


def test_settings_that_an_edit_needs(refused):
    assert "p2p_config.1.self_replace_steps is missing" in refused(
        {"editing_config.p2p_config.1.self_replace_steps": ...}
    )


@pytest.mark.parametrize(("asked", "mode"), [(True, "replace"), (False, "refine"), (..., "replace")])
def test_mode_follows_the_controller_which_is_replace_by_default(edit, asked, mode):
    changes = {} if asked is ... else {"is_replace_controller": asked}
    assert edit(changes)[0]["mode"] == mode


def test_unequal_word_counts_are_refined_as_in_the_authors_program(edit):
    widgets, warnings = edit({"is_replace_controller": True}, prompt="a fast red car on the road,")
    assert widgets["mode"] == "refine"
    assert "source prompt has 6 words, the edit prompt 7" in warnings[0]
    widgets, warnings = edit({"is_replace_controller": True}, prompt="a red car  on the road,")
    assert widgets["mode"] == "refine" and "the edit prompt 7" in warnings[0]


def sources(prompt):
    """The base config with another source prompt, which its first edit keeps."""
    return {"dataset_config.prompt": prompt, "editing_config.editing_prompts.0": prompt}


@pytest.mark.parametrize(
    ("source", "edit"),
    [
        (SOURCE, "a car  on the road,"),
        ("a  jeep on the road,", "a red car on the road,"),
        ("a  jeep on the road,", "a  car on the road,"),
        (" a jeep on the road,", " a car on the road,"),
        ("a jeep on\nthe road,", "a jeep on\nthe grass,"),
    ],
)
def test_odd_spaces_up_to_the_last_replaced_word_are_refused(refused, source, edit):
    message = refused({**sources(source), "editing_config.editing_prompts.1": edit})
    assert "p2p_config.1" in message and "Write single spaces" in message


@pytest.mark.parametrize(
    ("source", "edit"),
    [
        ("a jeep  on the road ", "a car  on the road "),
        ("a jeep on the road\n", "a car on the road\n"),
        ("a  jeep on", "a  jeep on"),
    ],
)
def test_odd_spaces_behind_the_last_replaced_word_are_only_said(translated, source, edit):
    translation = translated({**sources(source), "editing_config.editing_prompts.1": edit})
    node = next(node for node in translation.graph.nodes.values() if node.title == "Edit 1")
    assert node.constants["mode"] == "replace"
    assert any("p2p_config.1" in text and "without effect" in text for text in translation.warnings)


def test_odd_spaces_do_not_matter_to_a_refinement(edit):
    widgets, warnings = edit({"is_replace_controller": False}, prompt="a red  car on the road,")
    assert widgets["mode"] == "refine" and not warnings


def test_each_edit_has_its_own_negative_prompt(edit):
    assert edit({"negative_prompt": "blurry, dark"})[0]["negative_prompt"] == "blurry, dark"
    assert edit({"negative_prompt": None})[0]["negative_prompt"] == ""
    assert edit({"negative_prompt": "blurry"}, index=0)[0]["negative_prompt"] == "blurry"


def test_a_negative_prompt_of_the_pass_that_attention_is_read_from_is_refused(refused):
    changes = {
        "editing_config.use_inversion_attention": False,
        "editing_config.p2p_config.0.negative_prompt": "blurry",
    }
    assert "p2p_config.0.negative_prompt is 'blurry'" in refused(changes)


@pytest.mark.parametrize("size", [256, 320, 768])
def test_masks_at_another_size_than_the_authors_are_warned_about(edit, size):
    _, warnings = edit(MASKED, dataset_config__image_size=size)
    assert [f"image_size is {size}; at sizes other than 512" in warning for warning in warnings] == [True]
    assert not edit(dataset_config__image_size=size)[1]
    assert not edit({**MASKED, "blend_words": [["cat"]]}, dataset_config__image_size=size)[0]["blend_words"]


def test_numbers_are_written_so_that_they_are_read_back_exactly(edit):
    third, tiny = 0.3333333333333333, 1e-7
    widgets, _ = edit(
        {"cross_replace_steps": {"car": [tiny, third]}, "eq_params": {"words": ["car"], "values": [third]}}
    )
    assert widgets["word_windows"] == "car: 0.0000001-0.3333333333333333"
    assert widgets["equalizer"] == "car: 0.3333333333333333"


def test_a_word_that_a_widget_would_not_see_is_refused(refused):
    changes = {
        **sources("a jeep , on the road"),
        **{f"editing_config.p2p_config.1.{key}": value for key, value in MASKED.items()},
        "editing_config.p2p_config.1.blend_words": [[","]],
    }
    assert "has ',', which a widget would take for nothing" in refused(changes)


def test_equalizer_takes_pairs_as_far_as_they_go_and_words_that_are_there(edit):
    widgets, warnings = edit({"eq_params": {"words": ["red", "Nvidia", "car"], "values": [10, 3, 0.5, 7]}})
    assert widgets["equalizer"] == "red: 10, car: 0.5"
    assert "3 words and 4 values" in warnings[0] and "'Nvidia' is not a word" in warnings[1]
    assert edit({"eq_params": {"words": "car", "values": [2]}})[0]["equalizer"] == "car: 2"
    assert edit({"eq_params": {"words": ["boat"], "values": [2]}})[0]["equalizer"] == ""


def test_words_with_punctuation_are_found_as_they_are_written(edit):
    widgets, warnings = edit({"eq_params": {"words": ["road,"], "values": [2]}})
    assert not warnings and widgets["equalizer"].startswith("road")


def test_words_of_a_prompt_with_doubled_spaces_are_warned_about(edit):
    widgets, warnings = edit({"eq_params": {"words": ["road"], "values": [2]}}, prompt="a red  car on a wet road")
    assert widgets["equalizer"] == "road: 2" and any("doubled spaces" in warning for warning in warnings)


def test_a_word_that_the_widget_would_take_for_another_is_refused(refused):
    changes = {
        "editing_config.editing_prompts.1": "a road and a road, again here",
        "editing_config.p2p_config.1.eq_params": {"words": ["road,"], "values": [2]},
    }
    assert "which a widget would take for other words" in refused(changes)


def test_blend_words_become_a_mask(edit):
    widgets, warnings = edit(MASKED)
    names = ("blend_words", "blend_edit_words", "blend_threshold", "blend_self_attention", "blend_latents")
    assert [widgets[name] for name in names] == ["silver, jeep", "red, car", 0.3, True, False]
    assert not warnings


def test_latents_are_blended_where_asked(edit):
    widgets, _ = edit({**MASKED, "blend_self_attention": False, "blend_latents": True})
    assert (widgets["blend_self_attention"], widgets["blend_latents"]) == (False, True)


def test_single_words_and_a_missing_list_of_edit_words_are_read(edit):
    widgets, _ = edit({**MASKED, "blend_words": ["jeep"]})
    assert (widgets["blend_words"], widgets["blend_edit_words"]) == ("jeep", "")


def test_the_threshold_is_0_3_where_none_is_given(edit):
    assert edit({key: value for key, value in MASKED.items() if key != "blend_th"})[0]["blend_threshold"] == 0.3


def test_blend_words_the_prompts_lack_are_left_out_one_by_one(edit):
    widgets, warnings = edit({**MASKED, "blend_words": [["jeep", "cat"], ["dog"]]})
    assert (widgets["blend_words"], widgets["blend_edit_words"]) == ("jeep", "")
    assert "blend_words.0: 'cat' is not a word" in warnings[0] and "blend_words.1: 'dog'" in warnings[1]


@pytest.mark.parametrize("words", [["cat"], ["Jeep"], ["silver jeep"], [""]])
def test_a_mask_of_no_source_word_is_left_out(edit, words):
    widgets, warnings = edit({**MASKED, "blend_words": [words, ["car"]]})
    assert widgets["blend_words"] == "" and widgets["blend_latents"] is False
    assert "all self-attention is the source's; blending left out" in warnings[-1]


@pytest.mark.parametrize("threshold", [1, 1.0, 2])
def test_a_threshold_of_1_or_more_leaves_self_blending_out(edit, threshold):
    widgets, warnings = edit({**MASKED, "blend_th": [threshold, threshold]})
    assert widgets["blend_words"] == "" and "the threshold is 1 or more" in warnings[-1]


@pytest.mark.parametrize(
    ("words", "threshold"), [([["jeep"], ["car"]], 2), ([["cat"], ["dog"]], 0.3), ([["cat"], ["car"]], 2)]
)
def test_an_empty_mask_over_latents_is_a_threshold_nothing_exceeds(edit, words, threshold):
    changes = {"blend_words": words, "blend_latents": True, "blend_th": [threshold, threshold]}
    widgets, warnings = edit(changes)
    assert widgets["blend_words"] and widgets["blend_threshold"] == 1.0 and widgets["blend_latents"] is True
    assert "put back everywhere" in warnings[-1]


def test_latents_under_a_mask_of_edit_words_alone_are_refused(refused):
    changes = {"blend_words": [["cat"], ["car"]], "blend_latents": True}
    message = refused({f"editing_config.p2p_config.1.{key}": value for key, value in changes.items()})
    assert "a mask of edit words alone is not offered" in message


def test_a_negative_threshold_is_a_mask_of_everything(edit):
    widgets, warnings = edit({**MASKED, "blend_th": [-1.0, 0.3]})
    assert widgets["blend_threshold"] == 0.0
    assert "only the first number" in warnings[0] and "a mask of everything" in warnings[1]


@pytest.mark.parametrize("words", [None, "None"])
def test_blend_settings_without_words_have_no_effect(edit, words):
    widgets, warnings = edit({**MASKED, "blend_words": words})
    assert widgets["blend_words"] == "" and len(warnings) == 2
    assert all("has no effect without blend_words" in warning for warning in warnings)


def test_blend_words_that_nothing_uses_are_left_out(edit):
    widgets, warnings = edit({"blend_words": [["jeep"], ["car"]]})
    assert widgets["blend_words"] == "" and "neither blend_self_attention nor blend_latents" in warnings[0]


def test_edits_may_be_a_list(translated):
    control = {"cross_replace_steps": 0.5, "self_replace_steps": 0.5}
    graph = translated({"editing_config.p2p_config": [control, control]}).graph
    assert {"Edit 0", "Edit 1"} <= {node.title for node in graph.nodes.values()}


def test_an_edit_to_the_source_prompt_is_the_reconstruction(edit):
    widgets, _ = edit(index=0)
    assert widgets["edit_prompt"] == SOURCE and widgets["mode"] == "replace"
