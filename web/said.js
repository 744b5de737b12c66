// What is said on a node. Above its widgets, in red, what ComfyUI found wrong with it, and in yellow what makes its
// results poor; below them what it chose. By itself the page shows the first behind three clicks, and cuts the rest off;
// Nodes 2.0 reads it as Markdown.

import { promptsOf } from "./prompt_texts.js"
import { followResults, isElsewhere, resultsShown, rootOf } from "./run_results.js"

const THEIRS = "$$node-text-preview" // the page's own widget for the text
const FIRST = 0
const FURTHER = "· " // mark of the further lines of a remark, see nodes/host/comfy.py
const MARGIN = 20 // of the page, above and below a widget

const boxes = new WeakMap() // of each node: the boxes {top, text}, and what stands in them
let byNode = new Map() // results of the workflow that is looked at, for each node that shows them

/** The results that a node shows: its own, or those of the nodes inside a subgraph. */
export const resultsOf = node => byNode.get(node) ?? []

/** Add the boxes of a node; `addBox(node, name, place)` adds a widget. */
export function addSaid(node, addBox) {
  const top = addBox(node, "fatezero_wrong", FIRST)
  boxes.set(node, { top, text: addBox(node, "fatezero_text") })
}

/**
 * The node of an id in a run, behind the subgraphs that it is in, outermost first; [] for nodes that are not ours.
 * kind: its class; another workflow's run may have an id of this one's
 */
function pathTo(app, id, kind) {
  const path = []
  let graph = rootOf(app)
  for (const part of String(id).split(":")) {
    const node = graph?.getNodeById(part)
    if (!node) return []
    path.push(node)
    graph = node.subgraph
  }
  const { comfyClass } = path.at(-1)
  const isOurs = comfyClass?.startsWith("FateZero_") && comfyClass === (kind ?? comfyClass)
  return isOurs ? path.filter(node => boxes.has(node)) : []
}

/** Take a text of ours out of the page's own widget for it, on whichever node of that number the page has put it. */
function withoutTheirs(app, text) {
  for (const node of app.canvas?.graph?.nodes ?? []) {
    const place = node.widgets?.findIndex(({ name, value }) => name === THEIRS && value === text) ?? -1
    if (place >= 0) node.widgets.splice(place, 1)[0].onRemove?.()
  }
}

/** Write lines [class name, text] into a box. */
function write(box, said, lines) {
  box.dataset.said = said // prompts of other people's workflows are in it: text, never HTML
  const made = ([className, textContent]) => Object.assign(document.createElement("div"), { className, textContent })
  box.replaceChildren(...lines.map(made))
}

/** Whether lines are others than those of a box, as text; undefined where they are the same. */
function changed(box, lines) {
  const said = JSON.stringify(lines)
  return (box.dataset.said ?? "[]") === said ? undefined : said
}

const asRemark = line =>
  line.startsWith(FURTHER) ? ["fatezero-further", line.slice(FURTHER.length)] : ["fatezero-remark", line]

/** Bring a node's boxes up to date, and give back the height that the upper one took. */
function fill(node, mistakes) {
  const box = boxes.get(node)
  const results = resultsOf(node)
  const choices = results.map(each => each.choices).findLast(each => each.length) ?? []
  const remarks = [...new Set(results.flatMap(each => each.remarks))]
  const below = choices.map(line => ["fatezero-said", line])
  const said = changed(box.text, below)
  if (said) write(box.text, said, below)
  const above = [...mistakes.map(line => ["fatezero-mistake", line]), ...remarks.map(asRemark)]
  const wrong = changed(box.top, above)
  if (!wrong) return
  const took = box.top.offsetHeight + MARGIN
  write(box.top, wrong, above)
  if (above.length) box.height ??= node.size[1]
  else if (box.height) {
    const height = Math.max(box.height, node.size[1] - took)
    if (height < node.size[1]) node.setSize([node.size[0], height])
    box.height = undefined
  }
}

/** A sentence for an error of the server: the input and our node's own words, or else ComfyUI's. */
function sentence({ type, message, details, extra_info }) {
  const [place, ...own] = String(details ?? "").split(" - ")
  if (type !== "custom_validation_failed" || place !== extra_info?.input_name) return `${message}: ${details}`
  const said = own.join(" - ")
  return said.startsWith(place) ? said : `${place}: ${said}`
}

/** What the last Run found wrong: of each node id, class, the input if it is known, and text. */
function found(app) {
  const refused = Object.entries(app.lastNodeErrors ?? {})
  if (refused.length) {
    return refused.flatMap(([id, { class_type, errors }]) =>
      (errors ?? []).map(error => [id, class_type, error.extra_info?.input_name, sentence(error)])
    )
  }
  const failed = app.lastExecutionError
  if (!failed || isElsewhere(app, failed.prompt_id)) return []
  return [[failed.node_id, failed.node_type, undefined, String(failed.exception_message ?? "")]]
}

/** Values of a node's widgets, without our own boxes and the page's own for texts and pictures. */
const valuesOf = node =>
  (node.widgets ?? [])
    .filter(({ type, name }) => type !== "fatezero" && !name?.startsWith("$$"))
    .map(({ value }) => value)

/** All of a node that a user edits, or one input of it and the prompts; `path`: it and the boxes around it. */
function stateOf(path, name) {
  const [node, ...around] = path.toReversed()
  const link = input => input?.link ?? null
  const whole = [valuesOf(node), (node.inputs ?? []).map(link)]
  const widget = node.widgets?.find(each => each.name === name)
  const input = node.inputs?.find(each => each.name === name)
  const named = widget || input ? [widget?.value, link(input)] : whole
  return JSON.stringify([named, promptsOf(node, "source"), promptsOf(node, "edit"), around.map(valuesOf)])
}

/** The nodes before one in its graph. */
function sourcesOf(node, found = new Set()) {
  for (const { link } of node.inputs ?? []) {
    const source = link == null ? undefined : node.graph?.getNodeById(node.graph.getLink?.(link)?.origin_id)
    if (!source || found.has(source)) continue
    found.add(source)
    sourcesOf(source, found)
  }
  return found
}

/** Plain values of a node, and of those inside it. */
function plainValuesOf(node) {
  const own = valuesOf(node).filter(value => ["string", "number", "boolean"].includes(typeof value))
  return node.subgraph ? [own, node.subgraph.nodes.map(plainValuesOf)] : own
}

/** All that the result of a node depends on; `path`: it and the boxes around it. */
const causesOf = path => JSON.stringify([stateOf(path), path.map(node => [...sourcesOf(node)].map(plainValuesOf))])

/** Follow what nodes say from now on; returns {tick(), show(node)}, both to be called again and again. */
export function followSaid(app, api) {
  let errors = [] // of the last Run
  let wrong = new Map() // of each node, its mistakes
  const states = new Map() // of the nodes when each mistake was found

  /** The values of a node of a run, and of those before it; undefined where there is none. */
  function valuesNow(id, kind) {
    const path = pathTo(app, id, kind)
    return path.length ? causesOf(path) : undefined
  }

  followResults(app, api, {
    stateOf: valuesNow,
    said({ id, kind }, text) {
      if (kind || pathTo(app, id).length) withoutTheirs(app, text)
    },
  })

  /** Whether what a mistake is about was edited since it was found. */
  function isEdited(path, key, name) {
    const state = stateOf(path, name)
    if (!states.has(key)) states.set(key, state)
    return states.get(key) !== state
  }

  function tick() {
    if (!rootOf(app)) return
    byNode = new Map()
    for (const result of resultsShown(app, valuesNow)) {
      for (const node of pathTo(app, result.id, result.kind)) byNode.set(node, [...resultsOf(node), result])
    }
    const now = [app.lastNodeErrors, app.lastExecutionError]
    if (now.some((each, place) => each !== errors[place])) states.clear()
    errors = now
    wrong = new Map()
    for (const [id, kind, name, text] of found(app)) {
      const path = pathTo(app, id, kind)
      if (!path.length || isEdited(path, JSON.stringify([id, name, text]), name)) continue
      for (const node of path) wrong.set(node, [...(wrong.get(node) ?? []), ...text.split("\n").filter(Boolean)])
    }
  }

  return {
    tick,
    show: node => fill(node, wrong.get(node) ?? []),
  }
}
