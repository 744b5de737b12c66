// What nodes said and showed in the last run of each open workflow, by a node's id in a run. The page forgets it: a run goes
// on while another workflow is looked at, undo makes all nodes anew, and what ComfyUI has in its cache does not run again.

const MOST = 100 // of results that are kept, and of prompts that outlive a reload
const MOST_PROMPTS = 5000 // a queue over night
const PLACE = "fatezero runs" // in this browser tab: no file grows by it
const NO_ID = "00000000-0000-0000-0000-000000000000" // of a cleared workflow: newer pages give it one at a reload
const REMARK = "⚠ " // marks of a remark and of its further lines, see nodes/host/comfy.py
const FURTHER = "· "

const opened = new WeakMap() // of each workflow, its results by id
const kept = new Map() // results by all that they depend on, the latest last; they outlive a reload
const prompts = new Map() // what was queued, by the server's id, the latest last
const waiting = new Set() // prompts of which the server's answer has not come yet
const received = new Map() // files of films that came while this page was open

/** The workflow's graph; undefined until the page has made it, and a look at it would be an error in its console. */
export const rootOf = app => ((app.isGraphReady ?? app.graph) ? (app.rootGraph ?? app.graph) : undefined)

/** The workflow that is looked at; undefined while the page opens it. */
function workflowOf(app) {
  const workflows = app.extensionManager?.workflow
  return (workflows ? workflows.activeWorkflow : rootOf(app)) ?? undefined
}

/** The results of the runs of the workflow that is looked at, by id. */
export function resultsNow(app) {
  const workflow = workflowOf(app)
  if (!workflow) return new Map()
  if (!opened.has(workflow)) opened.set(workflow, new Map())
  return opened.get(workflow)
}

/**
 * All results that the workflow shows that is looked at: those of its runs, and those from before a reload whose nodes have
 * the values of then. stateOf: see followResults
 */
export function resultsShown(app, stateOf) {
  const [root, now] = [rootOf(app), resultsNow(app)]
  if (root?.id === NO_ID && !root.nodes?.length) now.clear() // cleared: the next nodes have the ids of those before
  const isBack = ({ id, kind, root: of, state, here }) =>
    !here && state !== undefined && !now.has(id) && (of === root?.id || of === NO_ID) && state === digest(stateOf(id, kind))
  const shown = [...[...kept.values()].filter(isBack), ...now.values()]
  return [...new Map(shown.map(result => [result.id, result])).values()]
}

/** The film of a result: of a node with others in its place that of its comparison, whichever came last. */
export function filmOf({ films, former }) {
  const pick = parts => Object.entries(parts ?? {}).findLast(([id], _, all) => all.length === 1 || /\.compare$/.test(id))
  return (pick(films) ?? pick(former?.films) ?? Object.entries(films).at(-1))?.[1]
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

/** A short name of a text, which may hold a picture: 53 bits of it (cyrb53); undefined for undefined. */
function digest(text) {
  if (text === undefined) return undefined
  let [high, low] = [0xdeadbeef, 0x41c6ce57]
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    high = Math.imul(high ^ code, 2654435761)
    low = Math.imul(low ^ code, 1597334677)
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  return (4294967296 * (2097151 & low) + (high >>> 0)).toString(36)
}

/**
 * All that a node's result depends on: its inputs, and those of all nodes before it, without their ids: as in ComfyUI,
 * nodes with the same share one result.
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
  return digest(JSON.stringify(found))
}

/** A prompt that is queued, with our nodes as they are now. */
function queued(app, prompt, stateOf) {
  const ours = Object.entries(prompt).filter(([, { class_type }]) => class_type?.startsWith("FateZero_"))
  const nodes = ours.map(([id, { class_type: kind }]) => [
    id,
    { kind, cause: causeOf(prompt, id), state: digest(stateOf(id, kind)) },
  ])
  return { results: resultsNow(app), root: rootOf(app)?.id, nodes: Object.fromEntries(nodes) }
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
      if (prompt && answer?.prompt_id) put(prompts, answer.prompt_id, prompt, MOST_PROMPTS)
      store()
      return answer
    })
    waiting.add(answered)
    const ended = () => waiting.delete(answered)
    answered.then(ended, ended)
    return answered
  }
}

/**
 * The run of a prompt, of which a message has come, maybe before the answer that tells of it; one of which nothing is known
 * is of the workflow that is looked at, if there is one yet.
 */
async function runOf(app, id) {
  if (!prompts.has(id)) await Promise.allSettled(waiting)
  const known = prompts.get(id)
  if (!known) return workflowOf(app) && { id, results: resultsNow(app), ran: new Set() }
  put(prompts, id, known, MOST_PROMPTS)
  const before = () => new Map([...kept.values()].filter(({ run }) => run === id).map(result => [result.id, result]))
  const here = Boolean(known.results) // else it was queued before a reload, in whichever workflow
  return { ...known, id, results: known.results ?? before(), here, ran: new Set() }
}

/**
 * The result of a node in a run, without what it said in the run before; undefined for nodes that are not ours. The film from
 * before is seen until another comes, or the run has ended well.
 */
function begun(run, id) {
  const before = run.results.get(id)
  if (before?.run === run.id) return before
  if (run.nodes && !run.nodes[id]) return undefined
  const former = before && (Object.keys(before.films).length ? { films: before.films, later: before.later } : before.former)
  const said = { remarks: [], later: [], choices: [], films: {} } // later: remarks of nodes in its place
  const result = { id, run: run.id, root: run.root, here: run.here, ...run.nodes?.[id], ...said, former }
  run.results.set(id, result)
  return result
}

const isRemark = line => line.startsWith(REMARK) || line.startsWith(FURTHER)

/** Take up what a node says; within a run, which may go over a node more than once, no remark is lost. */
function say(run, id, text) {
  const result = begun(run, id)
  if (!result) return undefined
  const lines = [...new Set(text.split("\n").filter(Boolean))]
  const isFirst = !result.remarks.length && !result.choices.length
  const remarks = lines.filter(line => isRemark(line) && !result.remarks.includes(line))
  result.remarks.push(...remarks)
  if (!isFirst) result.later.push(...remarks)
  result.choices = lines.filter(line => !isRemark(line))
  keep(result)
  return result
}

/** Take up a film of a node, or of the node `part` in its place; ComfyUI may send again what it has in its cache. */
function show(run, id, part, films) {
  for (const { filename } of films) put(received, filename, true)
  if (!run.ran.has(id)) reuse(run, id)
  const result = begun(run, id)
  if (!result) return
  result.films = { ...result.films, [part]: films }
  keep(result)
}

function keep(result) {
  if (result?.cause === undefined) return
  put(kept, `${result.root} ${result.id} ${result.cause}`, result)
  store()
}

/** Write down what outlives a reload. */
function store() {
  const known = [...prompts].slice(-MOST).map(([id, { root, nodes }]) => [id, { root, nodes }])
  try {
    const lasting = (name, value) => (name === "former" || name === "here" ? undefined : value)
    sessionStorage.setItem(PLACE, JSON.stringify([[...kept], known], lasting))
  } catch {
    // no room, or not allowed: it is said again at the next Run
  }
}

function restore() {
  try {
    const [results, known] = JSON.parse(sessionStorage.getItem(PLACE)) ?? [[], []]
    for (const [key, result] of results) kept.set(key, result)
    for (const [id, prompt] of known) prompts.set(id, prompt)
  } catch {
    // not allowed, or not ours
  }
}

/** Show for a node that is not run what was last said and shown for the same; returns whether that is known. */
function reuse(run, id) {
  const node = run.nodes?.[id]
  const found = node && [...kept.values()].findLast(({ cause }) => cause === node.cause)
  if (!found) return false
  run.results.set(id, { ...found, ...node, id, run: run.id, root: run.root, here: run.here, former: undefined })
  keep(run.results.get(id))
  return true
}

/** Show for a node that ComfyUI has in its cache what belongs to that, or nothing. */
function cached(run, id) {
  const [node, before] = [run.nodes?.[id], run.results.get(id)]
  if (!node || reuse(run, id) || !before) return
  if (before.cause === undefined || before.cause === node.cause) before.run = run.id
  else run.results.delete(id)
}

/** End a run that went well: films from before go, but remarks of nodes in the place of another that were not run stay. */
function ended(run) {
  for (const id of run.ran) {
    const result = run.results.get(id)
    if (result?.run !== run.id) continue
    const isOld = ([part, [film]]) => part !== id && (result.films[part]?.[0] ?? film).filename === film.filename
    if (Object.entries(result.former?.films ?? {}).some(isOld)) {
      const { later } = result.former
      for (const lines of [result.remarks, result.later]) lines.push(...later.filter(line => !lines.includes(line)))
    }
    delete result.former
    keep(result)
  }
}

/**
 * Follow all runs from now on.
 * stateOf(id, kind):  the values of a node as it is now, as text; undefined where there is none
 * said(result, text): called when a node has said something, and the page has heard of it too
 */
export function followResults(app, api, { stateOf, said }) {
  let run
  let order = Promise.resolve()
  const inOrder = work => {
    order = order.then(work).catch(error => console.warn("FateZero:", error))
  }
  /** Do `work` in the run that a message is of: one that names another prompt shows that its start was missed. */
  const on = (name, work = () => undefined) =>
    api.addEventListener(name, ({ detail }) =>
      inOrder(async () => {
        const prompt = detail?.prompt_id
        if (prompt && prompt !== run?.id) run = await runOf(app, prompt)
        if (run && !run.isOver && detail != null) work(detail)
      })
    )
  const over = work => () => {
    work(run)
    for (const id of Object.keys(run.nodes ?? {})) if (!run.ran.has(id)) reuse(run, id) // equal nodes are run once
    run.isOver = true
  }
  restore()
  followQueue(app, api, stateOf)
  api.addEventListener("reconnected", () => inOrder(() => (run = undefined)))
  on("execution_start")
  on("progress_state")
  on("execution_cached", ({ nodes }) => nodes?.forEach(id => cached(run, String(id))))
  on("executing", id => {
    run.ran.add(String(id))
    begun(run, String(id))
  })
  on("progress_text", ({ nodeId, text }) => {
    const result = text ? say(run, String(nodeId), text) : undefined
    if (result) said(result, text)
  })
  on("executed", ({ node, display_node, output }) => {
    if (output?.fatezero_film) show(run, String(display_node ?? node), String(node), output.fatezero_film)
  })
  on("execution_success", over(ended))
  for (const name of ["execution_error", "execution_interrupted"]) on(name, over(() => undefined))
}
