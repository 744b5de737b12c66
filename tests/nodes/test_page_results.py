"""What nodes said and showed stays with their workflow (web/run_results.js): run by Node.js where there is one."""

import json

import pytest

from tests.nodes.test_page_words import NODE, WEB, run_script

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")

PAGE = """
const kept = new Map()
globalThis.sessionStorage = { getItem: key => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text) }
const listeners = {}
const [A, B] = [{ name: "A" }, { name: "B" }]
const graph = { id: "template", nodes: [{}] }
const app = { graph, rootGraph: graph, extensionManager: { workflow: { activeWorkflow: A } } }
const api = {
  addEventListener: (name, heard) => (listeners[name] ??= []).push(heard),
  async queuePrompt(number, data) { sent[data.id] = data.output; await settled(); return { prompt_id: data.id } },
}
const sent = {}
const made = {} // films in ComfyUI's cache
const warned = []
console.warn = (...words) => warned.push(words.join(" "))
const settled = () => new Promise(done => setTimeout(done, 5))
const send = (name, detail) => listeners[name]?.forEach(heard => heard({ detail }))
const film = (prompt_id, node, display_node, filename) =>
  send("executed", { node, display_node, output: { fatezero_film: [{ filename }] }, prompt_id })
let typed = "?"
module.followResults(app, api, { stateOf: (id, kind) => `${kind} ${typed}`, said() {} })
const look = workflow => (app.extensionManager.workflow.activeWorkflow = workflow)
const prompt = (words, clip = "bunny") => ({
  1: { class_type: "LoadVideo", inputs: { file: clip } },
  4: { class_type: "FateZero_VideoEdit", inputs: { video: ["1", 0], edit_prompt: words } },
  5: { class_type: "FateZero_P2PEdit", inputs: { video: ["1", 0], edit_prompt: words } },
  6: { class_type: "FateZero_PrepareFrames", inputs: { video: ["1", 0] } },
  9: { class_type: "SaveVideo", inputs: { video: ["4", 0] } },
})
const queue = (id, words, clip) => ((typed = words), api.queuePrompt(0, { id, output: prompt(words, clip) }))
/**
 * All messages of a run whose nodes say `said`, by their id; the others are cached, and as in newer ComfyUI
 * the films of nodes that show one while they run are sent again. missed: nothing comes before the first step of a node
 */
async function run(id, said, missed = false) {
  const executed = (...given) => film(id, ...given)
  const filmOf = node => JSON.stringify([sent[id]?.[node], sent[id]?.[1]])
  if (!missed) send("execution_start", { prompt_id: id })
  const others = ["1", "4", "5", "6", "9"].filter(each => !(each in said))
  if (!missed) send("execution_cached", { nodes: others, prompt_id: id })
  for (const [node, text] of Object.entries(said)) {
    send("executing", node)
    send("progress_state", { prompt_id: id, nodes: {} })
    for (const each of [text].flat()) if (each) send("progress_text", { nodeId: node, text: each })
    const last = [text].flat().at(-1)
    if (node === "4") {
      send("executing", node) // nodes in its place are shown at it
      executed("4.0.0.compare", "4", last)
    }
    if (node === "5") executed("5", "5", (made[filmOf("5")] = last))
  }
  if (others.includes("5") && made[filmOf("5")]) executed("5", "5", made[filmOf("5")])
  send("execution_success", { prompt_id: id })
  send("executing", undefined)
  await settled()
}
const stateOf = (id, kind) => `${kind} ${typed}`
const now = (page = module) => Object.fromEntries(page.resultsShown(app, stateOf).map(result =>
  [result.id, [...result.remarks, ...result.choices, ...(page.filmOf(result) ?? []).map(film => film.filename)]]))
/** The page's script after a reload: it has forgotten all but what the browser keeps. */
async function loadedAnew() {
  for (const name of Object.keys(listeners)) delete listeners[name]
  const page = await import(`${address}?${Math.random()}`)
  page.followResults(app, api, { stateOf, said() {} })
  return page
}
const seen = []
"""


def after(scenario):
    """What the results of the workflow that is looked at are wherever the scenario looks at them, by node."""
    address = f"const address = {json.dumps((WEB / 'run_results.js').as_uri())}\n"
    *found, warned = run_script(
        "run_results.js", f"{address}{PAGE}{scenario}\nconsole.log(JSON.stringify([...seen, warned]))"
    )
    assert warned == []
    return found


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
        look({}); const page = await loadedAnew()
        seen.push(now(page)); typed = "a cat"; seen.push(now(page))
        graph.id = "another"; seen.push(now(page))
        """
    )
    assert found == [{}, {"4": ["A", "A"]}, {}]


def test_a_node_from_the_cache_whose_film_is_sent_again_keeps_its_lines_and_its_place_also_after_a_reload():
    lines = ["\u26a0 The mask is black.", "Edit of 8 frames.", "Edit of 8 frames."]
    found = after(
        """
        const said = ["⚠ The mask is black.", "Edit of 8 frames."]
        await queue("p", "a cat"); await run("p", { 5: said, 6: "Frames." })
        await queue("q", "a cat"); await run("q", { 9: "" })
        seen.push([...module.resultsNow(app)].map(([id]) => id), now()[5])
        look({}); const page = await loadedAnew(); seen.push(now(page)[5])
        await queue("r", "a cat"); await run("r", {}); seen.push(now(page)[5])
        """
    )
    assert found == [["5", "6"], lines, lines, lines]


def test_of_equal_nodes_the_one_whose_film_comes_from_the_cache_has_the_others_lines():
    found = after(
        """
        const output = { 5: prompt("a cat")[5], 25: prompt("a cat")[5], 1: prompt("a cat")[1] }
        await api.queuePrompt(0, { id: "p", output })
        send("execution_start", { prompt_id: "p" }); send("execution_cached", { nodes: [], prompt_id: "p" })
        send("executing", "5"); send("progress_text", { nodeId: "5", text: "A" }); film("p", "5", "5", "F")
        film("p", "25", "25", "F")
        send("execution_success", { prompt_id: "p" }); await settled(); seen.push(now())
        """
    )
    assert found == [{"5": ["A", "F"], "25": ["A", "F"]}]


@pytest.mark.parametrize("sent_again", [True, False])
def test_where_a_node_inside_is_cached_the_comparison_is_shown_and_the_remark_from_inside_stays(sent_again):
    found = after(
        """
        const inner = (id, part, file) => film(id, `4.0.0.${part}`, "4", file)
        const part = async (id, own, after) => {
          await queue(id, "a cat"); send("execution_start", { prompt_id: id }); send("executing", "4")
          send("progress_text", { nodeId: "4", text: own }); after()
          send("execution_success", { prompt_id: id }); await settled(); seen.push(now()[4])
        }
        const black = () => send("progress_text", { nodeId: "4", text: "⚠ Short.\\n⚠ Black.\\nOne." })
        await part("p", "⚠ Short.\\nOne.", () => { black(); inner("p", "edit", "MASK"); inner("p", "compare", "BOTH") })
        await part("q", "Two.", () => { inner("q", "compare", "BOTH 2"); SENT inner("q", "edit", "MASK") })
        await part("r", "Two.", () => { inner("r", "edit", "MASK 2"); inner("r", "compare", "BOTH 3") })
        """.replace("SENT", "" if sent_again else "false &&")
    )
    assert found == [
        ["\u26a0 Short.", "\u26a0 Black.", "One.", "BOTH"],
        ["\u26a0 Black.", "Two.", "BOTH 2"],
        ["Two.", "BOTH 3"],
    ]


@pytest.mark.parametrize("told", ["", 'send("reconnected")'])
def test_a_run_whose_start_was_missed_is_not_taken_for_the_run_before(told):
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 4: "A" })
        await queue("q", "a dog"); send("execution_start", { prompt_id: "q" }); TOLD
        await queue("r", "a cow"); look(B); await run("r", { 4: "R" }, true); seen.push(now())
        look(A); seen.push(now()[4])
        await queue("s", "a dog"); await run("s", {}); seen.push(now()[4] ?? "nothing")
        await queue("t", "a cat"); await run("t", {}); seen.push(now()[4])
        """.replace("TOLD", told)
    )
    assert found == [{}, ["R", "R"], "nothing", ["A", "A"]]


def test_of_a_run_in_whose_middle_the_page_is_loaded_anew_all_is_kept():
    found = after(
        """
        await queue("p", "a cat"); send("execution_start", { prompt_id: "p" }); send("executing", "5")
        send("progress_text", { nodeId: "5", text: "⚠ Short." }); await settled()
        app.graph = undefined // the page has made no graph yet
        const early = () => console.warn("too early")
        Object.defineProperty(app, "rootGraph", { get: () => app.graph ?? early() })
        const page = await loadedAnew()
        seen.push(now(page))
        send("progress_state", { prompt_id: "p" })
        film("p", "5", "5", "F")
        await settled(); app.graph = graph; look({}); seen.push(now(page))
        send("execution_success", { prompt_id: "p" }); await settled(); look({}); seen.push(now(page))
        const again = await loadedAnew(); look({}); seen.push(now(again))
        """
    )
    assert found == [{}, *[{"5": ["\u26a0 Short.", "F"]}] * 3]


def test_a_run_of_which_nothing_is_known_waits_for_a_workflow_to_be_opened():
    found = after(
        """
        look(null); send("execution_start", { prompt_id: "x" }); await settled(); seen.push(now())
        look(A); send("progress_state", { prompt_id: "x" }); send("progress_text", { nodeId: "4", text: "A" })
        await settled(); seen.push(now())
        """
    )
    assert found == [{}, {"4": ["A"]}]


def test_a_workflow_whose_graph_gets_another_id_keeps_its_results_and_a_cleared_one_has_none():
    found = after(
        """
        const none = "00000000-0000-0000-0000-000000000000"
        graph.id = none
        await queue("p", "a cat"); await run("p", { 4: "A" }); typed = "a dog"
        graph.id = "made by undo"; seen.push(now())
        const page = await loadedAnew(); look({}); typed = "a cat"; seen.push(now(page))
        look(A); Object.assign(graph, { id: none, nodes: [] }); typed = "a dog"; seen.push(now())
        graph.nodes = [{}]; seen.push(now())
        """
    )
    assert found == [{"4": ["A", "A"]}, {"4": ["A", "A"]}, {}, {}]


def test_of_two_runs_with_the_same_words_the_cached_is_the_later():
    found = after(
        """
        await queue("p", "a cat"); await run("p", { 4: "of the first file" })
        look(B); await queue("q", "a cat"); await run("q", { 4: "of the file after it" })
        look(A); await queue("r", "a cat"); await run("r", {}); seen.push(now()[4])
        """
    )
    assert found == [["of the file after it"] * 2]


def test_the_prompts_of_a_night_stay_with_their_workflow():
    found = after(
        """
        for (let i = 0; i < 151; i++) { await queue(`n${i}`, `words ${i}`) }
        look(B); await run("n0", { 4: "A" }); seen.push(now()); look(A); seen.push(now())
        """
    )
    assert found == [{}, {"4": ["A", "A"]}]


def test_large_values_before_a_node_are_not_kept():
    found = after(
        """
        await queue("p", "a cat", "x".repeat(1000000)); typed = "y".repeat(1000000); await run("p", { 4: "A" })
        seen.push(kept.get("fatezero runs").length < 2000, now())
        """
    )
    assert found == [True, {"4": ["A", "A"]}]


@pytest.mark.parametrize("answer", ["{ node_errors: {} }", "undefined", "Promise.reject(new Error('refused'))"])
def test_the_pages_own_answer_of_queueing_is_handed_on(answer):
    found = run_script(
        "run_results.js",
        f"""
        const api = {{ addEventListener() {{}}, queuePrompt: (...given) => (api.given = given, {answer}) }}
        console.warn = () => undefined
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
