// What is said on a node. Above its widgets, in red, what ComfyUI found wrong with it, and in yellow what makes its
// results poor; below them what it chose. By itself the page shows the first behind three clicks, and cuts the rest off;
// Nodes 2.0 reads it as Markdown.

import { promptsOf } from "./prompt_texts.js"

const THEIRS = "$$node-text-preview" // the page's own widget for the text
const FIRST = 0
const REMARK = "⚠ " // marks of a remark and of its further lines, see nodes/host/comfy.py
const FURTHER = "· "
const MARGIN = 20 // of the page, above and below a widget
const TRIES = 40 // ticks within which a page has put a workflow's values on its nodes

const boxes = new WeakMap() // of each node: the boxes {top, text}, and what stands in them

/** Add the boxes of a node; `addBox(node, name, place)` adds a widget. */
export function addSaid(node, addBox) {
  const top = addBox(node, "fatezero_wrong", FIRST)
  boxes.set(node, { top, text: addBox(node, "fatezero_text"), mistakes: [], remarks: [], choices: [] })
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

const rootOf = app => app.rootGraph ?? app.graph

function withoutTheirs(node) {
  const place = node.widgets.findIndex(widget => widget.name === THEIRS)
  if (place >= 0) node.widgets.splice(place, 1)[0].onRemove?.()
}

/** Write lines [class name, text] into a box; returns whether they are others than before. */
function write(box, lines) {
  const said = JSON.stringify(lines)
  if ((box.dataset.said ?? "[]") === said) return false
  box.dataset.said = said // prompts of other people's workflows are in it: text, never HTML
  const made = ([className, textContent]) => Object.assign(document.createElement("div"), { className, textContent })
  box.replaceChildren(...lines.map(made))
  return true
}

const asRemark = line =>
  line.startsWith(FURTHER) ? ["fatezero-further", line.slice(FURTHER.length)] : ["fatezero-remark", line]

/** Bring a node's boxes up to date, and give back the height that the upper one took. */
function show(node) {
  const box = boxes.get(node)
  write(box.text, box.choices.map(line => ["fatezero-said", line]))
  const took = box.top.offsetHeight + MARGIN
  const lines = [...box.mistakes.map(line => ["fatezero-mistake", line]), ...box.remarks.map(asRemark)]
  if (!write(box.top, lines)) return
  if (lines.length) box.height ??= node.size[1]
  else if (box.height) {
    const height = Math.max(box.height, node.size[1] - took)
    if (height < node.size[1]) node.setSize([node.size[0], height])
    box.height = undefined
  }
}

/** Take up what a node says; within a run, which may go over a node more than once, no remark is lost. */
function say(node, text, run) {
  const box = boxes.get(node)
  const lines = text.split("\n").filter(Boolean)
  const isRemark = line => line.startsWith(REMARK) || line.startsWith(FURTHER)
  const before = run !== undefined && box.run === run ? box.remarks : []
  const remarks = [...new Set([...before, ...lines.filter(isRemark)])]
  Object.assign(box, { run, remarks, choices: lines.filter(line => !isRemark(line)) })
  show(node)
}

/** A sentence for an error of the server: the input and our node's own words, or else ComfyUI's. */
function sentence({ type, message, details, extra_info }) {
  const [place, ...own] = details.split(" - ")
  if (type !== "custom_validation_failed" || place !== extra_info?.input_name) return `${message}: ${details}`
  const said = own.join(" - ")
  return said.startsWith(place) ? said : `${place}: ${said}`
}

/** What the last Run found wrong: of each node id, class, the input if it is known, and text. */
function found(app) {
  const refused = Object.entries(app.lastNodeErrors ?? {})
  if (refused.length) {
    return refused.flatMap(([id, { class_type, errors }]) =>
      errors.map(error => [id, class_type, error.extra_info?.input_name, sentence(error)])
    )
  }
  const failed = app.lastExecutionError
  return failed ? [[failed.node_id, failed.node_type, undefined, failed.exception_message]] : []
}

/** Values of a node's widgets, without our own boxes and the page's own for texts and pictures. */
const valuesOf = node =>
  (node.widgets ?? []).filter(({ type, name }) => type !== "fatezero" && !name.startsWith("$$")).map(({ value }) => value)

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

/** The place in this browser tab for what a node said: it outlives a reload, and no file grows by it. */
const placeOf = (app, node) => `fatezero ${rootOf(app).id} ${node.graph.id} ${node.id}`

function remember(app, node) {
  const { remarks, choices } = boxes.get(node)
  try {
    sessionStorage.setItem(placeOf(app, node), JSON.stringify([stateOf([node]), [...remarks, ...choices].join("\n")]))
  } catch {
    // no room, or not allowed: it is said again at the next Run
  }
}

/** Say again what a node with these values said in this browser tab. Returns a function to be called again and again. */
export function recall(app, node) {
  let left = TRIES
  return () => {
    const box = boxes.get(node)
    if (left-- <= 0 || box.remarks.length || box.choices.length) return
    let kept
    try {
      kept = JSON.parse(sessionStorage.getItem(placeOf(app, node)))
    } catch {
      left = 0
    }
    if (!kept || kept[0] !== stateOf([node])) return
    say(node, kept[1])
    left = 0
  }
}

/** Show what nodes say from now on; returns a function to be called again and again. */
export function followSaid(app, api) {
  let run = 0
  let errors = [] // of the last Run
  let shown = [] // nodes with mistakes
  const states = new Map() // of the nodes when each mistake was found

  api.addEventListener("execution_start", () => run++)
  api.addEventListener("progress_text", ({ detail: { nodeId, text } }) => {
    const path = pathTo(app, nodeId)
    for (const node of path) {
      say(node, text, run)
      remember(app, node)
    }
    queueMicrotask(() => path.forEach(withoutTheirs)) // when the page has heard of it too
  })

  /** Whether what a mistake is about was edited since it was found. */
  function isEdited(path, key, name) {
    const state = stateOf(path, name)
    if (!states.has(key)) states.set(key, state)
    return states.get(key) !== state
  }

  return () => {
    const now = [app.lastNodeErrors, app.lastExecutionError]
    if (now.some((each, place) => each !== errors[place])) states.clear()
    errors = now
    const wrong = new Map()
    for (const [id, kind, name, text] of found(app)) {
      const path = pathTo(app, id, kind)
      if (!path.length || isEdited(path, JSON.stringify([id, name, text]), name)) continue
      for (const node of path) wrong.set(node, [...(wrong.get(node) ?? []), ...text.split("\n").filter(Boolean)])
    }
    for (const node of new Set([...shown, ...wrong.keys()])) {
      boxes.get(node).mistakes = wrong.get(node) ?? []
      show(node)
    }
    shown = [...wrong.keys()]
  }
}
