"""What web/said.js and web/film.js do where the page has no graph yet, and with odd values: run by Node.js."""

import json

import pytest

from tests.nodes.test_page_words import NODE, run_script

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")


def test_until_the_page_has_made_its_graph_nothing_is_looked_up_and_nothing_is_reported():
    found = run_script(
        "said.js",
        """
        const reported = []
        for (const name of ["warn", "error"]) console[name] = (...words) => reported.push(String(words))
        const app = { get rootGraph() { return (console.error("accessed before initialization"), undefined) } }
        const { tick } = module.followSaid(app, { addEventListener() {} })
        tick(); tick()
        console.log(JSON.stringify(reported))
        """,
    )
    assert found == []


def test_a_value_inside_a_box_before_a_node_is_one_of_those_that_its_result_depends_on():
    found = run_script(
        "said.js",
        """
        const kept = new Map()
        globalThis.sessionStorage = { getItem: key => kept.get(key), setItem: (key, text) => kept.set(key, text) }
        const file = { name: "file", value: "a.mp4" }
        const inner = { id: 8, subgraph: { nodes: [{ id: 9, widgets: [file] }] } }
        const box = { id: 1, inputs: [], subgraph: { nodes: [inner] } }
        const edit = { id: 4, comfyClass: "FateZero_P2PEdit", inputs: [{ name: "images", link: 1 }], widgets: [] }
        const graph = { id: "root", nodes: [box, edit], getLink: () => ({ origin_id: 1 }) }
        graph.getNodeById = id => graph.nodes.find(node => node.id == id)
        box.graph = edit.graph = graph
        module.addSaid(edit, () => ({}))
        const api = { addEventListener() {}, queuePrompt: async (number, { id }) => ({ prompt_id: id }) }
        module.followSaid({ graph, rootGraph: graph }, api)
        const output = { 4: { class_type: "FateZero_P2PEdit", inputs: {} } }
        for (const [id, value] of [["p", "a.mp4"], ["q", "b.mp4"], ["r", "a.mp4"]]) {
          file.value = value
          await api.queuePrompt(0, { id, output })
        }
        console.log(JSON.stringify(JSON.parse(kept.get("fatezero runs"))[1].map(([, { nodes }]) => nodes[4].state)))
        """,
    )
    assert found[0] == found[2] and found[0] and found[0] != found[1]


@pytest.mark.parametrize(("labels", "gone"), [(["source"], 1), (["source", "mask"], 0)])
def test_a_film_of_the_source_alone_leaves_no_empty_player(labels, gone):
    found = run_script(
        "film.js",
        f"""
        const element = () => ({{ dataset: {{}}, append() {{}}, replaceChildren() {{}}, addEventListener() {{}} }})
        globalThis.document = {{ createElement: element }}
        globalThis.Image = class {{}}
        let gone = 0
        const player = module.player(element(), () => "", () => gone++)
        player.show([{{ filename: "f", frames: 2, labels: {json.dumps(labels)} }}])
        console.log(gone)
        """,
    )
    assert found == gone
