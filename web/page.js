// Puts the chips (word_chips.js) and the film (film.js) on the nodes, on the classic canvas and on Nodes 2.0. Nodes work
// the same without them. Whatever this page lacks or refuses leaves a part out, with one warning in the console.

import { chips, chipsStandUnder, hasChips } from "./word_chips.js"
import { hasFilm, player } from "./film.js"

const TICK = 125 // milliseconds
const MARGIN = 10 // of the page, around a widget

const FILM_UNDER = "fatezero_words" // where there are chips; else a film is the last of a node's widgets
const live = new Set() // functions called at every tick, one for each node
let warned = false

/** Do `work`; a failure is told once and stops nothing else. */
function guarded(work) {
  try {
    return work()
  } catch (error) {
    if (!warned) console.warn("FateZero: words and films are left out on nodes.", error)
    warned = true
    return undefined
  }
}

/** Add a widget that shows a box and is no part of the workflow; `under`: name of the widget that it follows. */
function addBox(node, name, under) {
  const outer = document.createElement("div")
  const box = document.createElement("div")
  outer.className = "fatezero-widget"
  box.className = "fatezero-box"
  outer.append(box)
  for (const event of ["pointerdown", "pointermove", "pointerup", "mousedown", "dblclick"]) {
    outer.addEventListener(event, each => each.stopPropagation()) // a drag in here does not move the node
  }
  let height = 30
  const measured = () => {
    const isPlaced = box.offsetHeight && outer.offsetWidth <= node.size[0] // before, it may be as wide as the page
    return (height = isPlaced ? box.offsetHeight + 2 * MARGIN : height)
  }
  const options = { serialize: false, hideOnZoom: false, getMinHeight: measured, getMaxHeight: measured }
  const widget = node.addDOMWidget(name, "fatezero", outer, options)
  widget.serialize = false
  const place = node.widgets.findIndex(each => each.name === under) + 1
  if (place) node.widgets.splice(place, 0, node.widgets.pop())
  return box
}

/** Key of a box among those that removed nodes have left in the page. */
const leftBy = (node, widget) => `${node.id} ${widget.name}`
const boxesOf = node => node.widgets?.filter(widget => widget.type === "fatezero") ?? []

/** Put a new node's box in place of the one that Nodes 2.0 still shows of the node before: undo makes nodes anew. */
function takePlace(app, node, widget) {
  if (widget.element.isConnected || node.graph !== app.canvas.graph) return
  const left = [...document.querySelectorAll("[data-left-by]")]
  left.find(each => each.dataset.leftBy === leftBy(node, widget))?.replaceWith(widget.element)
}

/** Save the node's values without a gap where a box stands among its widgets. */
function saveWithoutGaps(node) {
  const before = node.onSerialize
  node.onSerialize = function (saved) {
    before?.call(this, saved)
    if (Array.isArray(saved.widgets_values)) saved.widgets_values = saved.widgets_values.filter(() => true)
  }
}

/** What the node showed in the last run; the page has it under the graph's id too if that is a subgraph. */
function shownBy(app, node) {
  const isRoot = node.graph?.isRootGraph ?? true
  return app.nodeOutputs?.[isRoot ? String(node.id) : `${node.graph.id}:${node.id}`]?.fatezero_film
}

function withChips(app, node) {
  saveWithoutGaps(node)
  return chips(node, addBox(node, "fatezero_words", chipsStandUnder(node.comfyClass)), (widget, text) => {
    app.canvas.emitBeforeChange() // so that the click can be undone
    widget.value = text
    widget.callback?.(text, app.canvas, node)
    app.canvas.emitAfterChange()
    app.canvas.setDirty(true, true)
  })
}

function withFilm(app, api, node) {
  let film, last
  return () => {
    const films = shownBy(app, node)
    if (films && films !== last) {
      last = films
      film ??= player(addBox(node, "fatezero_film", FILM_UNDER), ({ filename, subfolder, type }) =>
        api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
      )
      film.show(films)
    }
    film?.draw()
  }
}

function dress(app, api, node) {
  const parts = []
  if (hasChips(node.comfyClass)) parts.push(withChips(app, node))
  if (hasFilm(node.comfyClass)) parts.push(withFilm(app, api, node))
  if (!parts.length) return
  const tick = () => {
    if (!node.graph) return // it is being made, or was just removed
    for (const part of parts) part()
    for (const widget of boxesOf(node)) takePlace(app, node, widget)
  }
  live.add(tick)
  const before = node.onRemoved
  node.onRemoved = function (...given) {
    live.delete(tick)
    for (const widget of boxesOf(node)) widget.element.dataset.leftBy = leftBy(node, widget)
    return before?.apply(this, given)
  }
}

try {
  const [{ app }, { api }] = await Promise.all([import("../../scripts/app.js"), import("../../scripts/api.js")])
  const style = document.createElement("link")
  Object.assign(style, { rel: "stylesheet", href: new URL("./page.css", import.meta.url).href })
  document.head.append(style)
  app.registerExtension({
    name: "FateZero.Page",
    nodeCreated: node => guarded(() => dress(app, api, node)),
  })
  // No event tells of all the ways in which a prompt changes: typing, links, undo, other nodes, other tabs.
  setInterval(() => {
    if (document.hidden) return
    for (const tick of live) if (guarded(() => (tick(), true)) === undefined) live.delete(tick)
  }, TICK)
} catch (error) {
  guarded(() => {
    throw error
  })
}
