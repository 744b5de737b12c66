// Text fields whose text comes from another node: the page leaves their place empty, or shows in grey what is not used.
// A line with the name remains, where the link ends.

const LINE = 20 // height of a widget on the classic canvas

const isLinked = (node, name) => node.inputs?.find(input => input.name === name)?.link != null
const nameOf = widget => widget.label ?? widget.name

/** Let a node's text fields give up their room; returns a function to be called again and again, for Nodes 2.0. */
export function linkedTexts(node) {
  const fields = node.widgets?.filter(widget => widget.type === "customtext") ?? []
  for (const widget of fields) foldOnCanvas(node, widget)
  return () => globalThis.LiteGraph?.vueNodesMode && foldRows(node, fields)
}

function foldOnCanvas(node, widget) {
  const { computeLayoutSize, draw } = widget
  widget.computeLayoutSize = function (host) {
    const size = computeLayoutSize.call(this, host) // of a subgraph that shows the field too, with another link
    return host === node && isLinked(node, widget.name) ? { ...size, minHeight: LINE, maxHeight: LINE } : size
  }
  widget.draw = function (pen, ...given) {
    draw?.call(this, pen, ...given)
    if (given[0] !== node || !isLinked(node, widget.name)) return
    pen.fillStyle = globalThis.LiteGraph?.WIDGET_SECONDARY_TEXT_COLOR ?? "#999"
    pen.textAlign = "left"
    pen.fillText(nameOf(widget), LINE, widget.y + 0.7 * LINE)
  }
}

/** Nodes 2.0 lays widgets out in rows, of which it stretches those that hold text fields or boxes of a pack. */
function foldRows(node, fields) {
  const rows = document.querySelector(`[data-node-id="${node.id}"] .lg-node-widgets`)
  if (!rows) return
  const heights = rows.style.gridTemplateRows.split(" ")
  const shown = [...rows.children].filter(row => row.classList.contains("lg-node-widget"))
  if (heights.length !== shown.length) return
  shown.forEach((row, place) => {
    const name = row.querySelector("textarea") && row.querySelector("label")?.textContent.trim()
    const field = fields.find(widget => name === nameOf(widget))
    if (field) {
      const linked = isLinked(node, field.name)
      row.toggleAttribute("data-fatezero-linked", linked)
      heights[place] = linked ? "min-content" : "auto"
    } else if (row.querySelector(".fatezero-widget")) {
      heights[place] = row.querySelector(".fatezero-grows canvas") ? "auto" : "min-content"
    }
  })
  const wanted = heights.join(" ")
  if (rows.style.gridTemplateRows !== wanted) rows.style.gridTemplateRows = wanted
}
