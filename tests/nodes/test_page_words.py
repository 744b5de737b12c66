"""The page's word lists (web/word_lists.js) mean what the nodes read: run by Node.js where there is one."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from fatezero_ext.cli.node_pack import load_pack
from fatezero_ext.errors import PromptError
from fatezero_ext.prompts.words_alone import read_words

WEB = Path(__file__).parents[2] / "web"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")
LISTS = load_pack("nodes.text_lists")
PHRASES, WEIGHTS = {"auto": True, "marked": True}, {"withValues": True, "value": "2"}


def answers(*calls):
    """Results of functions of word_lists.js, each called as (name, arguments)."""
    script = f"""
        import * as lists from {json.dumps((WEB / "word_lists.js").as_uri())}
        const calls = JSON.parse(await new Response(process.stdin).text())
        console.log(JSON.stringify(calls.map(([name, given]) => lists[name](...given))))
    """
    command = [NODE, "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", sorted(WEB.glob("*.js")), ids=lambda path: path.name)
def test_a_script_of_the_page_is_a_sound_module(path):
    checked = subprocess.run([NODE, "--input-type=module", "--check"], input=path.read_bytes(), capture_output=True)
    assert checked.returncode == 0, checked.stderr.decode()


CLICKS = [
    ("", "red", PHRASES, "red"),
    ("circle", "red", PHRASES, "circle, red"),
    ("circle, red", "red", PHRASES, "circle"),
    (" circle ,\nred", "circle", PHRASES, "red"),
    ("old red car", "red", PHRASES, "old, car"),  # a phrase must stand in a row
    ("red", "red", PHRASES, ""),
    ("auto", "red", PHRASES, "red"),
    ("", "auto", PHRASES, "auto,"),  # alone the word would be a choice of the program
    ("+red shadow", "red", PHRASES, "+red shadow, red"),
    ("Car", "car", PHRASES, ""),
    ("", "blue", WEIGHTS, "blue: 2"),
    ("old: 0.5, blue: 3", "blue", WEIGHTS, "old: 0.5"),
    ("big blue car: 3", "blue", WEIGHTS, "big: 3, car: 3"),
    ("half typed", "blue", WEIGHTS, "half typed, blue: 2"),
]


def test_a_click_adds_a_word_in_the_widgets_own_way_and_takes_it_out():
    found = answers(*[("toggled", [text, word, kind]) for text, word, kind, _ in CLICKS])
    assert found == [wanted for *_, wanted in CLICKS]
    for (_, _, kind, _), text in zip(CLICKS, found, strict=True):
        if kind is WEIGHTS and "half" not in text:
            LISTS.parse_weights(text, "equalizer")


def test_words_to_click_are_those_that_all_prompts_share_and_a_list_can_hold():
    prompts = ['a "red" car, and a red,blue one', "A RED car and one"]
    (words,) = answers(("wordsOf", [prompts]))
    assert words == ["a", "red", "car", "and", "one"]


def test_entries_that_are_no_words_are_told_from_those_that_are_looked_for():
    text, prompts = "circle, big cat, +shadow, GRASS", ["a red circle on the grass."]
    found = answers(("outside", [text, prompts, PHRASES]), ("outside", [text, prompts, {}]))
    assert found[0] == [{"phrase": "big cat", "looked": False}, {"phrase": "+shadow", "looked": True}]
    assert not found[1][1]["looked"]
    assert answers(("without", [text, "big cat", PHRASES])) == ["circle, +shadow, GRASS"]


def test_lists_and_words_are_read_as_the_nodes_read_them():
    """Random texts of few words, marks and spaces: entries, values and what stands in a prompt agree with Python."""
    draw = random.Random(5)
    atoms = ["red", "Red", "car", "car,", "(old)", "a:b", "+cat", "2", ":", ",", "\n", "\t", "\x85", "\x1c", '"so"']
    texts = [
        "".join(draw.choice(atoms) + draw.choice(["", " ", "  "]) for _ in range(draw.randint(0, 7)))
        for _ in range(400)
    ]
    prompts = [" ".join(draw.choices(["red", "Red", "car.", "old", "+cat", '"so"'], k=5)) for _ in texts]
    phrases = [" ".join(draw.choices(["red", "RED", "car", "old", "+cat", "so"], k=draw.randint(1, 2))) for _ in texts]
    read = answers(*[("read", [text, {}]) for text in texts])
    assert [[entry["phrase"] for entry in entries] for entries in read] == [list(LISTS.parse_phrases(t)) for t in texts]
    weights = answers(*[("read", [text, WEIGHTS]) for text in texts])
    for text, entries in zip(texts, weights, strict=True):
        try:
            wanted = LISTS.parse_weights(text, "equalizer")
        except ValueError:
            continue
        assert {entry["phrase"]: float(entry["value"]) for entry in entries} == wanted
    stands = answers(*[("isIn", [phrase, prompt]) for phrase, prompt in zip(phrases, prompts, strict=True)])
    assert stands == [_is_found(phrase, prompt) for phrase, prompt in zip(phrases, prompts, strict=True)]


def _is_found(phrase, prompt):
    try:
        return bool(read_words(prompt, "prompt").find(phrase))
    except PromptError:
        return False
