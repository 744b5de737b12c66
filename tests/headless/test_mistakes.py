"""One mistake is one problem at its node and input, words against both prompts included, before anything runs."""

import copy
import json

import pytest

from fatezero_ext.cli.examples import EXAMPLES
from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.prompts.words_alone import read_words

TEMPLATE = sorted(EXAMPLES.glob("[0-9]_*.json"))[0]
LOAD, INVERT, EDIT, ADDED = "3", "7", "8", "30"


@pytest.fixture(scope="module")
def runner():
    return {
        "registry": load_pack("nodes.headless.schemas.registry"),
        "workflow": load_pack("nodes.headless.formats.read"),
        "validate": load_pack("nodes.headless.schemas.validate"),
        "problems": load_pack("nodes.headless.problems"),
    }


@pytest.fixture(scope="module")
def types(runner):
    return runner["registry"].pack_node_types()


@pytest.fixture(scope="module")
def template(runner, types):
    """The first template, with an edit whose widgets decide."""
    graph = runner["workflow"].graph_from(json.loads(TEMPLATE.read_text()), types).api_format()
    graph[EDIT]["inputs"]["kind"] = "custom"
    return graph


@pytest.fixture
def problems(runner, types, template):
    """[(node label, input, text)] of the template with these values at inputs, and these nodes beside."""

    def found(values, nodes=None):
        document = copy.deepcopy(template) | (nodes or {})
        for (node, name), value in values.items():
            document[node]["inputs"][name] = value
        graph = runner["workflow"].graph_from(document, types)
        try:
            runner["validate"].validated(graph, types)
        except runner["problems"].InvalidWorkflow as error:
            return [(each.node, each.input, each.text) for each in error.problems]
        return []

    return found


MISTAKES = {
    "a checkpoint that is not there": (LOAD, "model", "gone", "'gone' is not there"),
    "a key frame that is none": (LOAD, "key_frames", "frist", "unknown key frame"),
    "a window that ends before it starts": (EDIT, "cross_replace_start", 0.9, "start <= end"),
    "a window beyond the steps": (EDIT, "self_replace_end", 1.5, "fractions of the steps"),
    "a weight without a number": (EDIT, "equalizer", "circle", "'circle'"),
    "a weight of a word of the other prompt": (EDIT, "equalizer", "red: 2", "'red' is not in the prompt 'a blue"),
    "a window of a word of the other prompt": (EDIT, "word_windows", "red: 0.5", "'red' is not in the prompt 'a blue"),
    "a mask of a word that is not there": (EDIT, "blend_words", "cat", "'cat' is not in the prompt 'a red"),
    "a counterpart that is not there": (EDIT, "blend_edit_words", "cat", "'cat' is not in the prompt 'a blue"),
    "a word to subtract that is not there": (EDIT, "subtract_words", "cat", "'cat' is not in the prompt 'a red"),
    "unequal word counts": (EDIT, "edit_prompt", "a big blue circle on the grass", "source has 6, edit has 7"),
    "brackets": (EDIT, "edit_prompt", "a (blue circle:0.5) on the grass", "brackets"),
    "brackets in the negative prompt": (EDIT, "negative_prompt", "(bad)", "brackets"),
    "spaces for an edit prompt": (EDIT, "edit_prompt", "  ", "edit_prompt is empty"),
    "line ends for an edit prompt": (EDIT, "edit_prompt", "\n\r\n", "edit_prompt is empty"),
    "a wide space for an edit prompt": (EDIT, "edit_prompt", "\u3000", "edit_prompt is empty"),
    "no source prompt": (INVERT, "source_prompt", "", "source_prompt is empty"),
    "line ends for a source prompt": (INVERT, "source_prompt", "\n \n", "source_prompt is empty"),
    "more words than fit": (INVERT, "source_prompt", "a " * 80, "80 words"),
}
SHOWN = {LOAD: "#3 Load Stable Diffusion for Video", INVERT: "#7 DDIM Inversion", EDIT: "#8 Prompt-to-Prompt Edit"}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_is_one_problem_at_its_input(problems, name):
    node, widget, value, said = MISTAKES[name]
    ((label, place, text),) = problems({(node, widget): value})
    assert (label, place) == (SHOWN[node], widget) and said in text


def test_the_template_itself_has_none(problems):
    assert problems({}) == []


def test_two_mistakes_of_a_node_are_two_problems(problems):
    found = problems({(EDIT, "equalizer"): "circle", (EDIT, "subtract_words"): "cat"})
    assert sorted(place for _, place, _ in found) == ["equalizer", "subtract_words"]


@pytest.mark.parametrize(
    "text", ["a \\(blue\\) circle on the grass", "a (blue:1.0) circle on the grass", "a ) blue ( on it"]
)
def test_brackets_that_some_text_encoder_takes_are_left_to_it(text):
    assert len(read_words(text, "edit prompt").words) == len(text.split())


def test_every_line_of_several_edit_prompts_is_checked(problems):
    lines = {"class_type": "FateZero_EditPrompts", "inputs": {"prompts": "a blue circle on the grass\n\na blue circle"}}
    ((label, place, text),) = problems({(EDIT, "edit_prompt"): [ADDED, 0]}, {ADDED: lines})
    assert (label, place) == (SHOWN[EDIT], "edit_prompt") and "source has 6, edit has 3" in text


def test_a_refined_edit_may_have_no_source_prompt(problems):
    """An inversion under no words is a known technique; only what reads words of it needs some."""
    bare = {"blend_words": "", "blend_edit_words": "", "blend_latents": False, "mode": "refine"}
    values = {(EDIT, name): value for name, value in bare.items()}
    assert problems({(INVERT, "source_prompt"): "", **values}) == []
    heat = {"words": "", "from_step": 0.0, "to_step": 1.0, "picture_height": 64, "resolution": "auto"}
    nodes = {
        ADDED: {"class_type": "FateZero_WordHeatMaps", "inputs": {"controller": [INVERT, 0], **heat}},
        "31": {"class_type": "PreviewImage", "inputs": {"images": [ADDED, 0]}},
    }
    ((label, place, _),) = problems({(INVERT, "source_prompt"): "", **values}, nodes)
    assert (label, place) == (SHOWN[INVERT], "source_prompt")


def test_words_of_a_linked_mask_and_prompt_are_known_only_when_they_run(problems):
    nodes = {ADDED: {"class_type": "FateZero_ShowWords", "inputs": {"clip": [LOAD, 1], "prompt": "a cat"}}}
    assert problems({(EDIT, "edit_prompt"): [ADDED, 0], (EDIT, "blend_edit_words"): "cat"}, nodes) == []
