// Words in place of a 0 that leaves a choice to the program. The value stays 0: what is typed, saved and queued.

import { told } from "./page_words.js"
import { isLinked } from "./prompt_texts.js"

export const ZERO = {
  FateZero_VideoEdit: { frames: "auto", size: "auto", steps: "auto", frames_at_once: "auto" },
  FateZero_DDIMInvert: { frames_at_once: "auto" },
  FateZero_P2PEdit: { frames_at_once: "auto", drafts: "auto" },
  FateZero_LoadFrames: { count: "all", short_side: "as it is" },
  FateZero_PrepareFrames: { count: "all", short_side: "as it is" },
  FateZero_AttentionStoreCache: { budget_gb: "auto" },
}

/**
 * Show the words on a node; returns a function to be called again and again, for Nodes 2.0.
 * isSeen(): whether its graph is looked at
 */
export function zeroWords(node, isSeen) {
  const words = Object.entries(ZERO[node.comfyClass] ?? {})
  const shown = words.map(([name, word]) => ({ word, widget: node.widgets?.find(widget => widget.name === name) }))
  const there = shown.filter(({ widget }) => widget)
  for (const { widget, word } of there) onCanvas(widget, word)
  return () => globalThis.LiteGraph?.vueNodesMode && there.length && isSeen() && inRows(node, there)
}

/** The classic canvas draws what a widget's `_displayValue` gives; '' where another node brings the value. */
function onCanvas(widget, word) {
  let kind = widget
  while (kind && !Object.hasOwn(kind, "_displayValue")) kind = Object.getPrototypeOf(kind)
  const { get } = (kind && Object.getOwnPropertyDescriptor(kind, "_displayValue")) ?? {}
  if (!get) return
  Object.defineProperty(widget, "_displayValue", {
    configurable: true,
    get() {
      const text = get.call(this)
      return text && Number(this.value) === 0 ? told(word) : text
    },
  })
}

/** Nodes 2.0 has a field of its own for the number: the word lies over it, by page.css, until it is edited. */
function inRows(node, there) {
  const whole = document.querySelector(`[data-node-id="${CSS.escape(node.id)}"]`)
  for (const { widget, word } of whole ? there : []) {
    const labelled = whole.querySelector(`[aria-label="${widget.name}"]`)
    const field = labelled?.matches("input") ? labelled : labelled?.querySelector("input")
    const place = field?.parentElement
    const wanted = Number(widget.value) === 0 && !isLinked(node, widget.name) ? told(word) : undefined
    if (!place || place.dataset.fatezeroZero === wanted) continue
    if (wanted) Object.assign(place.dataset, { fatezeroZero: wanted })
    else delete place.dataset.fatezeroZero
    if (wanted) field.setAttribute("aria-valuetext", wanted)
    else field.removeAttribute("aria-valuetext")
  }
}
