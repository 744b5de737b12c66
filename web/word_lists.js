// The short lists of words in text widgets, read and written as the nodes do (nodes/text_lists.py):
// "silver jeep, road" and, with values, "watercolor: 10, jeep: 2". Nothing of the page is used here.

const SPACE = /[\s\x1c-\x1f\x85]+/
const AROUND = /^[.,;:!?"'()[\]{}]+|[.,;:!?"'()[\]{}]+$/g

const split = text => text.split(SPACE).filter(Boolean)
const stripped = word => word.replace(AROUND, "")
const bare = word => stripped(word).toLowerCase()

/** Whether a word, or several in a row, stand in a prompt: spelled so, or else without case and punctuation. */
export function isIn(phrase, prompt) {
  return [word => word, bare].some(normal => {
    const wanted = split(phrase).map(normal)
    const have = split(prompt).map(normal)
    return have.some((_, start) => wanted.length && wanted.every((word, i) => have[start + i] === word))
  })
}

/** The words that all prompts share and that can stand in a list, each once, in the first one's order. */
export function wordsOf(prompts) {
  const words = new Set(split(prompts[0] ?? "").map(stripped))
  return [...words].filter(word => word && !word.includes(",") && prompts.every(prompt => isIn(word, prompt)))
}

/** The entries {phrase, value} of a list; value is undefined where the list has no values or the entry lacks it. */
export function read(text, { withValues, auto }) {
  if (auto && text.trim() === "auto") return []
  const entries = text.split(/[\n,]/).map(entry => split(entry).join(" "))
  return entries.filter(Boolean).map(entry => {
    const colon = withValues ? entry.lastIndexOf(":") : -1
    if (colon < 1) return { phrase: entry }
    return { phrase: entry.slice(0, colon).trim(), value: entry.slice(colon + 1).trim() }
  })
}

function write(entries, { auto }) {
  const text = entries.map(({ phrase, value }) => (value === undefined ? phrase : `${phrase}: ${value}`)).join(", ")
  return auto && text === "auto" ? "auto," : text // alone it would mean a choice of the program
}

const isMarked = phrase => phrase.startsWith("+")

/** The entry that names a word, alone or in a phrase; a marked phrase, "+shadow", names no word of the prompt. */
export function entryWith(word, entries) {
  return entries.find(({ phrase }) => !isMarked(phrase) && split(phrase).some(each => bare(each) === bare(word)))
}

/** The list with a word added, or taken out where it is there: of "old red car", "red" leaves "old, car". */
export function toggled(text, word, list) {
  const entries = read(text, list)
  if (!entryWith(word, entries)) return write([...entries, { phrase: word, value: list.value }], list)
  const left = entries.flatMap(entry => {
    if (!entryWith(word, [entry])) return [entry]
    const parts = [[]]
    for (const each of split(entry.phrase)) {
      if (bare(each) === bare(word)) parts.push([])
      else parts.at(-1).push(each)
    }
    return parts.filter(part => part.length).map(part => ({ ...entry, phrase: part.join(" ") }))
  })
  return write(left, list)
}

/** The list without the entries of a phrase. */
export function without(text, phrase, list) {
  return write(read(text, list).filter(entry => entry.phrase !== phrase), list)
}

/** Entries that are no words of every prompt; `looked` are those that may be outside it because of their plus. */
export function outside(text, prompts, list) {
  const strange = read(text, list).filter(({ phrase }) => !prompts.every(prompt => isIn(phrase, prompt)))
  return strange.map(({ phrase }) => ({ phrase, looked: Boolean(list.marked) && isMarked(phrase) }))
}
