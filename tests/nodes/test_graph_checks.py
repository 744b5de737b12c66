"""What queue-time checks read from the other nodes of a graph, and how often."""

import pytest

from fatezero_ext.cli.node_pack import load_pack

EDIT = {"clip": ["3", 1], "mode": "replace", "edit_prompt": "a cat", "negative_prompt": "", "blend_words": ""}


def inversion_with(**readers):
    """An inversion with an empty source prompt, and nodes that read it."""
    graph = {"7": {"class_type": "FateZero_DDIMInvert", "inputs": {"source_prompt": "", "latent": ["6", 0]}}}
    return graph | readers


def edit(**widgets):
    return {"class_type": "FateZero_P2PEdit", "inputs": {"controller": ["7", 0], **EDIT, **widgets}}


def reader(of):
    return {"class_type": "VAEDecode", "inputs": {"samples": [of, 0]}}


@pytest.fixture(scope="module")
def verdict_on():
    """What DDIM Inversion says of its empty source prompt."""
    verdicts, invert = load_pack("nodes.checking.verdicts"), load_pack("nodes.method.invert")
    io = load_pack("nodes.api").io

    def ask(graph, node_id="7"):
        hidden = {"hidden": io.HiddenHolder(unique_id=node_id)}
        with verdicts.validating({"prompt": graph}):
            return type("DDIMInvert", (invert.DDIMInvert,), hidden).validate_inputs("")

    return ask


def test_an_edit_that_something_reads_needs_the_source_prompt(verdict_on):
    assert "source_prompt is empty" in verdict_on(inversion_with(**{"8": edit(), "9": reader("8")}))


@pytest.mark.parametrize("node", [edit(), {"class_type": "FateZero_WordHeatMaps", "inputs": {"controller": ["7", 0]}}])
def test_a_node_that_nothing_reads_needs_no_source_prompt(verdict_on, node):
    assert verdict_on(inversion_with(**{"8": edit(mode="refine"), "9": reader("8"), "20": node})) is True


@pytest.mark.parametrize(("words", "needed"), [("", True), ("cat", True), ("cat, +dog", True), ("+dog, +cat", False)])
def test_heat_of_words_with_a_plus_needs_no_source_prompt(verdict_on, words, needed):
    heats = {"class_type": "FateZero_WordHeatMaps", "inputs": {"controller": ["7", 0], "words": words}}
    assert (verdict_on(inversion_with(**{"8": heats, "9": reader("8")})) is True) is not needed


def test_an_edit_of_the_kind_auto_needs_no_source_prompt(verdict_on):
    assert verdict_on(inversion_with(**{"8": edit(kind="auto"), "9": reader("8")})) is True
    assert "source_prompt is empty" in verdict_on(inversion_with(**{"8": edit(kind="colour"), "9": reader("8")}))


@pytest.mark.parametrize("odd", [None, 3, {}, {"inputs": None}, {"inputs": [["7", 0]]}])
def test_graphs_that_are_none_are_looked_through(verdict_on, odd):
    assert verdict_on(inversion_with(**{"8": odd})) is True


def test_the_graph_is_not_gone_through_for_every_inversion(monkeypatch):
    texts, invert, verdicts = (
        load_pack(f"nodes.{name}") for name in ("checking.graph_texts", "method.invert", "checking.verdicts")
    )
    graph, counted, link_of = {}, [], texts.link_of
    for i in range(200):
        graph[f"7{i}"] = {"class_type": "FateZero_DDIMInvert", "inputs": {"source_prompt": "", "latent": ["6", 0]}}
        graph[f"8{i}"] = edit(controller=[f"7{i}", 0], mode="refine")
        graph[f"9{i}"] = reader(f"8{i}")
    monkeypatch.setattr(texts, "link_of", lambda value: counted.append(1) or link_of(value))
    with verdicts.validating({"prompt": graph}):
        assert not any(invert._words_are_read(f"7{i}") for i in range(200))
    assert len(counted) < 20 * len(graph)


def test_the_lines_of_edit_prompts_are_read_once_and_only_so_many(monkeypatch):
    checks, counted = load_pack("nodes.method.edit_checks"), []
    read_words = checks.read_words
    monkeypatch.setattr(checks, "read_words", lambda text, name: counted.append(text) or read_words(text, name))
    lines = [f"a cat number {i}" for i in range(2 * checks.MOST_EDITS)]
    for _ in range(3):
        assert checks.edit_mistakes({"mode": "refine"}, [*lines, *lines]) == {}
    assert len([text for text in counted if text]) <= checks.MOST_EDITS


def test_phrases_of_an_edit_are_looked_for_only_so_often(monkeypatch):
    checks, counted = load_pack("nodes.method.edit_checks"), []
    find = checks.Prompt.find
    monkeypatch.setattr(checks.Prompt, "find", lambda self, *asked: counted.append(1) or find(self, *asked))
    lines, phrases = [f"a cat number {i}" for i in range(checks.MOST_EDITS)], ",".join(["a", "cat"] * 5000)
    assert checks.edit_mistakes({"mode": "refine", "blend_edit_words": phrases}, lines) == {}
    assert checks.edit_mistakes({"mode": "refine", "blend_words": phrases}, (), "a cat") == {}
    assert counted and len(counted) <= 2 * checks.MOST_PHRASES


def test_the_first_of_many_missing_phrases_is_told(monkeypatch):
    checks, counted = load_pack("nodes.method.edit_checks"), []
    find = checks.Prompt.find
    monkeypatch.setattr(checks.Prompt, "find", lambda self, *asked: counted.append(1) or find(self, *asked))
    found = checks.edit_mistakes({"mode": "refine", "blend_words": "cat, boat, ship, car"}, (), "a cat")
    assert "'boat' is not in the prompt" in found["blend_words"] and len(counted) == 2


@pytest.mark.parametrize("widget", ["blend_words", "subtract_words"])
def test_a_plus_lets_a_word_in_that_the_source_prompt_does_not_have(widget):
    checks = load_pack("nodes.method.edit_checks")
    for phrases in ("+dog", "cat, +the dog"):
        assert checks.edit_mistakes({"mode": "refine", widget: phrases}, (), "a cat") == {}
    for phrases, said in (("dog", "write +dog"), ("+", "a plus without words"), ("+cat, dog", "'dog' is not in")):
        assert said in checks.edit_mistakes({"mode": "refine", widget: phrases}, (), "a cat")[widget]


@pytest.mark.parametrize(("words", "needed"), [("+dog", False), ("cat, +dog", True), ("", False)])
def test_an_edit_whose_words_all_have_a_plus_needs_no_source_prompt(words, needed):
    checks = load_pack("nodes.method.edit_checks")
    assert checks.needs_source_words({"mode": "refine", "blend_words": words}) is needed
