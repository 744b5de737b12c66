"""A bypassed node hands on the input that the page hands on."""

import pytest

from fatezero_ext.cli.node_pack import load_pack

from .ui_documents import node, show, workflow


def bypassed(kinds, given, asking, slot=0, behind=()):
    """What feeds the input `asking` behind a bypassed node with inputs of these `kinds` and outputs `given`."""
    sources = [node(100 + i, "Number", (4,)) for i in range(len(kinds))]
    passed = node(9, "Passed", (), [(f"i{i}", 100 + i) for i in range(len(kinds))], given, mode=4)
    for socket, kind in zip(passed["inputs"], kinds, strict=True):
        socket["type"] = kind
    asks = [*behind, node(2, "Show", (), [("source", 8 if behind else 7)], ())]
    asks[-1]["inputs"][0]["type"] = asking
    links = [(100 + i, 100 + i, 0, 9, i) for i in range(len(kinds))]
    links += [(7, 9, slot, asks[0]["id"], 0)] + ([(8, asks[0]["id"], 0, 2, 0)] if behind else [])
    wiring = load_pack("nodes.headless.formats.ui_links").Wiring(workflow([*sources, passed, *asks], links))
    found = wiring.source(wiring.root, wiring.root.level.nodes["2"], 0)
    return int(found.node) - 100 if hasattr(found, "node") else found.reason


@pytest.mark.parametrize(
    ("kinds", "given", "asking", "slot", "handed"),
    [
        (["IMAGE,MASK"], ["*"], "IMAGE", 0, 0),
        (["IMAGE,MASK"], ["IMAGE"], "IMAGE", 0, 0),
        (["image"], ["IMAGE"], "IMAGE", 0, 0),
        (["*", "VAE", "IMAGE"], ["INT", "IMAGE"], "IMAGE", 1, 2),
        (["*", "VAE", "IMAGE"], ["IMAGE"], "IMAGE", 0, 0),
        (["VAE", "*"], ["IMAGE"], "IMAGE", 0, 1),
        (["LATENT", "VAE"], ["IMAGE", "IMAGE"], "*", 1, 1),
        (["LATENT", "VAE"], ["INT", "INT", "INT"], "*", 2, 0),
    ],
)
def test_the_input_is_chosen_by_the_type_that_is_asked_for(kinds, given, asking, slot, handed):
    assert bypassed(kinds, given, asking, slot) == handed


def test_a_reroute_asks_for_the_type_of_its_output(headless):
    reroute = node(3, "Reroute", (), [("", 7)], ["IMAGE"])
    reroute["inputs"][0]["type"] = "*"
    assert bypassed(["VAE", "IMAGE,MASK"], ["*"], "IMAGE", behind=[reroute]) == 1
    reroute["outputs"][0]["type"] = "*"
    assert bypassed(["VAE", "IMAGE"], ["IMAGE"], "IMAGE", behind=[reroute]) == 1


def test_a_bypassed_node_without_a_fitting_input_says_so(headless):
    assert "#9 is bypassed and has no IMAGE input to hand on" in bypassed(["VAE", "MASK"], ["IMAGE"], "IMAGE")


def test_the_inputs_of_a_bypassed_node_are_not_all_compared_for_every_link(headless, monkeypatch):
    scopes, compared = load_pack("nodes.headless.formats.ui_links"), []
    fits = scopes._fits
    monkeypatch.setattr(scopes, "_fits", lambda kind, other: compared.append(kind) or fits(kind, other))
    assert "no IMAGE input" in bypassed(["MASK"] * 500, ["IMAGE"], "IMAGE", slot=0)
    assert len(compared) < 200


def test_a_type_too_long_to_be_one_is_none(headless):
    ui_nodes = load_pack("nodes.headless.formats.ui_nodes")
    assert ui_nodes._kind({"type": "A," * 1000}) == "*" and ui_nodes._kind({"type": "IMAGE"}) == "IMAGE"


def test_an_output_gets_what_a_bypassed_node_of_either_type_takes(run):
    passed = node(9, "ResizeImageMaskNode", (), [("input", 1)], ["*"], mode=4)
    passed["inputs"][0]["type"] = "INT,MASK"
    document = workflow(
        [node(1, "Number", (3,)), passed, node(5, "Sum", (), [("a", 2)]), show(3, 3)],
        [(1, 1, 0, 9, 0), (2, 9, 0, 5, 0), (3, 5, 0, 3, 0)],
    )
    assert run(document)[0] == [["3"]]
