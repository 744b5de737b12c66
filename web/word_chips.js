// Words of the prompts as buttons under them: a click puts a word into a list of the node, such as blend_words, or takes
// it out. The lists stay plain text that can be typed; what is typed shows on the buttons. A word that no longer stands
// in its prompt is struck out, and a click removes it.

import { entryWith, outside, read, toggled, without, wordsOf } from "./word_lists.js"

const SOURCE_LIST = { auto: true, marked: true }
const ROWS = {
  FateZero_P2PEdit: [
    { of: "source", lists: { blend_words: SOURCE_LIST, subtract_words: { marked: true } } },
    {
      of: "edit",
      lists: {
        equalizer: { withValues: true, value: "10" },
        word_windows: { withValues: true, value: "0-0.5" },
        blend_edit_words: { auto: true },
      },
    },
  ],
  FateZero_WordHeatMaps: [{ of: "source", lists: { words: { marked: true } } }],
}
const UNDER = { FateZero_P2PEdit: "negative_prompt", FateZero_WordHeatMaps: "words" }
const ONLY_CUSTOM = ["blend_words", "subtract_words", "blend_edit_words"]
const MOST_HOPS = 100 // a file may link reroutes in a circle

export const hasChips = type => type in ROWS

const inputOf = (node, name) => node.inputs?.find(input => input.name === name)
const widgetOf = (node, name) => node.widgets?.find(widget => widget.name === name)
const isLinked = (node, name) => inputOf(node, name)?.link != null

/** The node that an input is linked to, past reroutes; undefined where there is none, or it is outside the graph. */
function sourceOf(node, name) {
  let source = node.getInputNode(node.inputs.indexOf(inputOf(node, name)))
  for (let hops = 0; source?.type === "Reroute" && hops < MOST_HOPS; hops++) source = source.getInputNode(0)
  return source ?? undefined
}

/** The texts that a prompt will have, one for each run; [] where they are known only when it runs. */
function textsOf(node, name) {
  if (!isLinked(node, name)) return [String(widgetOf(node, name)?.value ?? "")]
  const source = sourceOf(node, name)
  if (source?.type === "FateZero_EditPrompts") {
    return textsOf(source, "prompts").flatMap(text => text.split("\n").filter(line => line.trim()))
  }
  return /^Primitive(String|StringMultiline|Node)$/.test(source?.type) ? textsOf(source, "value") : []
}

function promptsOf(node, which) {
  if (which === "edit") return textsOf(node, "edit_prompt")
  const inversion = isLinked(node, "controller") ? sourceOf(node, "controller") : undefined
  return inversion?.type === "FateZero_DDIMInvert" ? textsOf(inversion, "source_prompt") : []
}

function element(tag, className, text) {
  const made = document.createElement(tag)
  made.className = className
  made.textContent = text ?? "" // prompts of other people's workflows are text here, never HTML
  return made
}

function button(className, text, title, onClick) {
  const made = element("button", className, text)
  made.type = "button"
  made.title = title
  made.addEventListener("click", onClick)
  return made
}

/** Whether words go into a list: it is typed, and every kind but custom chooses the words of the mask itself. */
function isUsed(node, name) {
  const kind = isLinked(node, "kind") ? "custom" : (widgetOf(node, "kind")?.value ?? "custom")
  return widgetOf(node, name) && !isLinked(node, name) && (kind === "custom" || !ONLY_CUSTOM.includes(name))
}

/** Fill `box` with the buttons of a node; returns a function that brings them up to date. */
export function chips(node, box, setText) {
  const rows = ROWS[node.comfyClass].map(row => ({ ...row, chosen: Object.keys(row.lists)[0], seen: "" }))
  for (const row of rows) box.append((row.box = element("div", "fatezero-row")))

  function follow() {
    for (const row of rows) {
      const names = Object.keys(row.lists).filter(name => isUsed(node, name))
      if (!names.includes(row.chosen)) row.chosen = names[0]
      const text = String(widgetOf(node, row.chosen)?.value ?? "")
      const prompts = promptsOf(node, row.of)
      const now = JSON.stringify([names, row.chosen, text, prompts])
      if (now === row.seen) continue
      row.seen = now
      draw(row, { names, text, prompts })
    }
  }

  function draw(row, { names, text, prompts }) {
    const list = row.lists[row.chosen]
    const put = changed => () => (setText(widgetOf(node, row.chosen), changed(text)), follow())
    const tabs = names.map(name => {
      const tab = button("fatezero-tab", widgetOf(node, name).label ?? name, `Words go into ${name}`, () => {
        row.chosen = name
        follow()
      })
      tab.ariaPressed = String(name === row.chosen)
      return tab
    })
    const entries = list ? read(text, list) : []
    const words = (list ? wordsOf(prompts) : []).map(word => {
      const entry = entryWith(word, entries)
      const shown = entry?.value === undefined ? word : `${word}: ${entry.value}`
      const title = `${entry ? "Take out of" : "Put into"} ${row.chosen}`
      const chip = button("fatezero-chip", shown, title, put(now => toggled(now, word, list)))
      chip.ariaPressed = String(Boolean(entry))
      return chip
    })
    const strange = (prompts.length ? outside(text, prompts, list ?? {}) : []).map(({ phrase, looked }) => {
      const title = looked ? "Looked for although the prompt does not say it" : `No words of the ${row.of} prompt`
      const remove = put(now => without(now, phrase, list))
      const chip = button("fatezero-chip", phrase, `${title}. Click to take it out.`, remove)
      if (looked) chip.ariaPressed = "true"
      else chip.classList.add("fatezero-stale")
      return chip
    })
    const head = element("div", "fatezero-head", `${row.of} words in`)
    head.append(...tabs)
    const all = [...words, ...strange]
    row.box.replaceChildren(head, ...(all.length ? all : [element("span", "fatezero-note", whyNone(row, prompts))]))
    row.box.hidden = !names.length
  }

  function whyNone(row, prompts) {
    if (prompts.length) return "Write the prompt to see its words."
    if (row.of === "source" && !isLinked(node, "controller")) return "Connect DDIM Inversion to see the words."
    return "These words are known when it runs."
  }

  return follow
}

export const chipsStandUnder = type => UNDER[type]
