// Puts the chips (word_chips.js), the film (film.js), what is said (said.js) and words for 0 (zero_words.js) on the
// nodes, on the classic canvas and on Nodes 2.0, and makes room for them (text_fields.js, run_preview.js). Nodes work the
// same without them. Whatever this page lacks or refuses leaves a part out, with a warning in the console.

import { chips, chipsStandUnder, hasChips } from "./word_chips.js"
import { hasFilm, LEAST_HEIGHT, player } from "./film.js"
import { speak } from "./page_words.js"
import { boxesOf as boxesAround } from "./prompt_texts.js"
import { followRuns, withoutPreview } from "./run_preview.js"
import { filmOf, isReceived, rootOf } from "./run_results.js"
import { addSaid, followSaid, resultsOf } from "./said.js"
import { textFields } from "./text_fields.js"
import { zeroWords } from "./zero_words.js"

const TICK = 125 // milliseconds
const MARGIN = 10 // of the page, around a widget

const MOST_ABSENT = 80 // ticks after which a node that stands in no graph is forgotten

const live = new Set() // functions called at every tick, one for each node
const warned = new Set() // what was told in the console

/** Do `work`; a failure is told, each once, and stops nothing else. */
function guarded(work) {
  try {
    return work()
  } catch (error) {
    if (!warned.has(String(error))) console.warn("FateZero: a part of the page is left out.", error)
    warned.add(String(error))
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
const filmsOf = (app, node) => seenFilms(node) ?? loadedFilms(app, node)
const seenFilms = node => resultsOf(node).map(filmOf).findLast(Boolean)

/**
 * Films of a run that this page did not follow, as one of the history; those of nodes inside others have longer keys. The
 * page tells not of which box of a subgraph they are.
 */
function loadedFilms(app, node) {
  if (node.subgraph && boxesAround(node.subgraph).length > 1) return undefined
  if (node.subgraph) return node.subgraph.nodes.map(inner => loadedFilms(app, inner)).findLast(Boolean)
  if (!hasFilm(node.comfyClass)) return undefined
  const outputs = Object.entries(app.nodeOutputs ?? {})
  const own = outputs.filter(([key]) => key === keyOf(node) || key.startsWith(`${keyOf(node)}.`))
  return own.map(([, output]) => output?.fatezero_film).findLast(films => films?.length && !isReceived(films))
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
  const names = films => JSON.stringify(films?.map(({ filename }) => filename))
  let film, last
  const close = () => {
    film = undefined
    box.replaceChildren()
  }
  return () => {
    const films = filmsOf(app, node)
    if (names(films) !== last) {
      last = names(films)
      if (!films) close()
      else (film ??= player(box, urlOf, close)).show(films)
    }
    film?.draw()
    tidy(Boolean(film))
  }
}

/** Whether a node stands in a graph of the workflow: the page tells those in subgraphs nothing when it clears them. */
function isThere(app, node) {
  const { graph } = node
  if (graph?.getNodeById(node.id) !== node) return false
  const root = graph.rootGraph ?? graph
  if (rootOf(app) !== root) return false
  return graph === root || root.subgraphs?.get(graph.id) === graph
}

/** Do `work` again and again while a node stands in a graph; `gone` when it does not any more. */
function follow(app, node, work, gone) {
  let absent = 0
  const tick = () => {
    absent = isThere(app, node) ? 0 : absent + 1
    if (!absent) work()
    if (absent === 1) gone()
    if (absent > MOST_ABSENT) live.delete(tick)
  }
  const { onAdded, onRemoved } = node
  node.onAdded = function (...given) {
    live.add(tick)
    return onAdded?.apply(this, given)
  }
  node.onRemoved = function (...given) {
    live.delete(tick)
    gone()
    return onRemoved?.apply(this, given)
  }
  if (isThere(app, node)) live.add(tick)
}

/** Whether a node is ours, or a subgraph's box that one of ours is in. */
const isOurs = node => node.comfyClass?.startsWith("FateZero_") || node.subgraph?.nodes.some(isOurs)

function dress(app, api, said, node) {
  saveWithoutGaps(node)
  addSaid(node, addBox)
  const isSeen = () => node.graph === app.canvas.graph // nodes of other graphs may have the same id
  const showsFilm = () => boxesOf(node).some(widget => widget.element.querySelector("canvas.fatezero-film"))
  let parts = [() => said.show(node)]
  if (hasChips(node.comfyClass)) parts.push(withChips(app, node))
  if (hasFilm(node.comfyClass) || node.subgraph) parts.push(withFilm(app, api, node))
  parts.push(textFields(node, showsFilm, isSeen), zeroWords(node, isSeen))
  let heights
  parts.push(() => {
    for (const widget of boxesOf(node)) takePlace(app, node, widget)
    const now = boxesOf(node).map(widget => widget.options.getMaxHeight()).join()
    if (now !== heights) node.setDirtyCanvas?.(true, true) // the classic canvas makes room when it is drawn
    heights = now
  })
  const work = () => (parts = parts.filter(part => guarded(() => (part(), true))))
  follow(app, node, work, () => {
    for (const widget of boxesOf(node)) widget.element.dataset.leftBy = leftBy(node, widget)
  })
}

/**
 * Dress a subgraph when it stands in a graph: older pages throw away the widgets that it had before. One of our nodes may
 * come into it later.
 */
function dressLater(app, api, said, node) {
  let isDressed = false
  const work = () => {
    if (isDressed || !isOurs(node)) return
    isDressed = true
    dress(app, api, said, node)
  }
  follow(app, node, work, () => undefined)
}

try {
  const [{ app }, { api }] = await Promise.all([import("../../scripts/app.js"), import("../../scripts/api.js")])
  const style = document.createElement("link")
  Object.assign(style, { rel: "stylesheet", href: new URL("./page.css", import.meta.url).href })
  document.head.append(style)
  speak(() => app.extensionManager?.setting?.get?.("Comfy.Locale"))
  const said = followSaid(app, api)
  const nodeCreated = node => {
    if (node.subgraph) guarded(() => dressLater(app, api, said, node))
    else if (isOurs(node)) guarded(() => dress(app, api, said, node))
  }
  app.registerExtension({ name: "FateZero.Page", nodeCreated })
  followRuns(api)
  live.add(() => guarded(said.tick))
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
