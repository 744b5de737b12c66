// Puts the chips (word_chips.js), the film (film.js), what is said (said.js) and words for 0 (zero_words.js) on the
// nodes, on the classic canvas and on Nodes 2.0, and makes room for them (text_fields.js, run_preview.js). Nodes work the
// same without them. Whatever this page lacks or refuses leaves a part out, with one warning in the console.

import { chips, chipsStandUnder, hasChips } from "./word_chips.js"
import { hasFilm, LEAST_HEIGHT, player } from "./film.js"
import { followRuns, withoutPreview } from "./run_preview.js"
import { addSaid, followSaid, recall } from "./said.js"
import { textFields } from "./text_fields.js"
import { zeroWords } from "./zero_words.js"

const TICK = 125 // milliseconds
const MARGIN = 10 // of the page, around a widget

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

/**
 * Add a widget that shows a box and is no part of the workflow.
 * place: among the widgets; behind them where it is none
 * least: pixels of a box that fills the room there is, up to the height of its content; else it takes that height
 */
function addBox(node, name, place = -1, least = 0) {
  const outer = document.createElement("div")
  const box = document.createElement("div")
  outer.className = least ? "fatezero-widget fatezero-grows" : "fatezero-widget"
  box.className = "fatezero-box"
  outer.append(box)
  for (const event of ["pointerdown", "pointermove", "pointerup", "mousedown", "dblclick"]) {
    outer.addEventListener(event, each => each.stopPropagation()) // a drag in here does not move the node
  }
  let height = 30
  const measured = () => {
    if (!box.childElementCount) return 0
    const isPlaced = box.offsetHeight && outer.offsetWidth <= node.size[0] // before, it may be as wide as the page
    return (height = isPlaced ? (box.wantedHeight?.() ?? box.offsetHeight) + 2 * MARGIN : height)
  }
  const needed = () => (box.childElementCount && least ? least + 2 * MARGIN : measured())
  const options = { serialize: false, hideOnZoom: false, getMinHeight: needed, getMaxHeight: measured }
  const widget = node.addDOMWidget(name, "fatezero", outer, options)
  widget.serialize = false
  if (place >= 0) moveTo(node, widget, place)
  return box
}

/** Move the last widget of a node to another place. */
function moveTo(node, widget, place) {
  node.widgets.splice(place, 0, node.widgets.pop())
  const own = Object.getOwnPropertyDescriptor(node, "widgets")
  if (node.widgets[place] === widget || !own?.get || !own.configurable) return
  // Newer pages make the list of a subgraph's widgets anew at each look.
  const get = function () {
    const others = own.get.call(this).filter(each => each !== widget)
    return [...others.slice(0, place), widget, ...others.slice(place)]
  }
  Object.defineProperty(node, "widgets", { ...own, get })
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

/** The place under a widget; -1 where there is none of that name. */
const placeUnder = (node, name) => node.widgets.findIndex(widget => widget.name === name) + 1 || -1

/** Save the values without a gap where a box stands among the widgets, and a subgraph without the boxes on it. */
function saveWithoutGaps(node) {
  const before = node.onSerialize
  node.onSerialize = function (saved) {
    before?.call(this, saved)
    if (Array.isArray(saved.widgets_values)) saved.widgets_values = saved.widgets_values.filter(() => true)
    const shown = saved.properties?.proxyWidgets
    const own = new Set(boxesOf(node).map(widget => widget.name))
    if (Array.isArray(shown)) saved.properties.proxyWidgets = shown.filter(([, name]) => !own.has(name))
  }
}

/** The page's key for what a node shows; it has the graph's id too if that is a subgraph. */
function keyOf(node) {
  const isRoot = node.graph?.isRootGraph ?? true
  return isRoot ? String(node.id) : `${node.graph.id}:${node.id}`
}

/** The films that a node shows: its own, or those of the last node with films in a subgraph. */
function filmsOf(app, node) {
  if (!node.subgraph) return hasFilm(node.comfyClass) ? app.nodeOutputs?.[keyOf(node)]?.fatezero_film : undefined
  return node.subgraph.nodes.map(inner => filmsOf(app, inner)).findLast(Boolean)
}

function withChips(app, node) {
  const place = placeUnder(node, chipsStandUnder(node.comfyClass))
  return chips(node, addBox(node, "fatezero_words", place), (widget, text) => {
    app.canvas.emitBeforeChange() // so that the click can be undone
    widget.value = text
    widget.callback?.(text, app.canvas, node)
    app.canvas.emitAfterChange()
    app.canvas.setDirty(true, true)
  })
}

function withFilm(app, api, node) {
  const box = addBox(node, "fatezero_film", placeUnder(node, "fatezero_words"), LEAST_HEIGHT)
  const urlOf = ({ filename, subfolder, type }) =>
    api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
  const tidy = withoutPreview(app, node, () => keyOf(node))
  let film, last
  return () => {
    const films = filmsOf(app, node)
    if (films && films !== last) {
      last = films
      film ??= player(box, urlOf)
      film.show(films)
    }
    film?.draw()
    tidy(Boolean(film))
  }
}

function dress(app, api, node) {
  const isOurs = node.comfyClass?.startsWith("FateZero_")
  if (!isOurs && !node.subgraph?.nodes.some(inner => inner.comfyClass?.startsWith("FateZero_"))) return
  saveWithoutGaps(node)
  addSaid(node, addBox)
  const parts = [recall(app, node)]
  if (hasChips(node.comfyClass)) parts.push(withChips(app, node))
  if (hasFilm(node.comfyClass) || node.subgraph) parts.push(withFilm(app, api, node))
  const showsFilm = () => boxesOf(node).some(widget => widget.element.querySelector("canvas.fatezero-film"))
  parts.push(textFields(node, showsFilm), zeroWords(node))
  let heights
  const tick = () => {
    if (!node.graph) return // it is being made, or was just removed
    for (const part of parts) part()
    for (const widget of boxesOf(node)) takePlace(app, node, widget)
    const now = boxesOf(node).map(widget => widget.options.getMaxHeight()).join()
    if (now !== heights) node.setDirtyCanvas?.(true, true) // the classic canvas makes room when it is drawn
    heights = now
  }
  live.add(tick)
  const before = node.onRemoved
  node.onRemoved = function (...given) {
    live.delete(tick)
    for (const widget of boxesOf(node)) widget.element.dataset.leftBy = leftBy(node, widget)
    return before?.apply(this, given)
  }
}

/** Dress a subgraph when it stands in a graph: older pages throw away the widgets that it had before. */
function dressLater(app, api, node) {
  const tick = () => {
    if (!node.graph) return
    live.delete(tick)
    dress(app, api, node)
  }
  live.add(tick)
}

try {
  const [{ app }, { api }] = await Promise.all([import("../../scripts/app.js"), import("../../scripts/api.js")])
  const style = document.createElement("link")
  Object.assign(style, { rel: "stylesheet", href: new URL("./page.css", import.meta.url).href })
  document.head.append(style)
  app.registerExtension({
    name: "FateZero.Page",
    nodeCreated: node => guarded(() => (node.subgraph ? dressLater(app, api, node) : dress(app, api, node))),
  })
  followRuns(api)
  live.add(followSaid(app, api))
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
