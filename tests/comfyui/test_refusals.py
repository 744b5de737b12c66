"""What ComfyUI's server answers to a workflow with a mistake: one error, at its node and input, and nothing runs."""

import pytest

from tests.comfyui.test_wrong_workflows import ADDED, NOT_ON_THE_LIST, REFUSED, Mistake, _matches, with_value
from tests.comfyui.workflows import EDIT, INVERT, LATENTS, LOAD, small_graph, with_copy

PROMPTS = {"class_type": "FateZero_EditPrompts", "inputs": {"prompts": "a blue circle on the grass\na big blue circle"}}
TEXT = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a red square on the grass"}}


def edited(**widgets):
    return small_graph(**widgets)


def with_text(node, name, added):
    """The graph with a text from another node."""
    return with_value(node, name, [ADDED, 0]) | {ADDED: added}


def heat_maps(**widgets):
    graph = small_graph()
    inputs = {"words": "", "from_step": 0.0, "to_step": 1.0, "picture_height": 64, "resolution": "auto", **widgets}
    graph[ADDED] = {"class_type": "FateZero_WordHeatMaps", "inputs": {"controller": [INVERT, 0], **inputs}}
    graph["50"] = {"class_type": "TestSaveFrames", "inputs": {"images": [ADDED, 0]}}
    del graph[EDIT], graph[LATENTS]
    return graph


WORDS = {
    "a mask of a word that is not there": (
        lambda: edited(blend_words="cat"),
        Mistake(EDIT, "blend_words", "'cat' is not in the prompt 'a red circle.*a, red, circle, on.*Use these"),
    ),
    "a word to subtract that is not there": (
        lambda: edited(subtract_words="cat"),
        Mistake(EDIT, "subtract_words", "'cat' is not in the prompt 'a red circle.*Use these"),
    ),
    "a counterpart that is not there": (
        lambda: edited(blend_edit_words="cat"),
        Mistake(EDIT, "blend_edit_words", "'cat' is not in the prompt 'a blue circle.*Use these"),
    ),
    "a weight of a word that is not there": (
        lambda: edited(equalizer="red: 2"),
        Mistake(EDIT, "equalizer", "'red' is not in the prompt 'a blue circle.*Use these"),
    ),
    "a window of a word that is not there": (
        lambda: edited(word_windows="red: 0.5"),
        Mistake(EDIT, "word_windows", "'red' is not in the prompt 'a blue circle.*Use these"),
    ),
    "subtracting from no mask": (
        lambda: edited(blend_words="", blend_edit_words="", subtract_words="circle"),
        Mistake(EDIT, "blend_words", "subtract_words are circle without blend_words"),
    ),
    "a mask of nothing": (
        lambda: edited(blend_words="", blend_edit_words="", blend_latents=True),
        Mistake(EDIT, "blend_words", "neither blend_words nor a mask.*Name the object"),
    ),
    "unequal word counts": (
        lambda: edited(edit_prompt="a big blue circle on the grass"),
        Mistake(EDIT, "edit_prompt", "source has 6, edit has 7. Use mode 'refine'"),
    ),
    "weights in brackets": (
        lambda: edited(edit_prompt="a (blue:1.3) circle on the grass"),
        Mistake(EDIT, "edit_prompt", "'.blue:1.3.' has brackets.*Remove the brackets.*equalizer"),
    ),
    "brackets in the negative prompt": (
        lambda: edited(negative_prompt="a (bad) picture"),
        Mistake(EDIT, "negative_prompt", "negative prompt: .*brackets"),
    ),
    "no edit prompt": (
        lambda: edited(edit_prompt=" \n\t"),
        Mistake(EDIT, "edit_prompt", "edit_prompt is empty;.*Describe what is wanted"),
    ),
    "no source prompt": (
        lambda: with_value(INVERT, "source_prompt", " \n "),
        Mistake(INVERT, "source_prompt", "source_prompt is empty;.*Describe in plain words what the clip shows"),
    ),
    "one wrong line of several edit prompts": (
        lambda: with_text(EDIT, "edit_prompt", PROMPTS),
        Mistake(EDIT, "edit_prompt", "source has 6, edit has 4"),
    ),
    "a source prompt from a text node": (
        lambda: with_text(INVERT, "source_prompt", TEXT),
        Mistake(EDIT, "blend_words", "'(red )?circle' is not in the prompt 'a red square"),
    ),
    "heat of no words": (
        lambda: heat_maps() | {INVERT: with_value(INVERT, "source_prompt", "\n")[INVERT]},
        Mistake(INVERT, "source_prompt", "source_prompt is empty;.*shows words of it"),
    ),
    "heat of a word that is not there": (
        lambda: heat_maps(words="cat"),
        Mistake(ADDED, "words", "'cat' is not in the prompt"),
    ),
    "heat of steps that end before they start": (
        lambda: heat_maps(from_step=0.8, to_step=0.2),
        Mistake(ADDED, "from_step", "0.8"),
    ),
}
"""Words and prompts that do not fit each other, told before anything runs."""


def refusal(server, graph):
    """(status, {node: [(input, what it says)]}) of the answer to a graph."""
    status, answer = server.post("/prompt", {"prompt": graph})
    found = {
        node: [(each["extra_info"]["input_name"], f"{each['message']} {each['details']}") for each in told["errors"]]
        for node, told in answer["node_errors"].items()
    }
    return status, found


@pytest.mark.parametrize("name", [*REFUSED, *WORDS])
def test_one_mistake_is_one_error_at_its_input(server, name):
    make, wanted = (REFUSED | WORDS)[name]
    status, found = refusal(server, make())
    assert status == 400
    assert {node: [place for place, _ in told] for node, told in found.items()} == {wanted.node: [wanted.input]}
    assert _matches(found[wanted.node][0][1], wanted.says), found


@pytest.mark.parametrize("name", NOT_ON_THE_LIST)
def test_a_choice_that_is_not_offered_is_one_error(server, name):
    make, wanted = NOT_ON_THE_LIST[name]
    status, found = refusal(server, make())
    if status == 200:
        pytest.skip("this ComfyUI leaves choices to the node that runs")
    assert status == 400 and [place for place, _ in found[wanted.node]] == [wanted.input]


def test_two_mistakes_of_a_node_are_two_errors(server):
    status, found = refusal(server, edited(equalizer="circle", blend_words="cat"))
    assert status == 400
    assert sorted(place for place, _ in found[EDIT]) == ["blend_words", "equalizer"]
    told = dict(found[EDIT])
    assert _matches(told["blend_words"], "blend_words - 'cat' is not in the prompt")
    assert _matches(told["equalizer"], "equalizer - equalizer has 'circle'")


def test_comfyuis_own_checks_stay_beside_the_nodes(server):
    status, found = refusal(server, edited(guidance=-1.0, blend_words="cat"))
    assert status == 400 and sorted(place for place, _ in found[EDIT]) == ["blend_words", "guidance"]


def test_a_wrong_edit_does_not_keep_another_one_from_running(server):
    graph = with_copy(small_graph(), EDIT, blend_words="cat")
    done = server.run(graph)
    assert done.status == 200 and list(done.answer["node_errors"]) == ["108"]
    assert done.end[0] == "execution_success", done.end
    assert EDIT in done.executed and "108" not in done.executed


def test_the_answer_to_a_sound_workflow_is_comfyuis_own(server):
    graph = small_graph()
    graph[LOAD]["inputs"]["key_frames"] = "first"
    status, answer = server.post("/prompt", {"prompt": graph})
    assert status == 200 and answer["node_errors"] == {} and set(answer) >= {"prompt_id", "number"}


@pytest.mark.parametrize("body", [{}, {"prompt": {}}, {"prompt": []}, {"prompt": {"8": {"class_type": "None"}}}])
def test_odd_requests_are_answered_by_comfyui(server, body):
    status, _answer = server.post("/prompt", body)
    assert status in (400, 500)
