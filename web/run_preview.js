// The rough pictures of a run stay on a node when it has ended, larger than the film of its result: here they go, on
// the classic canvas. On Nodes 2.0 page.css hides them.

const PREVIEW = "$$canvas-image-preview" // the page's own widget for them
const ENDS = ["execution_success", "execution_error", "execution_interrupted"]

let running = false

/** Know from now on whether a run is going on. */
export function followRuns(api) {
  const becomes = now => () => {
    running = now
    document.body.toggleAttribute("data-fatezero-running", now)
  }
  api.addEventListener("execution_start", becomes(true))
  for (const end of ENDS) api.addEventListener(end, becomes(false))
}

/**
 * Take them from a node, and the room they took; `key`: the page's for them. Returns a function to be called again and
 * again, with whether the node has a film.
 */
export function withoutPreview(app, node, key) {
  let wasRunning = false
  let height // of the node when the run began
  return hasFilm => {
    if (running && !wasRunning) height = node.size[1]
    wasRunning = running
    if (running || !hasFilm) return
    const place = node.widgets.findIndex(widget => widget.name === PREVIEW)
    if (place < 0 && !app.nodePreviewImages?.[key()]) return
    node.imgs = undefined
    if (place >= 0) node.widgets.splice(place, 1)[0].onRemove?.()
    delete app.nodePreviewImages?.[key()]
    if (height < node.size[1]) node.setSize([node.size[0], height])
  }
}
