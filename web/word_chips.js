// Words of the prompts as buttons under them: a click puts a word into a list of the node, such as blend_words, or takes
// it out. The lists stay plain text that can be typed; what is typed shows on the buttons. A word that no longer stands
// in its prompt is struck out, and a click removes it.

import { told } from "./page_words.js"
import { isLinked, promptsOf, widgetOf } from "./prompt_texts.js"
import { entryWith, isIn, outside, read, toggled, without, wordsOf } from "./word_lists.js"

const ROWS = {
  FateZero_P2PEdit: [
    {
      of: "source",
      lists: {
        blend_words: { title: "Words to blend", auto: true, marked: true },
        subtract_words: { title: "Words to leave out of the mask", marked: true },
      },
    },
    {
      of: "edit",
      lists: {
        equalizer: { title: "Words to strengthen", withValues: true, value: "10" },
        word_windows: { title: "Words with times of their own", withValues: true, value: "0-0.5" },
        blend_edit_words: { title: "New words to blend", auto: true },
      },
    },
  ],
  FateZero_WordHeatMaps: [{ of: "source", lists: { words: { title: "Words to show", marked: true } } }],
}
const UNDER = { FateZero_P2PEdit: "negative_prompt", FateZero_WordHeatMaps: "words" }
const ONLY_CUSTOM = ["blend_words", "subtract_words", "blend_edit_words"]
const OF_STYLES = ["equalizer", "word_windows"] // they act with every kind, and are of use where words are added

export const hasChips = type => type in ROWS

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

/** Whether each edit prompt says all that a source prompt says, and more: a style is put around it. */
function addsWords(sources, edits) {
  const adds = (source, edit) => {
    const words = wordsOf([source])
    return words.length > 0 && words.every(word => isIn(word, edit)) && wordsOf([edit]).length > words.length
  }
  return sources.length > 0 && edits.length > 0 && edits.every(edit => sources.every(source => adds(source, edit)))
}

/** Whether words go into a list: it is typed, and the kind of the edit leaves its words to the user. */
function isUsed(node, name) {
  const widget = widgetOf(node, name)
  if (!widget || isLinked(node, name)) return false
  const kind = isLinked(node, "kind") ? "custom" : (widgetOf(node, "kind")?.value ?? "custom")
  if (kind === "custom") return true
  if (!OF_STYLES.includes(name)) return !ONLY_CUSTOM.includes(name)
  if (String(widget.value ?? "").trim()) return true
  return kind === "style" || (kind === "auto" && addsWords(promptsOf(node, "source"), promptsOf(node, "edit")))
}

/** Fill `box` with the buttons of a node; returns a function that brings them up to date. */
export function chips(node, box, setText) {
  const rows = ROWS[node.comfyClass].map(row => ({ ...row, chosen: Object.keys(row.lists)[0], seen: "" }))
  for (const row of rows) box.append((row.box = element("div", "fatezero-row")))

  function follow() {
    for (const row of rows) {
      const names = Object.keys(row.lists).filter(name => isUsed(node, name))
      if (!names.includes(row.chosen)) row.chosen = names[0]
      const texts = names.map(name => String(widgetOf(node, name).value ?? ""))
      const prompts = promptsOf(node, row.of)
      const now = JSON.stringify([names, row.chosen, texts, prompts])
      if (now === row.seen) continue
      row.seen = now
      draw(row, { names, texts, prompts })
    }
  }

  function draw(row, { names, texts, prompts }) {
    const textOf = name => texts[names.indexOf(name)] ?? ""
    const put = (name, changed) => () => (setText(widgetOf(node, name), changed(textOf(name))), follow())
    const tabs = names.map(name => {
      const choose = () => ((row.chosen = name), follow())
      const title = told("A click on a word puts it into {list}", { list: name })
      const tab = button("fatezero-tab", told(row.lists[name].title), title, choose)
      tab.ariaPressed = String(name === row.chosen)
      return tab
    })
    const list = row.lists[row.chosen]
    const entries = list ? read(textOf(row.chosen), list) : []
    const words = (list ? wordsOf(prompts) : []).map(word => {
      const entry = entryWith(word, entries)
      const shown = entry?.value === undefined ? word : `${word}: ${entry.value}`
      const title = told(entry ? "Take out of {list}" : "Put into {list}", { list: row.chosen })
      const chip = button("fatezero-chip", shown, title, put(row.chosen, now => toggled(now, word, list)))
      chip.ariaPressed = String(Boolean(entry))
      return chip
    })
    const others = names.flatMap(name => strangers(row, name, textOf(name), prompts).map(each => strange(each, put)))
    const head = element("div", "fatezero-head", told(`From the ${row.of} prompt:`))
    head.append(...tabs)
    const note = words.length ? [] : [element("span", "fatezero-note", told(whyNone(row, prompts)))]
    row.box.replaceChildren(head, ...words, ...others, ...note)
    row.box.hidden = !names.length
  }

  /** Entries of a list that are no words of the prompts: left over, looked for, or of prompts that are not known. */
  function strangers(row, name, text, prompts) {
    const list = row.lists[name]
    const isKnown = prompts.length > 0
    const found = isKnown ? outside(text, prompts, list) : read(text, list).map(({ phrase }) => ({ phrase }))
    const isShown = ({ looked }) => name === row.chosen || (isKnown && !looked)
    return found.filter(isShown).map(each => ({ ...each, name, list, isStale: isKnown && !each.looked, of: row.of }))
  }

  function strange({ phrase, looked, isStale, name, list, of }, put) {
    const why = looked ? "Looked for although the prompt does not say it. " : `Not in the ${of} prompt. `
    const title = (isStale || looked ? told(why) : "") + told("Click to take it out of {list}.", { list: name })
    const chip = button("fatezero-chip", phrase, title, put(name, now => without(now, phrase, list)))
    if (isStale) chip.classList.add("fatezero-stale")
    else chip.ariaPressed = "true"
    return chip
  }

  function whyNone(row, prompts) {
    if (prompts.length) return "Write the prompt to see its words."
    if (row.of === "source" && !isLinked(node, "controller")) return "Connect DDIM Inversion to see the words."
    return "These words are known when it runs."
  }

  return follow
}

export const chipsStandUnder = type => UNDER[type]
