// What is said on a node: above its widgets what ComfyUI found wrong with it, below them what it says while it runs.
// By itself the page shows the first behind three clicks, and cuts the second off; Nodes 2.0 reads it as Markdown.

const THEIRS = "$$node-text-preview" // the page's own widget for the text
const FIRST = 0

const boxes = new WeakMap() // {mistakes, text} of each node

/** Add the boxes of a node; `addBox(node, name, place)` adds a widget. */
export function addSaid(node, addBox) {
  boxes.set(node, { mistakes: addBox(node, "fatezero_mistakes", FIRST), text: addBox(node, "fatezero_text") })
}

/**
 * The node of an id in a run, behind the subgraphs that it is in, outermost first; [] for nodes that are not ours.
 * kind: its class; another workflow's run may have an id of this one's
 */
function pathTo(app, id, kind) {
  const path = []
  let graph = app.rootGraph ?? app.graph
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

function withoutTheirs(node) {
  const place = node.widgets.findIndex(widget => widget.name === THEIRS)
  if (place >= 0) node.widgets.splice(place, 1)[0].onRemove?.()
}

/** Write text into a box, a line each; `kind`: class name of the lines. */
function write(box, kind, text) {
  if (box.dataset.said === text) return
  box.dataset.said = text // prompts of other people's workflows are in it: text, never HTML
  const lines = text.split("\n").filter(Boolean)
  box.replaceChildren(
    ...lines.map(line => Object.assign(document.createElement("div"), { className: kind, textContent: line }))
  )
}

/** A sentence for an error of the server: the input and our node's own words, or else ComfyUI's. */
function sentence({ type, message, details, extra_info }) {
  const [place, ...own] = details.split(" - ")
  if (type !== "custom_validation_failed" || place !== extra_info?.input_name) return `${message}: ${details}`
  const said = own.join(" - ")
  return said.startsWith(place) ? said : `${place}: ${said}`
}

/** What the last Run found wrong: of each node id, class and text. */
function found(app) {
  const refused = Object.entries(app.lastNodeErrors ?? {})
  if (refused.length) {
    return refused.map(([id, { class_type, errors }]) => [id, class_type, errors.map(sentence).join("\n")])
  }
  const failed = app.lastExecutionError
  return failed ? [[failed.node_id, failed.node_type, failed.exception_message]] : []
}

/** Show what nodes say from now on; returns a function to be called again and again. */
export function followSaid(app, api) {
  const heights = new Map() // of the nodes on which mistakes are shown, from before

  api.addEventListener("progress_text", ({ detail: { nodeId, text } }) => {
    const path = pathTo(app, nodeId)
    for (const node of path) write(boxes.get(node).text, "fatezero-said", text)
    queueMicrotask(() => path.forEach(withoutTheirs)) // when the page has heard of it too
  })

  return () => {
    const wrong = new Map()
    for (const [id, kind, text] of found(app)) {
      for (const node of pathTo(app, id, kind)) wrong.set(node, [wrong.get(node), text].filter(Boolean).join("\n"))
    }
    for (const [node, height] of heights) {
      if (wrong.has(node)) continue
      heights.delete(node)
      write(boxes.get(node).mistakes, "fatezero-mistake", "")
      if (node.size[1] > height) node.setSize([node.size[0], height])
    }
    for (const [node, text] of wrong) {
      if (!heights.has(node)) heights.set(node, node.size[1])
      write(boxes.get(node).mistakes, "fatezero-mistake", text)
    }
  }
}
