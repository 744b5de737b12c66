"""The page's word lists (web/word_lists.js) mean what the nodes read: run by Node.js where there is one."""

import json
import random
import re
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
    return run_on_page(
        "word_lists.js", "JSON.parse(await text()).map(([name, given]) => module[name](...given))", json.dumps(calls)
    )


def run_on_page(name, expression, given=""):
    """The value of a JavaScript expression on the exports of a script of the page; `text()` gives what is `given`."""
    reading = "const text = () => new Response(process.stdin).text()"
    return run_script(name, f"{reading}\nconsole.log(JSON.stringify({expression}))", given)


def run_script(name, script, given=""):
    """What a script prints as JSON; `module` has the exports of a script of the page."""
    script = f"import * as module from {json.dumps((WEB / name).as_uri())}\n{script}"
    command = [NODE, "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
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


def test_a_zero_has_a_word_on_the_page_where_it_leaves_a_choice_to_the_program():
    words = run_on_page("zero_words.js", "module.ZERO")
    nodes = load_pack("nodes.headless.schemas.registry").pack_node_types()
    found = {
        (name, widget.id): widget
        for name, node in nodes.items()
        for widget in node.schema.inputs
        if name.startswith("FateZero_") and " 0: " in f" {getattr(widget, 'tooltip', '')}"
    }
    named = {(node, widget) for node, widgets in words.items() for widget in widgets}
    assert named <= set(found) and all(found[each].min == 0 for each in named)
    assert {each for each, widget in found.items() if widget.default == 0} <= named


GRAPH = """
    const inner = { id: "inner", getLink: id => inner.links[id], nodes: [] }
    const root = { id: "root", getLink: id => root.links[id], nodes: [], subgraphs: new Map([["inner", inner]]) }
    root.rootGraph = inner.rootGraph = root
    for (const graph of [root, inner]) graph.getNodeById = id => graph.nodes.find(node => node.id == id)
    const node = (graph, id, type, inputs, widgets = {}, more = {}) => {
        const made = { graph, id, type, ...more }
        made.widgets = Object.entries(widgets).map(([name, value]) => ({ name, value }))
        made.inputs = Object.entries(inputs).map(([name, link]) => ({ name, link, widget: { name } }))
        graph.nodes.push(made)
        return made
    }
    const link = (origin_id, origin_slot = 0) => ({ origin_id, origin_slot })
    inner.outputs = [{ linkIds: [4] }]
    root.links = { 1: link(1), 2: link(2), 3: link(3), 9: link(9) }
    inner.links = { 4: link(7), 5: link(-10, 0), 6: link(-10, 1) }
    node(root, 1, "PrimitiveString", {}, { value: "a red car" })
    node(root, 2, "Reroute", { "": 1 })
    const own = { edit_prompt: "a blue car" }
    node(root, 3, "inner", { text: 2, edit_prompt: null }, own, { subgraph: inner })
    node(inner, 7, "FateZero_DDIMInvert", { source_prompt: 5 }, { source_prompt: "unused" })
    const inside = node(inner, 8, "FateZero_P2PEdit", { controller: 4, edit_prompt: 6 }, { edit_prompt: "unused" })
    const outside = node(root, 4, "FateZero_P2PEdit", { controller: 3, edit_prompt: null }, { edit_prompt: "a cat" })
    node(root, 9, "Reroute", { "": 9 })
    const lost = node(root, 5, "FateZero_P2PEdit", { controller: 9, edit_prompt: 9 }, { edit_prompt: "unused" })
    const typed = node(root, 6, "FateZero_VideoEdit", {}, { source_prompt: "a fox", edit_prompt: "a red fox" })
    inner.links[4] = link(7)
"""


def test_prompts_are_known_through_reroutes_and_the_walls_of_subgraphs():
    asked = "[inside, outside, lost, typed].map(each => ['source', 'edit'].map(which => module.promptsOf(each, which)))"
    found = run_on_page("prompt_texts.js", f"(() => {{ {GRAPH}; return {asked} }})()")
    assert found == [
        [["a red car"], ["a blue car"]],  # inside a subgraph, prompts on its box and before it
        [["a red car"], ["a cat"]],  # behind an inversion in a subgraph
        [[], []],  # reroutes in a circle
        [["a fox"], ["a red fox"]],
    ]


def test_the_pages_own_words_are_there_in_chinese_and_keep_the_names_of_widgets():
    sources = {path.name: path.read_text() for path in WEB.glob("*.js")}
    written = {text for source in sources.values() for text in re.findall(r'(?:told\(|title: )"([^"]+)"', source)}
    assert len(written) > 9
    told = run_script(
        "page_words.js",
        f"""
        const told = {json.dumps(sorted(written))}.map(text => [text, module.told(text)])
        module.speak(() => "zh")
        const list = {{ list: "blend_words {{list}}", label: "$&" }}
        console.log(JSON.stringify([told, told.map(([text]) => module.told(text, list)), module.told("a cat")]))
        module.speak(() => undefined)
        """,
    )
    english, chinese, other = told
    assert all(text == same for text, same in english) and other == "a cat"
    for (text, _), translated in zip(english, chinese, strict=True):
        assert any("\u4e00" <= letter <= "\u9fff" for letter in translated), text
        assert ("{list}" not in text or "blend_words {list}" in translated) and "{label}" not in translated
