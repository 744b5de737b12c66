// Text fields on a node. The classic canvas writes no names on them, and a film would take their room. Of one whose text
// comes from another node the page leaves the place empty, or shows in grey what is not used: there a line with the name
// remains, where the link ends.

import { isLinked } from "./prompt_texts.js"

const LINE = 20 // height of a widget on the classic canvas
const MARGIN = 10 // of the page around a field, in which its name stands
const MOST_KEPT = 100 // of a field's height that a film leaves to a text: five lines

const nameOf = widget => widget.label ?? widget.name
const isVue = () => globalThis.LiteGraph?.vueNodesMode

/**
 * Shape a node's text fields. Returns a function to be called again and again.
 * hasFilm(), isSeen(): whether the node shows a film, and whether its graph is looked at
 */
export function textFields(node, hasFilm, isSeen) {
  const isOwn = widget => !widget._overlay // a subgraph's may stand for one inside
  const fields = node.widgets?.filter(widget => widget.type === "customtext" && isOwn(widget)) ?? []
  const before = new Map() // greatest heights that fields had without a film: lines that come before it take room too
  const least = widget => (hasFilm() && String(widget.value).trim() ? Math.min(MOST_KEPT, before.get(widget) ?? 0) : 0)
  for (const widget of fields) shapeOnCanvas(node, widget, least)
  return () => {
    const rows = isVue() && isSeen() ? rowsOf(node, fields) : undefined
    for (const widget of hasFilm() ? [] : fields) {
      const height = isVue() ? rows?.of.get(widget)?.offsetHeight : widget.computedHeight
      if (height > (before.get(widget) ?? 0)) before.set(widget, height)
    }
    if (rows) shapeRows(node, rows, least)
  }
}

function shapeOnCanvas(node, widget, least) {
  const { computeLayoutSize, draw } = widget
  if (!computeLayoutSize) return
  widget.computeLayoutSize = function (host) {
    const size = computeLayoutSize.call(this, host) // of a subgraph that shows the field too, with another link
    if (host !== node) return size
    if (isLinked(node, widget.name)) return { ...size, minHeight: LINE, maxHeight: LINE }
    return { ...size, minHeight: Math.max(size.minHeight, least(widget)) }
  }
  widget.draw = function (pen, host, width, y, height, isRough) {
    draw?.call(this, pen, host, width, y, height, isRough)
    const isFolded = host === node && isLinked(node, widget.name)
    if (isRough && !isFolded) return
    pen.save()
    pen.fillStyle = globalThis.LiteGraph?.WIDGET_SECONDARY_TEXT_COLOR ?? "#999"
    Object.assign(pen, { textAlign: "left", textBaseline: "alphabetic" })
    if (!isFolded) pen.font = `${MARGIN}px sans-serif`
    pen.fillText(nameOf(widget), isFolded ? LINE : 1.5 * MARGIN, y + (isFolded ? 0.7 * LINE : MARGIN - 2))
    pen.restore()
  }
}

/** Rows of a node in Nodes 2.0: {grid, shown, of: each field's}; undefined where they are not as they are known. */
function rowsOf(node, fields) {
  const grid = document.querySelector(`[data-node-id="${CSS.escape(node.id)}"] .lg-node-widgets`)
  if (!grid) return undefined
  const shown = [...grid.children].filter(row => row.classList.contains("lg-node-widget"))
  const named = fields.map(widget => [
    widget,
    shown.find(row => row.querySelector("textarea") && row.querySelector("label")?.textContent.trim() === nameOf(widget)),
  ])
  return { grid, shown, of: new Map(named.filter(([, row]) => row)) }
}

/** Give each row the room it needs: Nodes 2.0 stretches those that hold text fields or boxes of a pack. */
function shapeRows(node, { grid, shown, of }, least) {
  const heights = grid.style.gridTemplateRows.split(" ")
  if (heights.length !== shown.length) return
  for (const [widget, row] of of) {
    const linked = isLinked(node, widget.name)
    row.toggleAttribute("data-fatezero-linked", linked)
    heights[shown.indexOf(row)] = linked ? "min-content" : "auto"
    const wanted = !linked && least(widget) ? `${least(widget)}px` : ""
    if (row.style.minHeight !== wanted) row.style.minHeight = wanted
  }
  shown.forEach((row, place) => {
    if (!row.querySelector(".fatezero-widget")) return
    heights[place] = row.querySelector(".fatezero-grows canvas") ? "auto" : "min-content"
  })
  const wanted = heights.join(" ")
  if (grid.style.gridTemplateRows !== wanted) grid.style.gridTemplateRows = wanted
}
