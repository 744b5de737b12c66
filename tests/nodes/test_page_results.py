"""What nodes said and showed stays with their workflow (web/run_results.js): run by Node.js where there is one."""

import pytest

from tests.nodes.test_page_words import NODE, run_script

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")

PAGE = """
const kept = new Map()
globalThis.sessionStorage = { getItem: key => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text) }
const listeners = {}
const [A, B] = [{ name: "A" }, { name: "B" }]
const app = { rootGraph: { id: "template" }, extensionManager: { workflow: { activeWorkflow: A } } }
const api = {
  addEventListener: (name, heard) => (listeners[name] ??= []).push(heard),
  async queuePrompt(number, data) { await settled(); return { prompt_id: data.id } },
}
const settled = () => new Promise(done => setTimeout(done, 5))
const send = (name, detail) => listeners[name]?.forEach(heard => heard({ detail }))
let typed = "?"
module.followResults(app, api, { stateOf: (id, kind) => `${kind} ${typed}`, said() {} })
const look = workflow => (app.extensionManager.workflow.activeWorkflow = workflow)
const prompt = (words, clip = "bunny") => ({
  1: { class_type: "LoadVideo", inputs: { file: clip } },
  4: { class_type: "FateZero_VideoEdit", inputs: { video: ["1", 0], edit_prompt: words } },
  6: { class_type: "FateZero_PrepareFrames", inputs: { video: ["1", 0] } },
  9: { class_type: "SaveVideo", inputs: { video: ["4", 0] } },
})
const queue = (id, words, clip) => ((typed = words), api.queuePrompt(0, { id, output: prompt(words, clip) }))
/** All messages of a run whose nodes say `said`, by their id; the others are cached. */
async function run(id, said) {
  send("execution_start", { prompt_id: id })
  send("execution_cached", { nodes: ["1", "4", "6", "9"].filter(each => !(each in said)), prompt_id: id })
  for (const [node, text] of Object.entries(said)) {
    send("executing", node)
    if (text) send("progress_text", { nodeId: node, text })
    if (node === "4") {
      send("executing", node) // nodes in its place are shown at it
      send("executed", { node: "4.0.0.compare", display_node: "4", output: { fatezero_film: [{ filename: text }] } })
    }
  }
  send("execution_success", { prompt_id: id })
  send("executing", undefined)
  await settled()
}
const now = () => Object.fromEntries([...module.resultsNow(app)].map(([id, { remarks, choices, films, former }]) =>
  [id, [...remarks, ...choices, ...(films ?? former ?? []).map(film => film.filename)]]))
const seen = []
"""


def after(scenario):
    """What the results of the workflow that is looked at are wherever the scenario looks at them, by node."""
    return run_script("run_results.js", f"{PAGE}{scenario}\nconsole.log(JSON.stringify(seen))")


def test_a_remark_goes_when_its_node_runs_again_without_it_and_stays_where_the_node_does_not_run():
    short = "\u26a0 The clip is short."
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 4: "A", 6: "⚠ The clip is short." }); seen.push(now())
        await queue("q", "a cat"); await run("q", { 9: "" }); seen.push(now())
        await queue("r", "a dog"); await run("r", { 4: "B" }); seen.push(now())
        await queue("s", "a dog"); await run("s", { 4: "B", 6: "" }); seen.push(now())
        """
    )
    assert [each["6"] for each in found] == [[short], [short], [short], []]


def test_what_comes_from_the_cache_shows_what_was_said_and_shown_when_it_was_made():
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 4: "A" })
        await queue("q", "a dog"); await run("q", { 4: "B" }); seen.push(now()[4])
        await queue("r", "a cat"); await run("r", {}); seen.push(now()[4])
        await queue("s", "a cat", "jeep"); await run("s", { 4: "C" }); seen.push(now()[4])
        await queue("t", "a cat"); await run("t", {}); seen.push(now()[4])
        await queue("u", "a cow"); await run("u", {}); seen.push(now()[4] ?? "nothing")
        """
    )
    assert found == [["B", "B"], ["A", "A"], ["C", "C"], ["A", "A"], "nothing"]


def test_two_equal_nodes_of_which_one_is_run_show_the_same():
    found = after(
        """
        const twins = words => ({ ...prompt(words), 20: { class_type: "LoadVideo", inputs: { file: "bunny" } },
          24: { class_type: "FateZero_VideoEdit", inputs: { video: ["20", 0], edit_prompt: "a cat" } } })
        const both = async (id, words) => {
          await api.queuePrompt(0, { id, output: twins(words) })
          await run(id, { 4: words, ...(words === "a cat" ? {} : { 24: "B" }) })
          seen.push([now()[4], now()[24]])
        }
        await both("p", "a cat"); await both("q", "a dog")
        """
    )
    assert found == [[["a cat", "a cat"], ["a cat", "a cat"]], [["a dog", "a dog"], ["B"]]]


def test_a_run_is_of_the_workflow_it_was_queued_in_whatever_is_looked_at_and_whenever_its_answer_comes():
    found = after(
        """
        const answer = queue("p", "a cat"); await Promise.resolve(); look(B)
        await run("p", { 4: "A" }); await answer; seen.push(now())
        await queue("q", "a dog"); look(A); await run("q", { 4: "B" }); seen.push(now())
        look(B); seen.push(now())
        """
    )
    assert found == [{}, {"4": ["A", "A"]}, {"4": ["B", "B"]}]


def test_nodes_of_others_are_left_out_and_a_run_of_which_nothing_is_known_is_of_what_is_looked_at():
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 1: "Of core", 4: "A" }); seen.push(now())
        look(B); await run("unknown", { 4: "B" }); seen.push(now())
        """
    )
    assert found == [{"4": ["A", "A"]}, {"4": ["B", "B"]}]


def test_the_film_from_before_is_seen_until_another_comes_and_outlives_a_run_that_is_stopped():
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 4: "A" })
        await queue("q", "a dog"); send("execution_start", { prompt_id: "q" }); send("executing", "4")
        send("progress_text", { nodeId: "4", text: "B" }); await settled(); seen.push(now()[4])
        send("execution_interrupted", { prompt_id: "q" }); send("executing", undefined); await settled()
        seen.push(now()[4])
        """
    )
    assert found == [["B", "A"], ["B", "A"]]


def test_within_a_run_no_remark_is_lost_and_the_last_choices_count():
    found = after(
        """
        await queue("p", "a cat")
        send("execution_start", { prompt_id: "p" }); send("executing", "4")
        send("progress_text", { nodeId: "4", text: "⚠ One.\\n· More.\\nFirst." })
        send("progress_text", { nodeId: "4", text: "⚠ Two.\\nSecond." })
        await settled(); seen.push(now())
        """
    )
    assert found == [{"4": ["\u26a0 One.", "\u00b7 More.", "\u26a0 Two.", "Second."]}]


def test_what_outlives_a_reload_is_of_the_values_that_were_queued_not_of_those_that_are_typed_meanwhile():
    found = after(
        """
        await queue("p", "a cat"); typed = "a dog"; await run("p", { 4: "A" })
        look(B)
        seen.push(module.lost(app).map(({ id, state, choices }) => [id, state, choices]))
        module.recall(app, module.lost(app)[0]); seen.push(now(), module.lost(app))
        app.rootGraph.id = "another"; look({}); seen.push(module.lost(app))
        seen.push(JSON.parse(kept.get("fatezero results")).length)
        """
    )
    assert found == [[["4", "FateZero_VideoEdit a cat", ["A"]]], {"4": ["A", "A"]}, [], [], 1]


@pytest.mark.parametrize("answer", ["{ node_errors: {} }", "undefined", "Promise.reject(new Error('refused'))"])
def test_the_pages_own_answer_of_queueing_is_handed_on(answer):
    found = run_script(
        "run_results.js",
        f"""
        const api = {{ addEventListener() {{}}, queuePrompt: (...given) => (api.given = given, {answer}) }}
        module.followResults({{ rootGraph: {{ id: 1 }} }}, api, {{ stateOf() {{ throw new Error("none") }} }})
        const data = {{ output: {{ 4: {{ class_type: "FateZero_VideoEdit", inputs: {{}} }} }} }}
        const told = await api.queuePrompt(-1, data, {{ more: 1 }}).catch(error => error.message)
        console.log(JSON.stringify([api.given, told ?? null]))
        """,
    )
    data = {"output": {"4": {"class_type": "FateZero_VideoEdit", "inputs": {}}}}
    told = {"{ node_errors: {} }": {"node_errors": {}}, "undefined": None}.get(answer, "refused")
    assert found == [[-1, data, {"more": 1}], told]


def test_a_page_that_keeps_nothing_shows_what_is_said():
    found = after(
        """
        globalThis.sessionStorage = { getItem() { throw new Error() }, setItem() { throw new Error() } }
        delete api.queuePrompt
        await run("p", { 4: "A" }); seen.push(now())
        """
    )
    assert found == [{"4": ["A", "A"]}]
