// What nodes said and showed in the last run of each open workflow, by a node's id in a run. The page forgets it: a run goes
// on while another workflow is looked at, undo makes all nodes anew, and what ComfyUI has in its cache does not run again.

const MOST = 100 // of earlier results, and of prompts
const MOST_LASTING = 40 // of results that outlive a reload: a browser has 5 MB for all that a page keeps there
const PLACE = "fatezero results" // in this browser tab: no file grows by it
const REMARK = "⚠ " // marks of a remark and of its further lines, see nodes/host/comfy.py
const FURTHER = "· "

const opened = new WeakMap() // of each workflow, its results by id, the latest last
const earlier = new Map() // results by all that they depend on
const prompts = new Map() // what was queued, by the server's id
const waiting = new Set() // prompts of which the server's answer has not come yet
const received = new Map() // files of films that came while this page was open
let lasting // results that outlive a reload, by workflow, id and the node's values

export const rootOf = app => app.rootGraph ?? app.graph
const workflowOf = app => app.extensionManager?.workflow?.activeWorkflow ?? rootOf(app)

/** The results of the workflow that is looked at, by id. */
export function resultsNow(app) {
  const workflow = workflowOf(app)
  if (!opened.has(workflow)) opened.set(workflow, new Map())
  return opened.get(workflow)
}

/** Whether a prompt is known to be of another workflow than the one that is looked at. */
export const isElsewhere = (app, promptId) => (prompts.get(promptId)?.results ?? resultsNow(app)) !== resultsNow(app)

/** Whether a film came while this page was open, and is among the results of its workflow. */
export const isReceived = films => films.some(({ filename }) => received.has(filename))

function put(map, key, value, most = MOST) {
  map.delete(key)
  map.set(key, value)
  if (map.size > most) map.delete(map.keys().next().value)
}

/**
 * All that a node's result depends on, as text: its inputs, and those of all nodes before it, without their ids: as in
 * ComfyUI, nodes with the same share one result.
 */
function causeOf(prompt, id) {
  const places = new Map([[String(id), 0]])
  const placeOf = each => places.get(each) ?? (places.set(each, places.size), places.size - 1)
  const found = []
  for (const at of places.keys()) {
    const { class_type, inputs } = prompt[at] ?? {}
    const given = Object.entries(inputs ?? {})
    found.push([class_type, given.map(([, value]) => (Array.isArray(value) ? [placeOf(String(value[0])), value[1]] : value))])
    found.push(given.map(([name]) => name))
  }
  return JSON.stringify(found)
}

/** A prompt that is queued, with our nodes as they are now. */
function queued(app, prompt, stateOf) {
  const ours = Object.entries(prompt).filter(([, { class_type }]) => class_type?.startsWith("FateZero_"))
  const nodes = ours.map(([id, { class_type: kind }]) => [
    id,
    { kind, cause: causeOf(prompt, id), state: stateOf(id, kind) },
  ])
  return { results: resultsNow(app), root: rootOf(app).id, nodes: new Map(nodes) }
}

/** Know from now on what the prompts are made of that this page queues. */
function followQueue(app, api, stateOf) {
  const queue = api.queuePrompt
  if (typeof queue !== "function") return
  api.queuePrompt = function (number, data, ...more) {
    let prompt
    try {
      prompt = queued(app, data?.output ?? {}, stateOf)
    } catch (error) {
      console.warn("FateZero: lines and films may stand on another workflow's nodes.", error)
    }
    const answered = Promise.resolve(queue.call(this, number, data, ...more)).then(answer => {
      if (prompt && answer?.prompt_id) put(prompts, answer.prompt_id, prompt)
      return answer
    })
    waiting.add(answered)
    const ended = () => waiting.delete(answered)
    answered.then(ended, ended)
    return answered
  }
}

/** What was queued under an id: messages may come before the answer that tells of it. */
async function promptOf(app, id) {
  if (!prompts.has(id)) await Promise.allSettled(waiting)
  return prompts.get(id) ?? { results: resultsNow(app), root: rootOf(app).id }
}

/**
 * The result of a node in a run, without what it said in the run before; undefined for nodes that are not ours. The film from
 * before is seen until another comes, or the run has ended well.
 */
function begun(run, id) {
  const node = run.nodes ? run.nodes.get(id) : {}
  const before = run.results.get(id)
  if (!node || before?.run === run) return before
  const result = { id, run, root: run.root, ...node, remarks: [], choices: [], former: before?.films ?? before?.former }
  put(run.results, id, result)
  return result
}

/** Take up what a node says; within a run, which may go over a node more than once, no remark is lost. */
function say(run, id, text) {
  const result = begun(run, id)
  if (!result) return undefined
  const lines = text.split("\n").filter(Boolean)
  const isRemark = line => line.startsWith(REMARK) || line.startsWith(FURTHER)
  result.remarks = [...new Set([...result.remarks, ...lines.filter(isRemark)])]
  result.choices = lines.filter(line => !isRemark(line))
  keep(result)
  return result
}

function show(run, id, films) {
  for (const { filename } of films) put(received, filename, true)
  const result = begun(run, id)
  if (result) result.films = films
  keep(result)
}

function keep(result) {
  if (!result) return
  const { id, cause, state, root, kind, remarks, choices, films } = result
  if (cause !== undefined) put(earlier, cause, result)
  if (state === undefined) return
  put(outliving(), `${root} ${id} ${state}`, { id, root, kind, state, remarks, choices, films }, MOST_LASTING)
  try {
    sessionStorage.setItem(PLACE, JSON.stringify([...lasting]))
  } catch {
    // no room, or not allowed: it is said again at the next Run
  }
}

function outliving() {
  if (lasting) return lasting
  lasting = new Map()
  try {
    for (const [key, result] of JSON.parse(sessionStorage.getItem(PLACE)) ?? []) lasting.set(key, result)
  } catch {
    // not allowed, or not ours
  }
  return lasting
}

/** Show for a node that is not run what was said and shown when its result was made; returns whether that is known. */
function reuse(run, id) {
  const node = run.nodes?.get(id)
  if (!node || run.results.get(id)?.cause === node.cause) return true
  const found = earlier.get(node.cause)
  if (found) put(run.results, id, { ...found, ...node, id, run, root: run.root, former: undefined })
  return Boolean(found)
}

/** Show for a node that ComfyUI has in its cache what belongs to that, or nothing. */
function cached(run, id) {
  const before = run.results.get(id)
  if (reuse(run, id) || !before) return
  const isOther = before.state !== undefined && before.state !== run.nodes.get(id).state
  if (before.cause !== undefined || isOther) run.results.delete(id)
}

/** Results of this workflow that were kept over a reload and that it has not: [{id, kind, state}]. */
export function lost(app) {
  const now = resultsNow(app)
  return [...outliving().values()].filter(({ root, id }) => root === rootOf(app).id && !now.has(id))
}

/** Take up a result of `lost` again. */
export const recall = (app, result) => put(resultsNow(app), result.id, { ...result })

/**
 * Follow all runs from now on.
 * stateOf(id, kind):  the values of a node as it is now, as text; undefined where there is none
 * said(result, text): called when a node has said something, and the page has heard of it too
 */
export function followResults(app, api, { stateOf, said }) {
  let run
  let at // the node that runs
  let order = Promise.resolve()
  const now = () => (run ??= { results: resultsNow(app), root: rootOf(app).id })
  const on = (name, work) =>
    api.addEventListener(name, ({ detail }) => {
      order = order.then(() => work(detail ?? {})).catch(error => console.warn("FateZero:", error))
    })
  followQueue(app, api, stateOf)
  on("execution_start", async ({ prompt_id }) => {
    run = { ...(await promptOf(app, prompt_id)) }
    at = undefined
  })
  on("execution_cached", ({ nodes }) => nodes?.forEach(id => cached(now(), String(id))))
  on("executing", id => {
    if (at !== undefined && now().results.has(at)) keep(begun(now(), at)) // ended: what it did not say again is gone
    at = typeof id === "string" || typeof id === "number" ? String(id) : undefined
    if (at === undefined) run?.nodes?.forEach((_, each) => reuse(run, each)) // ended: equal nodes are run once
  })
  on("execution_success", () => now().results.forEach(each => each.run === run && delete each.former))
  on("progress_text", ({ nodeId, text }) => {
    const result = text ? say(now(), String(nodeId), text) : undefined
    if (result) said(result, text)
  })
  on("executed", ({ node, display_node, output }) => {
    if (output?.fatezero_film) show(now(), String(display_node ?? node), output.fatezero_film)
  })
}
